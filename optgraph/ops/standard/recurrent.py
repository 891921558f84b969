"""Networks that step through a sequence, forward, backward or both.

x: [steps, batch, inputs]. Weights have the gates one after the other: of an LSTM input, output, forget, cell; of a GRU
update, reset, hidden. Gives every step [steps, directions, batch, hidden], then the last state of each direction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function, OutsideTorchError

State = tuple[Tensor, ...]  # what a step hands to the next one, [batch, hidden]; the first of it is the output
# Of one direction: its weights w, r and the biases of both, as made by `_run`, gives a step.
Cell = Callable[[Tensor, Tensor, Tensor, Tensor], Callable[[Tensor, State], State]]


def _require_plain(form: Form, lengths: Tensor | None, steps: int) -> None:
    """Raises OutsideTorchError for other activations, clipped ones, and sequences of different lengths."""
    if form.get("activations") or form.get("clip") or form.integer("input_forget", 0):
        raise OutsideTorchError("gates of another kind")
    if lengths is not None and bool((lengths != steps).any()):
        raise OutsideTorchError("sequences of different lengths")


def _run(
    form: Form,
    cell: Cell,
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None],
    lengths: Tensor | None,
    initial: list[Tensor | None],
) -> tuple[Tensor, ...]:
    """All directions. With layout 1, the batch comes first in x, the states and the results."""
    batch_first = form.integer("layout", 0) == 1
    x = x.transpose(0, 1) if batch_first else x
    _require_plain(form, lengths, len(x))
    w, r, bias = weights
    both = w.new_zeros(len(w), 2 * w.shape[1]) if bias is None else bias
    shape = (len(w), x.shape[1], r.shape[2])
    states = [x.new_zeros(shape) if s is None else s.transpose(0, 1) if batch_first else s for s in initial]
    outputs, finals = [], []
    for d in range(len(w)):
        backward = d == 1 or form.text("direction", "forward") == "reverse"
        step, state = cell(w[d], r[d], *both[d].chunk(2)), tuple(s[d] for s in states)
        seen = []
        for t in reversed(range(len(x))) if backward else range(len(x)):
            state = step(x[t], state)
            seen.append(state[0])
        outputs.append(torch.stack(seen[::-1] if backward else seen))
        finals.append(state)
    results = [torch.stack(outputs, 1), *(torch.stack(last) for last in zip(*finals, strict=True))]
    if batch_first:
        results = [results[0].permute(2, 0, 1, 3), *(last.transpose(0, 1) for last in results[1:])]
    return tuple(results[: form.outputs])


def lstm(
    form: Form,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    memory: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    if peepholes is not None and bool(peepholes.any()):
        raise OutsideTorchError("peepholes")

    def cell(w: Tensor, r: Tensor, w_bias: Tensor, r_bias: Tensor) -> Callable[[Tensor, State], State]:
        def step(x: Tensor, state: State) -> State:
            h, c = state
            i, o, f, g = (x @ w.T + h @ r.T + w_bias + r_bias).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c

        return step

    return _run(form, cell, x, (w, r, bias), lengths, [hidden, memory])


def gru(
    form: Form,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    def cell(w: Tensor, r: Tensor, w_bias: Tensor, r_bias: Tensor) -> Callable[[Tensor, State], State]:
        w_gates, w_hidden = w.tensor_split([2 * w.shape[0] // 3])
        r_gates, r_hidden = r.tensor_split([len(w_gates)])
        gate_bias, (wb, rb) = (w_bias + r_bias)[: len(w_gates)], (b[len(w_gates) :] for b in (w_bias, r_bias))

        def step(x: Tensor, state: State) -> State:
            (h,) = state
            z, reset = (x @ w_gates.T + h @ r_gates.T + gate_bias).sigmoid().chunk(2, 1)
            if form.integer("linear_before_reset", 0):
                inner = reset * (h @ r_hidden.T + rb)
            else:
                inner = (reset * h) @ r_hidden.T + rb
            return ((1 - z) * (x @ w_hidden.T + wb + inner).tanh() + z * h,)

        return step

    return _run(form, cell, x, (w, r, bias), lengths, [hidden])


def rnn(
    form: Form,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    def cell(w: Tensor, r: Tensor, w_bias: Tensor, r_bias: Tensor) -> Callable[[Tensor, State], State]:
        return lambda x, state: ((x @ w.T + state[0] @ r.T + w_bias + r_bias).tanh(),)

    return _run(form, cell, x, (w, r, bias), lengths, [hidden])


FUNCTIONS: dict[str, Function] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
