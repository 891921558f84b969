"""Every environment variable optgraph reads, in one place. Read when asked for, never at import."""

from __future__ import annotations

import os
from pathlib import Path


def dump_directory() -> Path | None:
    """OPTGRAPH_DUMP=DIR: the graph after every pass is written there as text."""
    value = os.environ.get("OPTGRAPH_DUMP")
    return Path(value) if value else None


def debug() -> bool:
    """OPTGRAPH_DEBUG=1: standard error gets what each pass refused, and why, and the traceback of an internal error."""
    return os.environ.get("OPTGRAPH_DEBUG", "") not in ("", "0")


def onnx_backend() -> str:
    """OPTGRAPH_ONNX_BACKEND=NAME: what `adapters.onnx_backend` runs models with on a CPU, by default 'torch'."""
    return os.environ.get("OPTGRAPH_ONNX_BACKEND", "torch")


def cubin_cache() -> Path:
    """Where compiled kernels are kept: with Triton's own cache, TRITON_CACHE_DIR=DIR or ~/.triton/cache."""
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache") / "optgraph"


def early_launch() -> bool:
    """OPTGRAPH_EARLY_LAUNCH=0: no launch begins before the one it follows on a GPU has ended."""
    return os.environ.get("OPTGRAPH_EARLY_LAUNCH", "1") != "0"


def tuned_folder() -> Path:
    """OPTGRAPH_TUNED=DIR: where the tiles that `optgraph tune` measured are, by default in the package."""
    return Path(os.environ.get("OPTGRAPH_TUNED") or Path(__file__).parents[1] / "tuned")
