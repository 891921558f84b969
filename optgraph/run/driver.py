"""Launches cubins through the CUDA driver: loads them, describes tensors to the copy engine, fills in parameters.

All that a launch needs is prepared when it is bound, tensor maps included: then a call is one call of the driver.
The driver is libcuda.so.1 by ctypes, loaded on first use.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_int64, c_uint, c_uint32, c_uint64, c_void_p
from functools import cached_property
from typing import Any

import torch

from optgraph.ahead import build, cubins
from optgraph.ahead.cubins import SCRATCH, Cubin, Parameter, TensorMap, runs_on
from optgraph.base.config import debug, early_launch
from optgraph.base.devices import Target
from optgraph.base.errors import OptgraphError
from optgraph.base.progress import Progress, silent
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.variant import Block, Variant

_LIBRARY = "libcuda.so.1"
_SHARED_BY_DEFAULT = 48 << 10  # what a block may have of shared memory without asking for it
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_PREFER_SHARED = 1  # CU_FUNC_CACHE_PREFER_SHARED
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_...
_FIRST_EARLY = 12030  # CUDA 12.3: from there on a graph may have a launch begin before the one it follows ends
_NOT_SUPPORTED = 801  # CUDA_ERROR_NOT_SUPPORTED
_INTERLEAVE_NONE, _L2_PROMOTION_128B, _FILL_ZEROS = 0, 2, 0  # CUtensorMapInterleave, ...L2promotion, ...FloatOOBfill
# Drivers up to CUDA 13.1 set a bit in the map of a small tensor that must not be there on Blackwell. CUTLASS clears it,
# whatever the GPU, and so does Triton's launcher.
_LAST_TO_CORRECT, _SMALL, _WORD, _BIT = 13010, 128 << 10, 1, 1 << 21  # that version; bytes; where the bit is


class LaunchAttribute(ctypes.Structure):
    """A CUlaunchAttribute whose value is a number: a union of 64 bytes, on 8."""

    _fields_ = (("id", c_int), ("pad", c_int), ("value", c_int), ("rest", c_int), ("others", c_uint64 * 7))


class LaunchConfig(ctypes.Structure):
    """A CUlaunchConfig. block: in threads. shared: bytes a block."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", POINTER(LaunchAttribute)),
        ("attribute_count", c_uint),
    )


class Bound:
    """A launch with its parameters laid out as the compiled kernel takes them. A call enqueues it on torch's current
    stream; there it begins when all that is before it has ended."""

    def __init__(self, driver: Driver, launch: Launch, cubin: Cubin, function: c_void_p, device: torch.device) -> None:
        values = driver.parameters(launch, cubin.parameters)
        self._holds = values, launch  # the driver has only addresses of these
        self._pointers = (c_void_p * len(values))(*map(ctypes.addressof, values))
        self._driver, self._function, self._device = driver, function, device
        self._attribute = LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        grid, block = (*launch.grid, *(1,) * (3 - len(launch.grid))), (32 * cubin.num_warps, 1, 1)
        self._config = LaunchConfig(grid, block, cubin.shared_bytes, attributes=ctypes.pointer(self._attribute))
        self._waits = cubin.waits

    def __call__(self) -> None:
        self._enqueue(early=False)

    def early(self) -> None:
        """Enqueues it to begin before the launch of ours ends that comes last on the stream, if kernel and driver can:
        then the kernel waits for that by itself. Nothing else may have been enqueued in between."""
        self._enqueue(early=self._waits and self._driver.early)

    def _enqueue(self, early: bool) -> None:
        self._config.stream = torch.cuda.current_stream(self._device).cuda_stream
        self._config.attribute_count = int(early)
        self._driver.launch(self._config, self._function, self._pointers)


