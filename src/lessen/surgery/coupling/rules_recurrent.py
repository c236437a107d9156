"""Recurrent layers: a hidden unit is a row of each gate, and a column wherever the hidden state is read.

A unit whose column in the weights of the next step, and in all that reads the outputs, is gone plays no part, whatever
it holds: gates, cells and states of other units do not see it. So nothing need be known of its activations, nor of the
state that it starts from.

All layers and directions of one module have one hidden size, and their last states stand in one tensor, so their units
go together: the third of each.

Shapes: N examples, T steps, I inputs, G gates, H hidden units, P projected units, D directions, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from lessen.surgery.coupling.axes import Atom, Axis, pin, product, unify
from lessen.surgery.coupling.walk import OperatorCall, Value, fresh, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _read(call: OperatorCall, weight: Value, summed: Axis) -> None:
    unify(weight.axes[1], summed)
    for name in weight.made_of or ():
        call.found.weights.add(name)
        call.found.contracted.append((name, weight.axes[1]))


def _gated(call: OperatorCall, parameters: Sequence[Value], x: Value, state: Axis, cell: Axis) -> None:
    """One direction of one layer, on x_...I: weights (G H, I) and (G H, H), biases (G H,); (P, H) for a projection.

    Args:
        call: The call.
        parameters: In PyTorch's order.
        x: What it is given.
        state: What it gives, H or P.
        cell: H; the same axis where there is no projection.
    """
    steps, given = x.axes[:-1], x.axes[-1]
    gates = Atom(_GATES[call.operator.removesuffix("_cell")], "the gates of a recurrent layer")
    if cell is not state:
        *parameters, projection = parameters
        unify(projection.axes[0], state)
        _read(call, projection, cell)
        call.found.products.append((*steps, state, cell))
    for parameter in parameters:
        unify(parameter.axes[0], product((gates, cell)))
        call.found.weights |= parameter.made_of or frozenset()
    for weight, summed in zip(parameters[:2], (given, state), strict=True):
        _read(call, weight, summed)
        call.found.products.append((*steps, gates, cell, summed))


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: OperatorCall) -> list[Value]:
    """x_NTI, states (L D, N, H) -> outputs_NT(D H), states; LSTMs have cells as well."""
    packed = call["batch_sizes"] is not None
    x: Value = call["data"] if packed else call["input"]
    starts: list[Value] = [call["hx"]] if isinstance(call["hx"], Value) else list(call["hx"])
    parameters: list[Value] = list(call["params"])
    ways, layers = 1 + bool(call["bidirectional"]), int(call["num_layers"])
    every = len(parameters) // (ways * layers)
    state = starts[0].axes[-1]
    cell = starts[1].axes[-1] if len(starts) > 1 and starts[1].sizes[-1] != state.size else state
    for start in starts:
        unify(start.axes[-1], cell if start is starts[-1] and len(starts) > 1 else state)
    steps, given = x.axes[:-1], x.axes[-1]
    for axis in (*steps, *(axis for start in starts for axis in start.axes[:-1])):
        pin(axis, "layers, examples and time steps of a recurrent layer")
    call.literal(given.size, given, "input_size")
    call.literal(cell.size, cell, "hidden_size")
    if cell is not state:
        call.literal(state.size, state, "proj_size")
    made = given
    for layer in range(layers):
        for way in range(ways):
            place = (layer * ways + way) * every
            _gated(call, parameters[place : place + every], Value((*steps, made)), state, cell)
        made = product((Atom(ways, "the directions of a recurrent layer"), state)) if ways > 1 else state
    outputs = Value((*steps, made), call.made_of())
    ends = [
        Value((*fresh(shape[:-1], "layers, examples and time steps of a recurrent layer"), axis), call.made_of())
        for shape, axis in zip(call.shapes[1:], (state, cell), strict=False)
    ]
    return [outputs, *ends]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def step(call: OperatorCall) -> Value | list[Value]:
    """x_NI, state_NH -> state_NH; LSTMs have cells as well."""
    x: Value = call["input"]
    starts: list[Value] = [call["hx"]] if isinstance(call["hx"], Value) else list(call["hx"])
    hidden = starts[0].axes[-1]
    for start in starts[1:]:
        unify(start.axes[-1], hidden)
    parameters = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if isinstance(call[name], Value)]
    _gated(call, parameters, x, hidden, hidden)
    call.literal(x.sizes[-1], x.axes[-1], "input_size")
    call.literal(hidden.size, hidden, "hidden_size")
    made = [Value((*x.axes[:-1], hidden), call.made_of()) for _ in starts]
    return made[0] if len(made) == 1 else made
