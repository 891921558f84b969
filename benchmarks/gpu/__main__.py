"""`make gpu`: the steps, for a limited time. Call it until it says that all is done.

    python -m benchmarks.gpu [--minutes 9] [--out FOLDER] [--steps probe,smoke,...] [--commit HASH] [--carried FILE]

Needs an NVIDIA GPU, torch and Triton, and no installation: run it in the root of the checkout. FOLDER gets a file for
each step, what it printed in logs/, and gpu.txt, which is what this prints at the end. What is in benchmarks/results
and not in FOLDER is taken over first, so that a machine that is bare again goes on too. Tests and race use the tiles in
FOLDER/tuned, as far as there are some; to ship these, copy them to optgraph/tuned/.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks import record
from benchmarks.gpu import report, steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="end after this long")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="where results go")
    names = ",".join(step.name for step in steps.STEPS)
    parser.add_argument("--steps", default=",".join(steps.DEFAULT), help=f"some of {names}, in this order")
    parser.add_argument("--commit", default="", help="what is measured, where there is no git to ask")
    parser.add_argument("--carried", type=Path, help="cubins that benchmarks.gpu.carried compiled")
    options = parser.parse_args()
    wanted, known = options.steps.split(","), {step.name: step for step in steps.STEPS}
    if unknown := set(wanted) - set(known):
        parser.error(f"no step {', '.join(sorted(unknown))}: use {', '.join(known)}")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.exit("make gpu needs an NVIDIA GPU: its driver, libcuda.so.1, is not here")
    out = options.out.resolve()
    environment = steps.environment(out, options.commit)
    if options.carried:
        environment |= steps.carry(options.carried.resolve())
    chosen = [step for name, step in known.items() if name in wanted]
    found = steps.run(chosen, out, options.minutes, environment, steps.start(out))
    try:
        lines = [*report.report(out), "", *steps.told(found)]
    except Exception as reason:  # a row that it does not understand: what was measured is in the files all the same
        lines = [f"no report: {type(reason).__name__}: {reason}", *steps.told(found)]
    unfinished = any(step.left for step in found.values())
    lines.append("call it again to go on" if unfinished else "all done, but for what failed")
    (out / "gpu.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(["", *lines, f"results in {out}"]))
    with suppress(ImportError):  # without matplotlib there is no plot
        report.plot_file(out)
    return int(any(step.state == "failed" for step in found.values()))


if __name__ == "__main__":
    sys.exit(main())
