"""Which node of a model ONNX Runtime dies at."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from optgraph.base.errors import OptgraphError
from optgraph.onnx.apart import EndedError
from optgraph.onnx.parts import upstream
from optgraph.onnx.scopes import names_read
from optgraph.onnx.sessions import Feeds, InnerValues


def culprit(values: InnerValues, names: Sequence[str], feeds: Feeds) -> onnx.NodeProto | None:
    """The first node, in the order of the file, that it cannot compute and live; None if it lives.

    It halves the nodes that the named values take, so it dies a few times more.
    """
    nodes, _ = upstream(values.graph, names)
    if not _dies(values, nodes, feeds):
        return None
    lives, dies = 0, len(nodes)  # how many of the first nodes it computes, and how many it does not
    while dies - lives > 1:
        middle = (lives + dies) // 2
        if _dies(values, nodes[:middle], feeds):
            dies = middle
        else:
            lives = middle
    return nodes[dies - 1]


def _dies(values: InnerValues, nodes: Sequence[onnx.NodeProto], feeds: Feeds) -> bool:
    read = {name for node in nodes for name in names_read(node)}
    ends = [name for node in nodes for name in node.output if name and name not in read]
    try:
        values.run(ends, feeds)
    except EndedError as error:
        return not error.hung
    except OptgraphError:  # it says no, and lives
        pass
    return False
