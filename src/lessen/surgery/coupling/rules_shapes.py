"""Operators that move axes about without computing: reshape, cat, split, permute, expand, index, pad."""

from __future__ import annotations

from typing import Any

from lessen.surgery.coupling.axes import ONE, Atom, Axis, concatenation, cut, pin, product, reshape, unify
from lessen.surgery.coupling.walk import OperatorCall, Value, broadcast, fresh, rule


def _made(call: OperatorCall, axes: Any, value: Value | None = None) -> Value:
    return Value(tuple(axes), call.made_of(*([value] if value else [])))


@rule("clone", "contiguous", "detach", "alias", "to", "_to_copy", "dropout", "feature_dropout", "alpha_dropout")
@rule("lift_fresh_copy", "lift_fresh", "type_as", "zero", "fill", "zeros_like", "ones_like", "full_like", "empty_like")
@rule("rand_like", "randn_like", "float", "double", "half", "requires_grad", "hardswish", "feature_alpha_dropout")
@rule("native_dropout", "bernoulli", "resolve_conj", "resolve_neg", "positive", "nan_to_num", "rrelu", "triu", "tril")
def same(call: OperatorCall) -> Any:
    """The axes of the first tensor."""
    x = next(call.tensors())
    made = [Value(x.axes, call.made_of()) for _ in call.shapes]
    return made[0] if len(made) == 1 else made


@rule("copy")
def copy(call: OperatorCall) -> Value:
    """Written over, element by element."""
    return broadcast(call, list(call.tensors()), call.shape)


@rule("reshape", "view", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "_reshape_alias")
def reshaped(call: OperatorCall) -> Value:
    """The factors of the whole tensor, dealt out anew."""
    x: Value = call["self"]
    axes = reshape(x.axes, call.shape)
    written = [size for name in ("shape", "size", "sizes") for size in call[name] or ()]
    first, place = (call["dim"] % len(x.axes), 1) if call.operator == "unflatten" else (0, 0)
    for number, (size, axis) in enumerate(zip(written, axes[first:], strict=False)):
        if isinstance(size, int) and size > 1:  # -1 is whatever is left
            call.literal(size, axis, place=number + place)
    return _made(call, axes, x)


@rule("permute")
def permute(call: OperatorCall) -> Value:
    """Axes in another order."""
    x = call["self"]
    return _made(call, (x.axes[dim] for dim in call["dims"]))


@rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint")
def transpose(call: OperatorCall) -> Value:
    """Two axes change places (all of them for `.T`)."""
    x = call["self"]
    axes = list(x.axes)
    if call.operator == "numpy_T":
        axes.reverse()
    elif len(axes) > 1:
        a = next((call[name] for name in ("dim0", "axis0") if call[name] is not None), -2)
        b = next((call[name] for name in ("dim1", "axis1") if call[name] is not None), -1)
        axes[a], axes[b] = axes[b], axes[a]
    return _made(call, axes)


@rule("movedim", "moveaxis")
def movedim(call: OperatorCall) -> Value:
    """Some axes to new places, the rest in order."""
    x, count = call["self"], len(call["self"].axes)
    given = (call["source"], call["destination"])
    source, target = ([dim % count for dim in ([dims] if isinstance(dims, int) else dims)] for dims in given)
    rest = iter(dim for dim in range(count) if dim not in source)
    order = [source[target.index(place)] if place in target else next(rest) for place in range(count)]
    return _made(call, (x.axes[dim] for dim in order))


@rule("squeeze", "unsqueeze", "atleast_1d", "atleast_2d", "squeeze_copy", "unsqueeze_copy")
def squeeze(call: OperatorCall) -> Value:
    """Axes of size 1 come and go."""
    x = call["self"]
    rest = iter([axis for axis in x.axes if axis.size != 1])
    return _made(call, (ONE if size == 1 else next(rest) for size in call.shape))


@rule("expand", "expand_as", "broadcast_to")
def expand(call: OperatorCall) -> Value:
    """An axis of size 1 repeated: the new one is free, whatever it meets."""
    x = call["self"]
    made = broadcast(call, [x], call.shape)
    sizes = call["size"] if call["size"] is not None else ()
    for number, (size, axis) in enumerate(zip(sizes, made.axes, strict=False)):
        if isinstance(size, int) and size > 1:
            call.literal(size, axis, place=number)
    return _made(call, made.axes, x)


@rule("repeat", "tile")
def repeat(call: OperatorCall) -> Value:
    """Whole copies one behind the other."""
    x, repeats = call["self"], list(call["repeats"] or call["dims"])
    axes: list[Axis] = [*fresh([1] * (len(repeats) - len(x.axes))), *x.axes]
    repeats = [1] * (len(axes) - len(repeats)) + repeats
    return _made(call, (product((*fresh([n]), axis)) for n, axis in zip(repeats, axes, strict=True)))


