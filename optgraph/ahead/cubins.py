"""Cubins: kernels compiled to machine code for one target, with what a launch must know of them.

A Cubin is found by its key, a digest of all that decides its code: the kernels' sources, the variant (types, constants,
options) and the target. A change in any of them is a miss, and never an error: what is not there is compiled. Compiled
cubins are kept on disk, in Triton's cache folder: finding one there takes no compiler, nor a process that could run it.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from optgraph.base import config
from optgraph.base.devices import Target
from optgraph.base.errors import ArtifactError, OptgraphError
from optgraph.base.files import replacing
from optgraph.kernels.frame.arguments import OURS, Jit
from optgraph.kernels.frame.sources import digest
from optgraph.kernels.frame.variant import Variant, compiled

SCRATCH = 2  # pointers that Triton appends to every kernel's parameters, null where they are not used
_SIZES = {"pointer": 8, "i32": 4, "i64": 8, "fp32": 4}
_MAP_BYTES, _MAP_ALIGNMENT = 128, 64
_MOST_WARPS, _MOST_SHARED, _MOST_PARAMETERS = 32, 227 << 10, 4096  # the last two: bytes
_FIELDS: dict[str, type] = {"str": str, "int": int, "bool": bool}


@dataclass(frozen=True)
class TensorMap:
    """A parameter that describes a tensor to the copy engine, followed by the tensor's shape and strides.

    box: what one copy fetches, outermost dimension first. swizzle, element: as CUtensorMapSwizzle, CUtensorMapDataType.
    """

    box: tuple[int, ...]
    swizzle: int
    element: int


Parameter = str | TensorMap  # 'pointer', 'i32', 'i64' or 'fp32'


@dataclass(frozen=True)
class Cubin:
    """Machine code and how to launch it. Sizes are bytes; parameters are in the order of the kernel's arguments.

    mma, wgmma, tma: whether it uses tensor cores warp by warp, by groups of warps, and the copy engine.
    waits: whether it waits for earlier launches by itself, so that it may begin before they end (`jit/dependence.py`).
    """

    key: str
    kernel: str
    target: str
    entry: str
    parameters: tuple[Parameter, ...]
    num_warps: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    mma: bool
    wgmma: bool
    tma: bool
    code: bytes
    waits: bool = False

    def to_json(self) -> dict[str, Any]:
        """All but the code."""
        return {k: v for k, v in asdict(self).items() if k != "code"}


def from_json(data: Any, code: bytes) -> Cubin:
    """What `to_json` wrote. Raises ArtifactError for what cannot be a cubin."""
    try:
        parameters = tuple(p if isinstance(p, str) else _tensor_map(**p) for p in data["parameters"])
        cubin = Cubin(**{**data, "parameters": parameters}, code=code)
    except (TypeError, ValueError, KeyError):
        raise ArtifactError("a cubin has other fields than it should") from None
    flaw = _flaw(cubin)
    if flaw:
        raise ArtifactError(f"a cubin is of no use: {flaw}")
    return cubin


def _tensor_map(box: Any, swizzle: Any, element: Any) -> TensorMap:
    numbers = [swizzle, element, *box]
    if not all(type(n) is int and 0 <= n <= 256 for n in numbers) or not 1 <= len(box) <= 5:
        raise ValueError
    return TensorMap(tuple(box), swizzle, element)


def _flaw(cubin: Cubin) -> str:
    """Why no GPU could run it; '' if one could."""
    for field in fields(cubin):
        value = getattr(cubin, field.name)
        wrong_type = type(value) is not _FIELDS.get(str(field.type), type(value))
        if wrong_type or (isinstance(value, int) and value < 0):
            return f"its {field.name} is not one"
    if not re.fullmatch("[0-9a-f]{64}", cubin.key):
        return "its key is no digest"
    if not re.fullmatch("sm_[0-9]{2,3}", cubin.target):
        return "its target is no GPU"
    if not all(isinstance(p, TensorMap) or p in _SIZES for p in cubin.parameters):
        return "a parameter is of an unknown kind"
    if sum(size for size, _ in layout(cubin.parameters)) > _MOST_PARAMETERS:
        return "it has too many parameters"
    if not 1 <= cubin.num_warps <= _MOST_WARPS or cubin.shared_bytes > _MOST_SHARED:
        return "its blocks are too large"
    return "" if cubin.code.startswith(b"\x7fELF") else "its code is no machine code"


def layout(parameters: Sequence[Parameter]) -> list[tuple[int, int]]:
    """Bytes and alignment of each parameter of the compiled kernel, Triton's own included."""
    sizes: list[tuple[int, int]] = []
    for parameter in parameters:
        if isinstance(parameter, TensorMap):
            rank = len(parameter.box)
            sizes += [(_MAP_BYTES, _MAP_ALIGNMENT), *[(4, 4)] * rank, *[(8, 8)] * rank]
        else:
            sizes.append((_SIZES[parameter], _SIZES[parameter]))
    return sizes + [(8, 8)] * SCRATCH


def runs_on(target: Target, capability: tuple[int, int]) -> bool:
    """Whether code for `target` runs on a GPU of that compute capability.

    From sm_90 on, code is made for one chip ('sm_90a'); before, it also runs on later ones of the same generation.
    """
    if target.capability is None:
        return False
    major, minor = target.capability
    return (major, minor) == capability or (major == capability[0] < 9 and minor < capability[1])


# ---- keys


