"""A Graph as JSON, without its constants' data: what an artifact stores beside the weights.

Reading trusts nothing: operators come from a registry, every field is checked against its type, and the graph
is rebuilt through `Graph.add`, which infers all shapes anew.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from optgraph.base.errors import ArtifactError, OptgraphError
from optgraph.ir.graph import Graph, Source
from optgraph.ir.op import Op
from optgraph.ir.quant import HIGHEST, LEAST_SCALE, LOWEST, Grid, Quant
from optgraph.ir.values import ACTS, Act, Segment, Value
from optgraph.ops.registry import OURS


def graph_to_json(graph: Graph, own_ops: Sequence[type[Op]] = ()) -> dict[str, Any]:
    """Everything but the constants' data.

    Raises ArtifactError for an operator that is neither ours nor in `own_ops`.
    """
    registry = OURS.extended(own_ops)
    nodes = []
    for node in graph.nodes():
        kind = type(node.op)
        name = kind.__name__
        if registry.named(name) is not kind:
            raise ArtifactError(
                f"node '{node.name}' ({name}): an operator of your own: pass ops=[{name}] to save and load"
            )
        values = {f.name: getattr(node.op, f.name) for f in fields(node.op)}
        nodes.append(
            {
                "name": node.name,
                "op": name,
                "fields": {k: _encode(v) for k, v in values.items()},
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
                "origin": list(node.origin),
            }
        )
    grids = {"grids": [[name, *_encode(grid)] for name, grid in graph.grids.items()]} if graph.grids else {}
    return {
        "name": graph.name,
        "inputs": [[name, *_encode(graph.values[name])] for name in graph.inputs],
        "outputs": [[public, value] for public, value in graph.outputs.items()],
        "constants": list(graph.constants),
        **grids,
        "nodes": nodes,
        "sources": [[value, source.name, list(source.perm)] for value, source in graph.sources.items()],
        "opset": graph.opset,
        "domains": [[domain, version] for domain, version in graph.domains.items()],
        "source_nodes": graph.source_nodes,
    }


def graph_from_json(data: Any, constants: Mapping[str, np.ndarray], own_ops: Sequence[type[Op]] = ()) -> Graph:
    """The graph `graph_to_json` wrote; constants are taken by name. Raises ArtifactError for anything else."""
    registry = OURS.extended(own_ops)
    graph = Graph(_checked(data, dict).get("name", ""))
    try:
        graph.opset = _checked(data["opset"], int)
        graph.source_nodes = _checked(data["source_nodes"], int)
        graph.domains = {_checked(d, str): _checked(v, int) for d, v in data["domains"]}
        for name, shape, dtype in data["inputs"]:
            graph.add_input(_checked(name, str), _decode([shape, dtype], Value))
        for name in data["constants"]:
            if graph.add_constant(constants[_checked(name, str)], name) != name:
                raise ArtifactError(f"value '{name}' is defined twice")
        for name, *grid in data.get("grids", []):
            graph.grids[name] = _grid(_decode(grid, Grid), graph.constants[_checked(name, str)])
        for entry in data["nodes"]:
            kind = registry.named(entry["op"])
            if kind is None:
                raise ArtifactError(f"unknown operator '{entry['op']}': if it is your own, pass ops=[...] to load")
            hints = get_type_hints(kind)
            op = kind(**{k: _decode(v, hints[k]) for k, v in _checked(entry["fields"], dict).items()})
            inputs, outputs, origin = ([_checked(s, str) for s in entry[k]] for k in ("inputs", "outputs", "origin"))
            node = graph.add(op, inputs, outputs, _checked(entry["name"], str), origin)
            if node.name != entry["name"]:
                raise ArtifactError(f"node '{entry['name']}' is there twice")
        graph.outputs = {_checked(p, str): _checked(v, str) for p, v in data["outputs"]}
        graph.sources = {_checked(v, str): Source(_checked(s, str), tuple(p)) for v, s, p in data["sources"]}
        graph.verify()
    except ArtifactError:
        raise
    except OptgraphError as error:
        raise ArtifactError(f"a graph in it is broken: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(f"a graph in it cannot be read: {type(error).__name__} {error}") from None
    return graph


def _encode(value: Any) -> Any:
    """Dataclasses and tuples as lists, bytes as base64; numbers, strings and booleans as they are."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if is_dataclass(value):
        return [_encode(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def _decode(value: Any, hint: Any) -> Any:
    """`value` as the annotated type `hint`; raises ArtifactError where it is not one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        items = _checked(value, list)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(v, arguments[0]) for v in items)
        if len(items) != len(arguments):
            raise ArtifactError(f"{len(items)} numbers where {len(arguments)} belong")
        return tuple(_decode(v, a) for v, a in zip(items, arguments, strict=True))
    if origin in (Union, UnionType):
        if type(value) not in arguments:
            raise ArtifactError(f"a {type(value).__name__} where {hint} belongs")
        return value
    if hint is bytes:
        return base64.b64decode(_checked(value, str), validate=True)
    if hint in (Act, Grid, Quant, Segment, Value):
        hints = get_type_hints(hint)
        parts, names = _checked(value, list), [f.name for f in fields(hint)]
        if len(parts) > len(names):
            raise ArtifactError(f"{len(parts)} numbers where {len(names)} belong")
        # The last ones, which files of before have not, are at their defaults.
        made = hint(*(_decode(part, hints[name]) for part, name in zip(parts, names, strict=False)))
        if hint is Act and made.kind not in ACTS:
            raise ArtifactError(f"unknown activation '{made.kind}'")
        if hint is Value and str(np.dtype(made.dtype)) != made.dtype:
            raise ArtifactError(f"unknown dtype '{made.dtype}'")
        if hint is Quant and not (_is_scale(made.scale) and LOWEST <= made.zero <= HIGHEST):
            raise ArtifactError(f"a scale of {made.scale} and a zero point of {made.zero}")
        return made
    if hint is float:
        return float(_checked(value, (int, float)))
    if hint is int and not -(2**31) < _checked(value, int) < 2**31:
        raise ArtifactError(f"the number {value} is out of all proportion")
    return _checked(value, hint)


def _is_scale(number: float) -> bool:
    return LEAST_SCALE <= number < math.inf


def _grid(grid: Grid, array: np.ndarray) -> Grid:
    """`grid`; raises ArtifactError where it is none of that constant."""
    count = len(grid.scale)
    if grid.dtype not in ("int8", "uint8", "int32") or not all(map(_is_scale, grid.scale)):
        raise ArtifactError(f"a grid of {grid.dtype} has scales that are none")
    fits = count == 1 or (0 <= grid.axis < array.ndim and array.shape[grid.axis] == count)
    if not fits or len(grid.zero) != count:
        raise ArtifactError(f"a grid of {count} scales for a weight of {list(array.shape)}")
    return grid


def _checked(value: Any, kind: Any) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value) not in kinds:
        raise ArtifactError(f"a {type(value).__name__} where {' or '.join(k.__name__ for k in kinds)} belongs")
    return value
