"""Types of numbers: what the dtypes of a compile store, how wide each type is, what tensor cores make of a float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optgraph.base.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

# What `dtype="..."` of a compile means: the type that kernels store. Sums are float32 in all of them.
STORAGE = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INT8 = "int8"  # stores values on grids as int8, all others as fp16 does; for a model that has some
DTYPES = (*STORAGE, INT8)

# Bytes of a number, by its numpy name.
ITEMSIZE = (
    {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    | {"int64": 8, "int32": 4, "int16": 2, "int8": 1}
    | {"uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1}
)


def check_dtype(dtype: str) -> None:
    """Raises InputError for a dtype that is none of DTYPES."""
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype '{dtype}': use {', '.join(DTYPES)}")


def float_storage(dtype: str) -> str:
    """The type that a plan of `dtype`, one of DTYPES, stores floats in."""
    return STORAGE["fp16" if dtype == INT8 else dtype]


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a numpy name. Raises ModelError if torch has none."""
    import torch  # here, for names and sizes alone need no torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"dtype '{name}' is not supported")
    return dtype


def nearest_tf32(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to 10 bits of fraction, as tensor cores multiply it; NaN as it is."""
    import torch

    return torch.where(x.isnan(), x, ((x.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32))
