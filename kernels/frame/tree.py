"""Arguments of a launcher as a tree: tuples, prologues and epilogues hold views in a plan, tensors in a launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from optgraph.kernels.frame.ends import Epilogue, Prologue


def mapped(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same tree with `leaf(x)` in place of each x that is no branch."""
    if isinstance(tree, tuple):
        return tuple(mapped(item, leaf) for item in tree)
    if isinstance(tree, Prologue | Epilogue):
        return replace(tree, **{f.name: mapped(getattr(tree, f.name), leaf) for f in fields(tree)})
    return leaf(tree)


def leaves(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf by its path, such as 'x', 'outs.1' or 'after.residual'."""
    if isinstance(tree, tuple):
        for i, item in enumerate(tree):
            yield from leaves(f"{name}.{i}", item)
    elif isinstance(tree, Prologue | Epilogue):
        for f in fields(tree):
            yield from leaves(f"{name}.{f.name}", getattr(tree, f.name))
    else:
        yield name, tree
