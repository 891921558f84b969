"""Cubins that no compiler made, and a CUDA driver that only takes notes."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from optgraph.ahead.cubins import Cubin, TensorMap

GPU = torch.device("cuda", 0)
STREAM = 0x5731


def sample(**changes: Any) -> Cubin:
    """A cubin with one parameter of each kind."""
    fields: dict[str, Any] = {
        "key": "0123456789abcdef" * 4,
        "kernel": "pointwise",
        "target": "sm_90",
        "entry": "_pointwise",
        "parameters": (TensorMap((64, 32), 3, 6), "pointer", "i32", "i64", "fp32"),
        "num_warps": 8,
        "shared_bytes": 98_304,
        "registers": 168,
        "spill_bytes": 0,
        "mma": False,
        "wgmma": True,
        "tma": True,
        "code": b"\x7fELF and so on",
    }
    return Cubin(**{**fields, **changes})


def target_of(pointer: Any) -> Any:
    """What a `byref` refers to."""
    return pointer._obj


class FakeCuda:
    """libcuda's functions, on what torch then takes for an H100.

    calls: their names and arguments. broken: the name of one that fails. context: the thread's, 0 if it has none.
    version: the driver's. encoded: every tensor map. configs: of each launch, its CUlaunchConfig and first attribute.
    early: what the driver answers to a launch that has one.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        patch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.broken = ""
        self.context = 0xC0
        self.version = 13020
        self.encoded = bytes(range(128))
        self.configs: list[tuple[bytes, bytes]] = []
        self.early = 0

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            if name == self.broken:
                return 700
            if name == "cuLaunchKernelEx":
                return self._launched(target_of(arguments[0]))
            self.answer(name, arguments)
            return 0

        return function

    def answer(self, name: str, arguments: tuple[Any, ...]) -> None:
        match name:
            case "cuCtxGetCurrent" | "cuDevicePrimaryCtxRetain":
                target_of(arguments[0]).value = self.context or (0xC1 if name.startswith("cuDevice") else 0)
            case "cuModuleLoadData":
                target_of(arguments[0]).value = 0x30D
            case "cuModuleGetFunction":
                target_of(arguments[0]).value = 0xF0
            case "cuStreamCreate":
                target_of(arguments[0]).value = 0x57A
            case "cuGetErrorString":
                target_of(arguments[1]).value = b"an illegal memory access was encountered"
            case "cuTensorMapEncodeTiled":
                arguments[0][:] = self.encoded
            case "cuDriverGetVersion":
                target_of(arguments[0]).value = self.version

    def _launched(self, config: Any) -> int:
        attribute = ctypes.string_at(config.attributes, 72) if config.attribute_count else b""
        self.configs.append((bytes(config), attribute))
        return self.early if attribute else 0

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]