def key(variant: Variant, target: Target) -> str:
    """SHA-256 of what decides the code. It says nothing of Triton's version: a cubin is as good as ever after."""
    functions = [variant.code, *(value for _, value in variant.constants if isinstance(value, Jit))]
    theirs = {_file(function.module) for function in functions if not function.module.startswith(OURS)}
    return hashlib.sha256(json.dumps([digest(theirs), variant_to_json(variant), str(target)]).encode()).hexdigest()


def _file(module: str) -> str:
    """Where a module's source is."""
    if module in sys.modules:
        return sys.modules[module].__file__ or ""
    found = find_spec(module)
    return found.origin or "" if found else ""


def variant_to_json(variant: Variant) -> dict[str, Any]:
    """The variant in plain data, jit functions by name."""
    return {f.name: _plain(getattr(variant, f.name)) for f in fields(variant)}


def variant_from_json(data: dict[str, Any]) -> Variant:
    return Variant(**{name: _restored(value) for name, value in data.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Jit):
        return {"module": value.module, "name": value.name}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restored(item) for item in value)
    return Jit(**value) if isinstance(value, dict) else value


# ---- compiling, and the cache on disk


def obtain(variant: Variant, target: Target) -> Cubin:
    """The cubin from the cache on disk, else compiled here and kept there. Needs a process that does not interpret."""
    name = key(variant, target)
    found = cached(name)
    if found is None:
        found = from_triton(variant, target, name, compiled(variant, target))
        keep(found)
    return found


def cached(name: str) -> Cubin | None:
    """The cubin of that key, if it was compiled on this machine before."""
    with suppress(OSError, SafetensorError, ArtifactError, KeyError, ValueError):
        with safe_open(_path(name), framework="numpy") as file:
            found = from_json(json.loads(file.metadata()["cubin"]), file.get_tensor("code").tobytes())
        return found if found.key == name else None
    return None


def keep(cubin: Cubin) -> None:
    """Puts it into the cache on disk."""
    path = _path(cubin.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    code = np.frombuffer(cubin.code, np.uint8)
    with replacing(path) as file:
        file.write(save({"code": code}, {"cubin": json.dumps(cubin.to_json())}))


def _path(name: str) -> Path:
    return config.cubin_cache() / f"triton-{version('triton')}" / f"{name}.safetensors"


def from_triton(variant: Variant, target: Target, name: str, found: Any) -> Cubin:
    """A CompiledKernel as a Cubin. Raises OptgraphError if its parameters are not what `layout` says they are."""
    metadata, ptx, code = found.metadata, found.asm["ptx"], found.asm["cubin"]
    parameters = _parameters(variant, metadata.tensordesc_meta)
    scratch = metadata.global_scratch_size or metadata.profile_scratch_size
    if layout(parameters) != ptx_layout(ptx) or scratch or metadata.num_ctas != 1:
        raise OptgraphError(
            f"Triton {version('triton')} compiled '{variant.kernel}' to a form unknown here: use another version"
        )
    usage = _usage(code)
    return Cubin(
        key=name,
        kernel=variant.kernel,
        target=str(target),
        entry=metadata.name,
        parameters=parameters,
        num_warps=metadata.num_warps,
        shared_bytes=metadata.shared,
        registers=usage["REG"],
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        mma="mma.sync" in ptx,
        wgmma="wgmma.mma_async" in ptx,
        tma="cp.async.bulk.tensor" in ptx,
        code=code,
        waits="griddepcontrol.wait" in ptx,
    )


def takes(cubin: Cubin, variant: Variant) -> bool:
    """Whether the cubin's parameters are of the kinds that the variant's arguments are."""
    kinds = ["map" if isinstance(p, TensorMap) else p for p in cubin.parameters]
    return kinds == _kinds(variant)


def _kinds(variant: Variant) -> list[str]:
    """'pointer', 'i32', 'i64', 'fp32', or 'map' for a tensor read by the copy engine."""
    named = {"*": "pointer", "t": "map"}  # *fp16, tensordesc<fp16[64, 64]>
    return [named.get(kind[0], kind) for _, kind in variant.parameters]


def _parameters(variant: Variant, maps: Sequence[dict[str, Any]] | None) -> tuple[Parameter, ...]:
    kinds = _kinds(variant)
    if kinds.count("map") != len(maps or ()):
        raise OptgraphError(f"'{variant.kernel}' reads blocks by the copy engine, which the target lacks")
    descriptors = map(_described, maps or ())
    return tuple(next(descriptors) if kind == "map" else kind for kind in kinds)


def _described(found: dict[str, Any]) -> TensorMap:
    # Triton's numbers for the types of elements are the driver's, but for these three.
    element = {8: 10, 9: 8, 10: 9}.get(found["elem_type"], found["elem_type"])
    return TensorMap(tuple(found["block_size"]), found["swizzle"], element)


def ptx_layout(ptx: str) -> list[tuple[int, int]]:
    """Bytes and alignment of each parameter of the one entry in `ptx`."""
    header = ptx[ptx.index(".entry") :]
    found = re.findall(r"\.param (?:\.align (\d+) \.b8 \w+\[(\d+)\]|\.[a-z](\d+))", header[: header.index(")")])
    return [(int(bits) // 8,) * 2 if bits else (int(size), int(alignment)) for alignment, size, bits in found]


def _usage(code: bytes) -> dict[str, int]:
    """Registers a thread, and bytes of stack and local memory, by NVIDIA's cuobjdump, which comes with Triton."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
