"""A libcuda on top of the emulator, with the rules that the driver's manual states; what breaks one gets an error.

`optgraph.run.driver` takes it as its `library`.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.emulator.blocks import Parameters
from tests.emulator.instructions import Executable, executable
from tests.emulator.memory import Allowed, BeforeWait, Regions
from tests.emulator.schedule import EARLY, Schedule, run
from tests.emulator.tensor_maps import TensorMap

_INVALID_VALUE, _MAX_DYNAMIC_SHARED = 1, 8
_SHARED_BY_DEFAULT = 48 << 10
# "Maximum amount of shared memory per thread block", CUDA C++ Programming Guide; 99 KiB elsewhere.
_MOST_SHARED = {(7, 5): 64, (8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
_ITEM = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8, 9: 2, 10: 4, 11: 4, 12: 4}  # of CUtensorMapDataType
_MAP, _MAP_BYTES, _MAP_ALIGNMENT = b"TMAP", 128, 128
_SMALL, _SMALL_BIT = 128 << 10, 64 + 21  # bytes of a tensor, and the bit of its map that must not be there then
_CONFIG, _ATTRIBUTE = struct.Struct("<7I4xQQI4x"), struct.Struct("<i4xi60s")  # CUlaunchConfig, CUlaunchAttribute
_EARLY = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_FIRST_MODULE, _FIRST_FUNCTION, _CONTEXT = 0x1000, 0xF000, 0xC0


@dataclass
class _Function:
    program: Executable
    shared: int = _SHARED_BY_DEFAULT  # bytes it may be launched with


@lru_cache(256)
def _executable(ptx: str) -> Executable:
    return executable(ptx)


class FakeCuda:
    """Of a GPU of that compute capability.

    version: the driver's. regions: what the next launch may touch. schedule: how it runs. counts, early: launches by
    entry, and those of them that begin before earlier ones end. written: where launches so far, and the next, write.
    """

    def __init__(self, capability: tuple[int, int], schedule: Schedule = EARLY, version: int = 13010) -> None:
        self.capability, self.schedule, self.version = capability, schedule, version
        self.regions: Allowed = Regions(())
        self.written: set[tuple[int, int]] = set()
        self.counts: Counter[str] = Counter()
        self.early: Counter[str] = Counter()
        self._ptx: dict[str, str] = {}
        self._modules: list[Executable] = []
        self._functions: list[_Function] = []
        self._maps: list[TensorMap] = []
        self._context = 0
        self._message = b""

    def learn(self, code: bytes, ptx: str) -> None:
        """Machine code `code` was made of `ptx`."""
        self._ptx[hashlib.sha256(code).hexdigest()] = ptx

    def _keeps_bit(self, made: TensorMap) -> bool:
        """Whether a tensor map is to be as this driver encoded it: up to CUDA 13.1, those of small tensors are not."""
        return self.version > 13010 or made.extent >= _SMALL

    def _refuse(self, text: str) -> int:
        self._message = text.encode()
        return _INVALID_VALUE

    # The driver's functions, by its names.

    def cuGetErrorString(self, code: Any, out: Any) -> int:  # noqa: N802
        out._obj.value = self._message
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self.version
        return 0

    def cuCtxGetCurrent(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self._context
        return 0

    def cuDevicePrimaryCtxRetain(self, out: Any, device: Any) -> int:  # noqa: N802
        out._obj.value = _CONTEXT
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        self._context = context.value
        return 0

    def cuModuleLoadData(self, out: Any, code: bytes) -> int:  # noqa: N802
        if not self._context:
            return self._refuse("there is no current context")
        ptx = self._ptx.get(hashlib.sha256(code).hexdigest()) or (code.decode() if code[:2] == b"//" else "")
        if not ptx:
            return self._refuse("the emulator has no PTX of this cubin")
        program = _executable(ptx)
        number = program.program.target.removeprefix("sm_")
        major, minor = divmod(int(number.rstrip("af")), 10)
        exact = number.endswith("a") and (major, minor) != self.capability
        if exact or major != self.capability[0] or minor > self.capability[1]:
            return self._refuse(f"no kernel image for this GPU: it is for sm_{number}")
        out._obj.value = _FIRST_MODULE + len(self._modules)
        self._modules.append(program)
        return 0

    def cuModuleGetFunction(self, out: Any, module: Any, name: bytes) -> int:  # noqa: N802
        program = self._modules[module.value - _FIRST_MODULE]
        if name.decode() != program.program.entry:
            return self._refuse(f"named symbol not found: {name.decode()}")
        out._obj.value = _FIRST_FUNCTION + len(self._functions)
        self._functions.append(_Function(program))
        return 0

    def cuFuncSetCacheConfig(self, function: Any, config: Any) -> int:  # noqa: N802
        return 0 if config.value in range(4) else self._refuse("cache config")

    def cuFuncSetAttribute(self, function: Any, attribute: Any, value: Any) -> int:  # noqa: N802
        if attribute.value != _MAX_DYNAMIC_SHARED:
            return self._refuse(f"attribute {attribute.value}")
        most = _MOST_SHARED.get(self.capability, 99) << 10
        if value.value > most:
            return self._refuse(f"{value.value} bytes of shared memory, {most} is the most")
        self._functions[function.value - _FIRST_FUNCTION].shared = value.value
        return 0

    def cuTensorMapEncodeTiled(  # noqa: N802
        self,
        out: Any,
        element: Any,
        rank: Any,
        address: Any,
        sizes: Any,
        strides: Any,
        box: Any,
        steps: Any,
        interleave: Any,
        swizzle: Any,
        promotion: Any,
        fill: Any,
    ) -> int:
        n = rank.value
        made = TensorMap(
            _ITEM.get(element.value, 0),
            address.value or 0,
            tuple(sizes)[:n],
            tuple(strides)[: n - 1],
            tuple(box)[:n],
            swizzle.value,
        )
        flaw = "tensor maps need compute capability 9.0" if self.capability < (9, 0) else _flaw(made, n)
        if not flaw and (any(step != 1 for step in steps[:n]) or interleave.value or fill.value):
            flaw = "steps, interleave or fill"
        if not flaw and (ctypes.addressof(out) % _MAP_ALIGNMENT or not 0 <= promotion.value <= 3):
            flaw = f"the map is not on {_MAP_ALIGNMENT} bytes, or its promotion is none"
        if flaw:
            return self._refuse(flaw)
        raw = int.from_bytes(_MAP + len(self._maps).to_bytes(4, "little"), "little") | 1 << _SMALL_BIT
        ctypes.memmove(out, raw.to_bytes(_MAP_BYTES, "little"), _MAP_BYTES)
        self._maps.append(made)
        return 0

    def cuLaunchKernelEx(self, config: Any, function: Any, pointers: Any, extra: Any) -> int:  # noqa: N802
        grid, block, shared, attributes = _configured(ctypes.addressof(config._obj))
        early = bool(attributes)
        if early and attributes != [(_EARLY, 1, bytes(60))]:
            return self._refuse("a launch attribute")
        if early and (self.capability < (9, 0) or not self.counts):
            return self._refuse("a launch is to begin early where none can, or where there is none before it")
        found = self._functions[function.value - _FIRST_FUNCTION]
        program = found.program.program
        if not (1 <= grid[0] < 1 << 31 and 1 <= grid[1] < 1 << 16 and 1 <= grid[2] < 1 << 16):
            return self._refuse(f"grid {grid}")
        if block != (program.threads, 1, 1) or program.threads > 1024:
            return self._refuse(f"blocks of {block} threads, compiled for {program.threads}")
        if shared > found.shared:
            return self._refuse(f"{shared} bytes of shared memory were not asked for")
        if len(pointers) != len(program.params):
            return self._refuse(f"{len(pointers)} parameters, the kernel has {len(program.params)}")
        raw, maps = [], {}
        for number, (pointer, param) in enumerate(zip(pointers, program.params, strict=True)):
            raw.append(ctypes.string_at(pointer, param.size))
            if param.size == _MAP_BYTES:
                if raw[-1][:4] != _MAP or pointer % _MAP_ALIGNMENT:
                    return self._refuse(f"parameter {number} is no tensor map on {_MAP_ALIGNMENT} bytes")
                maps[number] = self._maps[int.from_bytes(raw[-1][4:8], "little")]
                if self._keeps_bit(maps[number]) != (int.from_bytes(raw[-1], "little") >> _SMALL_BIT & 1):
                    return self._refuse(f"parameter {number} has the bit that this driver sets wrongly")
        self.counts[program.entry] += 1
        self.early[program.entry] += early
        before = BeforeWait(self.regions, self.written) if early else None
        run(found.program, grid, shared, Parameters(raw, maps), self.regions, self.schedule, before)
        return 0


def _configured(address: int) -> tuple[tuple[int, int, int], tuple[int, ...], int, list[tuple[int, int, bytes]]]:
    """Grid, block, bytes of shared memory and attributes (number, value, what follows) of a CUlaunchConfig."""
    x, y, z, *block, shared, _stream, at, count = _CONFIG.unpack(ctypes.string_at(address, _CONFIG.size))
    attributes = list(_ATTRIBUTE.iter_unpack(ctypes.string_at(at, count * _ATTRIBUTE.size)))
    return (x, y, z), tuple(block), shared, attributes


def _flaw(made: TensorMap, rank: int) -> str:
    """What is wrong with a tensor map; '' if nothing is."""
    if not 1 <= rank <= 5 or not made.item:
        return "rank or element type"
    if made.address % 16 or not made.address:
        return "globalAddress is not on 16 bytes"
    if any(not 1 <= size <= 1 << 32 for size in made.sizes):
        return f"globalDim {made.sizes}"
    if any(stride % 16 or not stride < 1 << 40 for stride in made.strides):
        return f"globalStrides {made.strides}"
    if any(not 1 <= size <= 256 for size in made.box):
        return f"boxDim {made.box}"
    inner = made.box[0] * made.item
    if inner % 16 or made.swizzle not in range(4) or (made.swizzle and inner > 16 << made.swizzle):
        return f"an inner box of {inner} bytes with swizzle {made.swizzle}"
    return ""
