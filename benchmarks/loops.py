"""How many instructions a step of a kernel's main loop takes: read from the machine code of layers of the networks, in
fp16 for an H100, with no GPU.

    python -m benchmarks.loops [--only SUBSTRING]

Writes benchmarks/results/loops.json (whole runs only).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from optgraph.ahead import build, cubins
from optgraph.base.devices import SM_90
from optgraph.cost.occupancy import blocks_per_sm
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d, depthwise, separable
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.sample import image, window_sample
from optgraph.kernels.pool import POOL
from optgraph.tune.layers import Layer

SAME, HALF, ENDS = Window((3, 3), pads=(1, 1, 1, 1)), Window((3, 3), stride=(2, 2)), Epilogue(True, RELU)
BEFORE = Prologue(act=RELU)

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
_PRODUCT = re.compile(r"HG?MMA")


class Instruction(NamedTuple):
    """One of machine code. target: where a branch goes to."""

    address: int
    name: str
    target: int | None


class Loop(NamedTuple):
    """From its first instruction to the branch back."""

    first: int
    last: int

    def has(self, address: int) -> bool:
        return self.first <= address <= self.last


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


def disassembled(code: bytes) -> list[Instruction]:
    """The machine code in a cubin, by NVIDIA's cuobjdump, which comes with Triton."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    found = []
    for address, name, rest in _INSTRUCTION.findall(text):
        target = re.search(r"0x([0-9a-f]+)", rest) if name.startswith("BRA") else None
        found.append(Instruction(int(address, 16), name, int(target[1], 16) if target else None))
    return found


def step(code: Sequence[Instruction], rows: int = 1) -> int:
    """Instructions of a warp in one step of the main loop: the innermost that multiplies on tensor cores, or else the
    longest. rows: how often the loops inside it go round in one step. All of the kernel, if it has no loop."""
    loops = {Loop(i.target, i.address) for i in code if i.target is not None and i.target < i.address}
    sizes = {loop: sum(loop.has(i.address) for i in code) for loop in loops}
    multiplying = [p for p in loops if any(p.has(i.address) and _PRODUCT.match(i.name) for i in code)]
    if not loops:
        return len(code)
    main = min(multiplying, key=sizes.__getitem__) if multiplying else max(loops, key=sizes.__getitem__)
    inside = [p for p in loops if p != main and main.has(p.first) and main.has(p.last)]
    repeated = sum(any(p.has(i.address) for p in inside) for i in code)
    return sizes[main] + (rows - 1) * repeated


def measure(name: str, layer: Layer) -> dict[str, Any]:
    """The row of one layer."""
    launch = layer.dry(SM_90)
    use = build.Use(cubins.key(launch.variant, SM_90), launch.variant, SM_90, {}, 0)
    (cubin,) = build.build([use])
    code = disassembled(cubin.code)
    return {
        "graph": name,
        "tile": use.description,
        "warps": cubin.num_warps,
        "registers": cubin.registers,
        "spill_bytes": cubin.spill_bytes,
        "blocks_per_sm": blocks_per_sm(cubin.registers, cubin.shared_bytes, cubin.num_warps, SM_90),
        "instructions": len(code),
        "step": step(code, launch.constants.get("KH") or 1),
    }


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