@rule("repeat_interleave")
def repeat_interleave(call: OperatorCall) -> Value:
    """Every index several times in a row."""
    x, repeats, dim = call["self"], call["repeats"], call["dim"]
    if not isinstance(x, Value) or not isinstance(repeats, int) or dim is None:
        for value in call.tensors():
            for axis in value.axes:
                pin(axis, f"{call.where} repeats by numbers that are computed")
        return call.fresh("repeated by numbers that are computed")
    axes = list(x.axes)
    axes[dim] = product((axes[dim], *fresh([repeats])))
    return _made(call, axes)


@rule("cat", "concat", "concatenate")
def cat(call: OperatorCall) -> Value:
    """One behind the other along one axis; the others meet."""
    values = [value for value in call["tensors"] if value.sizes != [0]]
    dim = call["dim"] % len(values[0].axes)
    axes: list[Axis] = []
    for number in range(len(values[0].axes)):
        if number == dim:
            axes.append(concatenation(value.axes[dim] for value in values))
            continue
        for value in values[1:]:
            unify(values[0].axes[number], value.axes[number])
        axes.append(values[0].axes[number])
    return _made(call, axes)


@rule("stack")
def stack(call: OperatorCall) -> Value:
    """A new axis that counts the tensors."""
    values, dim = call["tensors"], call["dim"] % len(call.shape)
    for value in values[1:]:
        for a, b in zip(values[0].axes, value.axes, strict=True):
            unify(a, b)
    axes = list(values[0].axes)
    axes.insert(dim, Atom(len(values), "tensors are stacked along it"))
    return _made(call, axes)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(call: OperatorCall) -> list[Value]:
    """Parts of one axis. Parts of one size lose the same indices, so that equal parts stay equal."""
    x: Value = next(call.tensors())
    dim = (call["dim"] or 0) % len(x.axes)
    sizes = [shape[dim] for shape in call.shapes]
    parts = cut(x.axes[dim], sizes, f"{call.where} cuts inside one of the parts of the axis")
    call.literal(x.sizes[dim], x.axes[dim])  # a split into halves of a number that some attribute holds
    given = call["split_size"] if call["split_size"] is not None else call["split_sizes"]
    if not isinstance(given, list | tuple):
        for part in parts[1:]:
            if part.size == parts[0].size:
                unify(parts[0], part)
        if isinstance(given, int):
            call.literal(given, parts[0])
    else:
        for size, part in zip(given, parts, strict=True):
            call.literal(size, part)
    return [_made(call, (*x.axes[:dim], part, *x.axes[dim + 1 :])) for part in parts]


@rule("select", "unbind")
def select(call: OperatorCall) -> Any:
    """One index of an axis, or each by itself: the axis stays as it is."""
    x: Value = call["self"]
    dim = (call["dim"] or 0) % len(x.axes)
    pin(x.axes[dim], f"{call.where} picks single entries")
    made = [_made(call, (*x.axes[:dim], *x.axes[dim + 1 :])) for _ in call.shapes]
    return made[0] if call.operator == "select" else made


@rule("slice", "narrow")
def slice_(call: OperatorCall) -> Value:
    """A part of an axis."""
    x: Value = call["self"]
    dim = (call["dim"] or 0) % len(x.axes)
    size, step = x.sizes[dim], call["step"] or 1
    start = call["start"] or 0
    start = max(0, min(size, start + size if start < 0 else start))
    length = call.shape[dim]
    if step != 1:
        pin(x.axes[dim], f"{call.where} takes every {step}th entry")
        part = fresh([length], "every so many entries of an axis")[0]
    elif length == size:
        part = x.axes[dim]
    else:
        part = cut(x.axes[dim], [start, length, size - start - length])[1]
        for value, axis in ((start, cut(x.axes[dim], [start, size - start])[0]), (length, part)):
            if value > 1:
                call.literal(value, axis)
    return _made(call, (*x.axes[:dim], part, *x.axes[dim + 1 :]), x)


@rule("slice_scatter", "select_scatter")
def scatter_part(call: OperatorCall) -> Value:
    """A part is written over; along that axis nothing may go."""
    x, source = call["self"], call["src"]
    dim = (call["dim"] or 0) % len(x.axes)
    rest = [axis for number, axis in enumerate(x.axes) if number != dim]
    theirs = list(source.axes)
    if call.operator == "slice_scatter":
        pin(theirs.pop(dim), "written into a part of an axis")
    pin(x.axes[dim], "a part of it is written over")
    for a, b in zip(rest, theirs, strict=True):
        unify(a, b)
    return _made(call, x.axes)


