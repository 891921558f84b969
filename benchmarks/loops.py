"""What the machine code of layers of the networks says, in fp16 for an H100, with no GPU: how many instructions a step
of the main loop takes; and how long the launch is predicted to take by it, beside what its tile alone tells.

    python -m benchmarks.loops [--only SUBSTRING]

Writes benchmarks/results/loops.json (whole runs only).
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import record
from optgraph.ahead import build, cubins
from optgraph.ahead.machines import machine
from optgraph.base.devices import BEST, SM_90, WORST
from optgraph.cost.machine_code import Loop, main_loop
from optgraph.cost.walk import demand
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d, depthwise, separable
from optgraph.kernels.frame.demand import expected
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.occupancy import blocks_per_sm
from optgraph.kernels.frame.sample import image, window_sample
from optgraph.kernels.pool import POOL
from optgraph.tune.layers import Layer

SAME, HALF, ENDS = Window((3, 3), pads=(1, 1, 1, 1)), Window((3, 3), stride=(2, 2)), Epilogue(True, RELU)
BEFORE = Prologue(act=RELU)


def layers() -> dict[str, Layer]:
    """By what they are."""
    stem = {"x": image(8, 299, 299, 3, dtype="float32", planes=True), "after": ENDS}
    middle, entry = (128, 19, 19, 728), (128, 147, 147, 128)
    found = {
        "stem, 299² × 3": (conv2d.CONV2D, conv2d.sample((8, 299, 299, 3), 32, HALF, **stem)),
        "3×3, 35² × 96": (conv2d.CONV2D, conv2d.sample((64, 35, 35, 96), 96, SAME, after=ENDS)),
        "1×7, 17² × 192": (
            conv2d.CONV2D,
            conv2d.sample((64, 17, 17, 192), 192, Window((1, 7), pads=(0, 3, 0, 3)), after=ENDS),
        ),
        "3×3 of stride 2, 35² × 288": (conv2d.CONV2D, conv2d.sample((8, 35, 35, 288), 384, HALF, after=ENDS)),
        "3×3, 8² × 448, batch 1": (conv2d.CONV2D, conv2d.sample((1, 8, 8, 448), 384, SAME, after=ENDS)),
        "separable, 19² × 728": (separable.SEPARABLE, _separable(middle, 728)),
        "separable, 19² × 728, batch 1": (separable.SEPARABLE, _separable((1, 19, 19, 728), 728)),
        "separable, 147² × 128": (separable.SEPARABLE, _separable(entry, 128)),
        "separable, 74² × 128": (separable.SEPARABLE, _separable((128, 74, 74, 128), 256)),
        "depthwise, 19² × 728": (depthwise.DEPTHWISE, _depthwise(middle)),
        "depthwise, 19² × 728, batch 1": (depthwise.DEPTHWISE, _depthwise((1, 19, 19, 728))),
        "average, 35² × 192": (POOL, _pool((128, 35, 35, 192), SAME, "average")),
        "maximum of stride 2, 35² × 288": (POOL, _pool((128, 35, 35, 288), HALF, "max")),
    }
    return {name: Layer(kernel, sample.typed("fp16")) for name, (kernel, sample) in found.items()}


def _separable(shape: tuple[int, int, int, int], columns: int) -> Any:
    return separable.sample(shape, columns, SAME, depthwise_bias=False, before=BEFORE)


def _depthwise(shape: tuple[int, int, int, int]) -> Any:
    return depthwise.sample(shape, SAME, before=BEFORE, after=Epilogue())


def _pool(shape: tuple[int, int, int, int], window: Window, kind: str) -> Any:
    return window_sample(shape, shape[3], window, kind=kind, after=Epilogue())


def step(code: Loop, rows: int = 1) -> int:
    """Instructions of a warp in one step of the main loop. rows: how often the loops inside it go round in one step."""
    main = main_loop(code)
    return len(main.own) + rows * (len(list(main.flat)) - len(main.own))


def measure(name: str, layer: Layer) -> dict[str, Any]:
    """The row of one layer."""
    launch = layer.dry(SM_90)
    use = build.Use(cubins.key(launch.variant, SM_90), launch.variant, SM_90, {}, 0)
    (cubin,) = build.build([use])
    found, program = machine(cubin), launch.work.of_program(launch.programs)
    by_tile = expected(launch, SM_90.device, True)
    row: dict[str, Any] = {
        "graph": name,
        "tile": use.description,
        "warps": cubin.num_warps,
        "registers": cubin.registers,
        "spill_bytes": cubin.spill_bytes,
        "blocks_per_sm": blocks_per_sm(cubin.registers, cubin.shared_bytes, cubin.num_warps, SM_90.device),
        "us": {"tile": [1e6 * s for s in by_tile.time]},
        "bound": {"tile": by_tile.bound},
    }
    if found is not None:  # else its warps go different ways
        demands = [demand(found, program, "fp16", SM_90.device, end) for end in (BEST, WORST)]
        by_code = expected(launch, SM_90.device, True, demands)
        row |= {"instructions": len(list(found.code.flat)), "step": step(found.code, program.rows)}
        row["us"]["code"], row["bound"]["code"] = [1e6 * s for s in by_code.time], by_code.bound
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="layers whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    for name, layer in layers().items():
        if options.only in name:
            rows.append(measure(name, layer))
            print(rows[-1], flush=True)
    if not options.only:
        print(record.write("loops", rows, dtype="fp16", target=str(SM_90)))


if __name__ == "__main__":
    main()
