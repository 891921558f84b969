"""The outputs of a network from the command line: of several batches put together, and to a file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optgraph.base.errors import InputError
from optgraph.base.files import replacing
from optgraph.ir.values import Value


def together(batches: Sequence[Mapping[str, np.ndarray]], outputs: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """The outputs of several batches as those of one. Raises InputError for one that has no images to tell apart."""
    if len(batches) == 1:
        return dict(batches[0])
    for name, value in outputs.items():
        if len({batch[name].shape[1:] for batch in batches}) > 1 or not value.shape:
            raise InputError(f"output '{name}' {list(value.shape)} is not one for each image: run them one by one")
    return {name: np.concatenate([batch[name] for batch in batches]) for name in outputs}


def check_results(path: Path, outputs: Sequence[str]) -> None:
    """Raises InputError unless `path` is named for the outputs it is to hold."""
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"{path}: outputs are written as .npy, or several as .npz")
    if path.suffix == ".npy" and len(outputs) > 1:
        raise InputError(f"{path}: the network has {len(outputs)} outputs ({', '.join(outputs)}): name a .npz file")


def write_results(path: Path, results: Mapping[str, np.ndarray]) -> None:
    """Writes the only output as .npy, or all by name as .npz. Raises InputError if that cannot be."""
    with replacing(path) as file:
        if path.suffix == ".npz":
            with zipfile.ZipFile(file, "w") as archive:  # np.savez takes no array of the name 'file'
                for name, array in results.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array)
        else:
            np.save(file, next(iter(results.values())))