class Kernels:
    """The kernels of a network on one CUDA device, each found or compiled once; threads may share it.

    found: cubins to use; those for other machines are left alone, and a kernel that is not among them is compiled.
    progress: told of that. library: stands in for libcuda in tests.
    """

    def __init__(
        self, device: torch.device, found: Iterable[Cubin], library: Any = None, progress: Progress = silent
    ) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)
        self._driver = Driver(library or open_library())
        capability = torch.cuda.get_device_capability(device)
        self._found = {cubin.key: cubin for cubin in found if runs_on(Target.parse(cubin.target), capability)}
        # Of several that would run here, the one for the newest target.
        targets = {Target.parse(cubin.target) for cubin in self._found.values()}
        self._targets = sorted(targets, key=lambda target: target.number, reverse=True)
        self._target = Target(capability)
        self._progress = progress
        self._functions: dict[Variant, tuple[Cubin, c_void_p]] = {}
        self._refused: set[Variant] = set()  # do not compile here, and have another kernel in their place
        self._lock = threading.Lock()
        self.compiled = 0  # kernels that were not among `found`

    def bind_all(self, launches: Sequence[Callable[[], None]]) -> list[Callable[[], None]]:
        """`bind` of each, once the kernels that are nowhere yet are compiled, several at a time; where one does not
        compile and there is another that does the same, of that.

        Raises OptgraphError if one does not compile.
        """
        launches = list(map(self._runnable, launches))
        with self._lock:
            self._compile(dict.fromkeys(launch.variant for launch in launches if isinstance(launch, Launch)))
        return list(map(self.bind, launches))

    def bind(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What enqueues `launch` on torch's current stream. What is no Launch is itself.

        Raises as the compiler does if its kernel does not compile, though there may be another.
        """
        if not isinstance(launch, Launch):
            return launch
        if not launch.bound:
            raise ValueError(f"'{launch.kernel}' is to be launched without the workspace it needs")
        cubin, function = self._load(launch.variant)
        return Bound(self._driver, launch, cubin, function, self._device)

    def _runnable(self, launch: Callable[[], None]) -> Callable[[], None]:
        """The launch; or the one in its place, if its kernel is not among `found` and does not compile here."""
        if not isinstance(launch, Launch) or launch.otherwise is None:
            return launch
        variant = launch.variant
        if variant not in self._functions and variant not in self._refused and self._given(variant) is None:
            try:
                cubins.obtain(variant, self._target)
            except Exception as error:  # the compiler's errors share no base
                self._refused.add(variant)
                if debug():
                    print(
                        f"{variant.code.name}: another runs in its place, for it does not compile: {error!r}",
                        file=sys.stderr,
                    )
        return launch.otherwise() if variant in self._refused else launch

    def _load(self, variant: Variant) -> tuple[Cubin, c_void_p]:
        with self._lock:
            if variant not in self._functions:
                cubin = self._find(variant)
                self._functions[variant] = cubin, self._driver.load(cubin, self._device.index)
            return self._functions[variant]

    def _compile(self, variants: Iterable[Variant]) -> None:
        """Leaves those that are to be compiled in the cache on disk, where `_load` finds them."""
        missing = [
            variant
            for variant in variants
            if variant not in self._functions
            and self._given(variant) is None
            and not build.scripted(variant)
            and cubins.cached(cubins.key(variant, self._target)) is None
        ]
        if len(missing) > 1:  # one takes less time here than another process does to start
            build.compile_all(missing, self._target, self._progress)

    def _find(self, variant: Variant) -> Cubin:
        given = self._given(variant)
        if given is not None:
            return given
        self.compiled += 1
        return cubins.obtain(variant, self._target)

    def _given(self, variant: Variant) -> Cubin | None:
        """The cubin among `found` that runs here."""
        for target in self._targets:
            cubin = self._found.get(cubins.key(variant, target))
            if cubin is not None and cubins.takes(cubin, variant):
                return cubin
        return None


class Driver:
    """The CUDA driver's functions that a launch takes.

    early: whether a launch may begin before the one that it follows ends.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    @cached_property
    def early(self) -> bool:
        return early_launch() and self._version >= _FIRST_EARLY

    def load(self, cubin: Cubin, device: int) -> c_void_p:
        """The CUfunction of `cubin`, in the context of the device. It stays for the life of the process."""
        context, module, function = c_void_p(), c_void_p(), c_void_p()
        self._call("cuCtxGetCurrent", byref(context))
        if not context:  # torch has done nothing in this thread yet
            self._call("cuDevicePrimaryCtxRetain", byref(context), c_int(device))
            self._call("cuCtxSetCurrent", context)
        self._call("cuModuleLoadData", byref(module), cubin.code)
        self._call("cuModuleGetFunction", byref(function), module, cubin.entry.encode())
        if cubin.shared_bytes > _SHARED_BY_DEFAULT:
            self._call("cuFuncSetCacheConfig", function, c_int(_PREFER_SHARED))
            self._call("cuFuncSetAttribute", function, c_int(_MAX_DYNAMIC_SHARED), c_int(cubin.shared_bytes))
        return function

    def launch(self, config: LaunchConfig, function: c_void_p, parameters: Any) -> None:
        """Enqueues a kernel; with no attribute, from here on, where the driver does not support it."""
        enqueue = self._library.cuLaunchKernelEx
        code = enqueue(byref(config), function, parameters, None)
        if code == _NOT_SUPPORTED and config.attribute_count:
            self.early, config.attribute_count = False, 0
            code = enqueue(byref(config), function, parameters, None)
        self._check("cuLaunchKernelEx", code)

    def parameters(self, launch: Launch, kinds: Iterable[Parameter]) -> list[Any]:
        """The parameters of the compiled kernel as C values, in order."""
        given = dict(launch.leaves())
        values: list[Any] = []
        for (path, _), kind in zip(launch.variant.parameters, kinds, strict=True):
            value = given[path]
            if isinstance(kind, TensorMap):
                values.append(self.tensor_map(value, kind))
                values += [*map(c_int32, value.shape), *map(c_int64, value.strides)]
            elif kind == "pointer":
                values.append(c_uint64(value.data_ptr()))
            else:
                values.append({"i32": c_int32, "i64": c_int64, "fp32": c_float}[kind](value))
        return values + [c_uint64(0) for _ in range(SCRATCH)]

    def tensor_map(self, block: Block, kind: TensorMap) -> Any:
        """A CUtensorMap: 128 bytes on a 128-byte boundary. The driver counts dimensions innermost first."""
        rank, item = len(block.shape), block.tensor.element_size()
        storage = ctypes.create_string_buffer(2 * 128)
        aligned = (ctypes.c_char * 128).from_buffer(storage, -ctypes.addressof(storage) % 128)
        self._call(
            "cuTensorMapEncodeTiled",
            aligned,
            c_int(kind.element),
            c_uint32(rank),
            c_void_p(block.tensor.data_ptr()),
            (c_uint64 * rank)(*reversed(block.shape)),
            (c_uint64 * rank)(*(stride * item for stride in reversed(block.strides[:-1]))),
            (c_uint32 * rank)(*reversed(block.fetched or kind.box)),
            (c_uint32 * rank)(*(1,) * rank),
            c_int(_INTERLEAVE_NONE),
            c_int(kind.swizzle),
            c_int(_L2_PROMOTION_128B),
            c_int(_FILL_ZEROS),
        )
        last = item * sum((size - 1) * stride for size, stride in zip(block.shape, block.strides, strict=True))
        if last + 1 < _SMALL and self._version <= _LAST_TO_CORRECT:
            (c_uint64 * 16).from_buffer(aligned)[_WORD] &= ~_BIT
        return aligned

    @cached_property
    def _version(self) -> int:
        """The driver's, as 13010 for CUDA 13.1."""
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        return version.value

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(c_int(code), byref(text))
            reason = (text.value or b"unknown error").decode(errors="replace")
            raise OptgraphError(f"the CUDA driver's {name} failed: {reason} ({code})")


def new_stream() -> int:
    """A stream of the current context, for the life of the process, which does not wait for the default one."""
    stream = c_void_p()
    Driver(open_library())._call("cuStreamCreate", byref(stream), c_uint(_NON_BLOCKING))
    assert stream.value is not None
    return stream.value


def open_library() -> Any:
    """libcuda. Raises OptgraphError if it is not here."""
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        raise OptgraphError(f"{_LIBRARY} is not here: the triton backend needs NVIDIA's driver") from None
