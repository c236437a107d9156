"""Convolutions, matrix products and attention: what is summed over on both sides is one axis.

Shapes: N examples, C channels, G groups, L queries, S keys, E width of a query.
"""

from __future__ import annotations

from lessen.surgery.coupling.axes import Atom, Axis, pin, product, unify
from lessen.surgery.coupling.walk import OperatorCall, Value, broadcast, fresh, rule


def _weight(call: OperatorCall, weight: Value, contracted: Axis) -> None:
    for name in weight.made_of or ():
        call.found.weights.add(name)
        call.found.contracted.append((name, contracted))


def _bias(call: OperatorCall, bias: Value | None, axis: Axis) -> None:
    if bias is not None:
        unify(bias.axes[-1], axis)
        call.found.weights |= bias.made_of or frozenset()


def _attributes(call: OperatorCall, **axes: Axis) -> None:
    for name, axis in axes.items():
        call.literal(axis.size, axis, name)


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(call: OperatorCall) -> Value:
    """Channels of a group are summed over; the groups themselves are one axis of input, weight and output."""
    x, weight, groups = call["input"], call["weight"], call["groups"] or 1
    transposed = "transpose" in call.operator or bool(call["transposed"])
    spatial = len(weight.axes) - 2
    batch, x_C, positions = x.axes[: -spatial - 1], x.axes[-spatial - 1], x.axes[-spatial:]
    for axis in (*positions, *weight.axes[2:]):
        pin(axis, "positions of a convolution")
    out: Axis
    factors: tuple[Axis, ...]
    if groups == 1:
        summed, out = (weight.axes[0], weight.axes[1]) if transposed else (weight.axes[1], weight.axes[0])
        unify(x_C, summed)
        factors = (summed, out)
    else:
        group, inner_in, inner_out = (
            Atom(groups),
            *fresh([x_C.size // groups]),
            *fresh([call.shape[-spatial - 1] // groups]),
        )
        outer, inner = (inner_in, inner_out) if transposed else (inner_out, inner_in)
        unify(x_C, product((group, inner_in)))
        unify(weight.axes[0], product((group, outer)))
        unify(weight.axes[1], inner)
        summed, out, factors = inner_in, product((group, inner_out)), (group, inner_in, inner_out)
        _attributes(call, groups=group)
    _weight(call, weight, summed)
    _bias(call, call["bias"], out)
    _attributes(call, in_channels=x_C, out_channels=out)
    out_positions = fresh(call.shape[-spatial:], "positions of a convolution")
    steps = positions if transposed else out_positions
    call.found.products.append((*batch, *steps, *weight.axes[2:], *factors))
    return Value((*batch, out, *out_positions), call.made_of())


@rule("linear")
def linear(call: OperatorCall) -> Value:
    """x_NI, weight_OI -> x_NO."""
    x, weight = call["input"], call["weight"]
    unify(x.axes[-1], weight.axes[1])
    _weight(call, weight, weight.axes[1])
    _bias(call, call["bias"], weight.axes[0])
    _attributes(call, in_features=weight.axes[1], out_features=weight.axes[0])
    call.found.products.append((*x.axes, weight.axes[0]))
    return Value((*x.axes[:-1], weight.axes[0]), call.made_of())


def _contract(call: OperatorCall, one: Value, a: Axis, other: Value, b: Axis) -> None:
    """Unify the two axes that are summed over. Between two activations nothing can be left out of the sum."""
    unify(a, b)
    if one.made_of is None and other.made_of is None:
        pin(a, f"both sides of {call.where} are activations, and their scale depends on how many are summed")
    for value, axis in ((one, a), (other, b)):
        _weight(call, value, axis)


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(call: OperatorCall) -> Value:
    """x_...IK, y_...KJ -> ...IJ."""
    one, other = list(call.tensors())[:2]
    return _matmul(call, one, other)


def _matmul(call: OperatorCall, one: Value, other: Value) -> Value:
    a, b = one.axes, other.axes
    _contract(call, one, a[-1], other, b[-2] if len(b) > 1 else b[-1])
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    shape = call.shape[: len(call.shape) - len(rows) - len(columns)]
    batch = broadcast(call, [Value(a[:-2]), Value(b[:-2])], shape)
    call.found.products.append((*batch.axes, *rows, a[-1], *columns))
    return Value((*batch.axes, *rows, *columns), call.made_of(one, other))


@rule("addmm", "baddbmm", "addmv")
def addmm(call: OperatorCall) -> Value:
    """Bias + x @ y."""
    bias, one, other = list(call.tensors())[:3]
    made = _matmul(call, one, other)
    call.found.weights |= bias.made_of or frozenset()
    return broadcast(call, [made, bias], call.shape)


@rule("einsum")
def einsum(call: OperatorCall) -> Value:
    """Letters are names of axes already; those that are not in the result are summed over."""
    values: list[Value] = list(call["tensors"])
    terms, _, result = call["equation"].replace(" ", "").partition("->")
    letters = terms.split(",")
    if "." in terms or not result or any(len(set(term)) < len(term) for term in letters):
        reason = f"{call.where} has an equation that is not understood: {call['equation']!r}"
        for value in values:
            for axis in value.axes:
                pin(axis, reason)
        return call.fresh(reason)
    stand: dict[str, list[tuple[Value, Axis]]] = {}
    for term, value in zip(letters, values, strict=True):
        for letter, axis in zip(term, value.axes, strict=True):
            stand.setdefault(letter, []).append((value, axis))
    for letter, places in stand.items():
        first = next((place for place in places if place[1].size > 1), places[0])
        for value, axis in places:
            if value is not first[0] and axis.size == first[1].size:
                if letter in result:
                    unify(first[1], axis)
                else:
                    _contract(call, first[0], first[1], value, axis)
        if letter not in result and len(places) == 1 and first[0].made_of is None:
            pin(first[1], f"summed over by {call.where}")
    call.found.products.append(tuple(places[0][1] for places in stand.values()))
    return Value(tuple(stand[letter][0][1] for letter in result), call.made_of(*values))


@rule("scaled_dot_product_attention")
def attention(call: OperatorCall) -> Value:
    """q_...HLE, k_...HSE, v_...HSV -> ...HLV; whole heads may go, the width of a query sets the scale and stays."""
    q, k, v, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    pin(q.axes[-1], "the width of the queries sets the scale of the attention")
    unify(q.axes[-1], k.axes[-1])
    pin(k.axes[-2], "positions that attention averages over")
    unify(k.axes[-2], v.axes[-2])
    if q.sizes[:-2] == k.sizes[:-2]:
        for a, b in zip(q.axes[:-2], k.axes[:-2], strict=True):
            unify(a, b)
    else:  # several query heads share one head of keys
        for a, b in zip(q.axes[:-3], k.axes[:-3], strict=True):
            unify(a, b)
        unify(q.axes[-3], product((k.axes[-3], Atom(q.sizes[-3] // k.sizes[-3]))))
    for a, b in zip(k.axes[:-2], v.axes[:-2], strict=True):
        unify(a, b)
    if mask is not None:
        broadcast(call, [Value((*q.axes[:-1], k.axes[-2])), mask], (*q.sizes[:-1], k.sizes[-2]))
    call.found.products.append((*q.axes, k.axes[-2]))
    call.found.products.append((*q.axes[:-1], k.axes[-2], v.axes[-1]))
    return Value((*q.axes[:-1], v.axes[-1]), call.made_of())


@rule("embedding")
def embedding(call: OperatorCall) -> Value:
    """Rows are picked by number, so they stay; the width is free."""
    weight, indices = call["weight"], call["indices"]
    pin(weight.axes[0], "entries of an embedding are picked by number")
    _attributes(call, embedding_dim=weight.axes[1])
    return Value((*indices.axes, weight.axes[1]), call.made_of(weight, indices))