@rule("index", "index_select", "gather", "take_along_dim")
def index(call: OperatorCall) -> Value:
    """Entries picked by number: those axes stay, the others pass."""
    x: Value = call["self"]
    reason = f"entries are picked by number in {call.where}"
    if call.operator == "index_select":
        dim = call["dim"] % len(x.axes)
        pin(x.axes[dim], reason)
        return _made(call, (*x.axes[:dim], *fresh([call.shape[dim]], reason), *x.axes[dim + 1 :]))
    if call.operator != "index":
        for value in call.tensors():
            for axis in value.axes:
                pin(axis, reason)
        return call.fresh(reason)
    picked = [number for number, indices in enumerate(call["indices"]) if indices is not None]
    for value in call["indices"]:
        for axis in value.axes if value is not None else ():
            pin(axis, reason)
    for number in picked:
        pin(x.axes[number], reason)
    passing = [axis for number, axis in enumerate(x.axes) if number not in picked]
    # Where the picked axes are neighbours, the new ones stand in their place; else in front.
    front = picked[0] if picked == list(range(picked[0], picked[-1] + 1)) else 0
    new = fresh(call.shape[front : front + len(call.shape) - len(passing)], reason)
    return _made(call, (*passing[:front], *new, *passing[front:]))


@rule("pad", "constant_pad_nd", *(f"{k}_pad{n}d" for k in ("reflection", "replication") for n in (1, 2, 3)))
def pad(call: OperatorCall) -> Value:
    """Zeros before and behind; what is added is pinned. Padding by reflection pins the axis."""
    x: Value = call["self"]
    pads = call["pad"] if call["pad"] is not None else call["padding"]
    constant = call.operator == "constant_pad_nd" or call["mode"] == "constant"
    axes = list(x.axes)
    for number in range(len(pads) // 2):
        before, behind, dim = pads[2 * number], pads[2 * number + 1], len(axes) - 1 - number
        if before == behind == 0:
            continue
        if constant and before >= 0 and behind >= 0:
            axes[dim] = concatenation((Atom(before, "padding"), axes[dim], Atom(behind, "padding")))
        else:
            pin(axes[dim], f"padded by {call.where}")
            axes[dim] = fresh([call.shape[dim]], "padded")[0]
    return _made(call, axes)


@rule("pixel_shuffle", "channel_shuffle", "pixel_unshuffle")
def shuffle(call: OperatorCall) -> Value:
    """Channels into positions, positions into channels, or groups of channels dealt out."""
    x: Value = call["self"]
    *batch, channels, height, width = x.axes
    factor = call["upscale_factor"] or call["downscale_factor"] or call["groups"]
    if call.operator == "channel_shuffle":
        group, inner = reshape([channels], [factor, channels.size // factor])
        return _made(call, (*batch, product((inner, group)), height, width))
    if call.operator == "pixel_shuffle":
        kept, *tile = reshape([channels], [channels.size // factor**2, factor, factor])
        for axis in tile:
            pin(axis, "channels that become positions")
        return _made(call, (*batch, kept, *fresh(call.shape[-2:], "positions")))
    tile_axes = fresh([factor, factor], "positions that become channels")
    return _made(call, (*batch, product((channels, *tile_axes)), *fresh(call.shape[-2:], "positions")))


@rule("im2col", "col2im", "unfold")
def neighbourhoods(call: OperatorCall) -> Value:
    """Positions around positions: inside the axis of channels (`F.unfold`, `F.fold`), or an axis of their own."""
    x: Value = call["self"]
    if call.operator == "unfold":
        dim = (call["dimension"] or 0) % len(x.axes)
        pin(x.axes[dim], f"{call.where} looks at neighbours along it")
        new = fresh([call.shape[dim], call.shape[-1]], "positions")
        return _made(call, (*x.axes[:dim], new[0], *x.axes[dim + 1 :], new[1]))
    if call.operator == "im2col":
        *batch, channels, height, width = x.axes
        for axis in (height, width):
            pin(axis, "positions")
        around = fresh([call.shape[-2] // channels.size, call.shape[-1]], "positions")
        return _made(call, (*batch, product((channels, around[0])), around[1]))
    *batch, channels, positions = x.axes
    kept, tile = reshape([channels], [call.shape[-3], channels.size // call.shape[-3]])
    for axis in (tile, positions):
        pin(axis, "positions")
    return _made(call, (*batch, kept, *fresh(call.shape[-2:], "positions")))


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(call: OperatorCall) -> Value:
    """The same number everywhere, at any size."""
    made = Value(fresh(call.shape), frozenset())
    for size, axis in zip(call.shape, made.axes, strict=True):
        call.literal(size, axis)
    return made


@rule("arange", "linspace", "eye", "scalar_tensor", "one_hot", "meshgrid")
def numbers(call: OperatorCall) -> Any:
    """Numbers that depend on their place."""
    made = [Value(fresh(shape, "numbers that depend on their place"), frozenset()) for shape in call.shapes]
    return made[0] if len(made) == 1 else made


@rule("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_size", "sym_constrain_range_for_size")
@rule("item", "_local_scalar_dense", "sym_constrain_range")
def nothing(call: OperatorCall) -> None:
    """Checks make no tensor."""
