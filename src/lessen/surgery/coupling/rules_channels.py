"""Normalisations, pooling, reductions, activations: what treats channels one by one, and what does not.

Shapes: N examples, C channels, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lessen.surgery.coupling.axes import Atom, Axis, cut, pin, product, unify
from lessen.surgery.coupling.walk import RULES, Averaged, OperatorCall, Value, broadcast, fresh, pointwise, rule

RULES["where"] = pointwise  # PyTorch does not mark all of its forms as such
RULES["masked_fill"] = pointwise


def _channels(call: OperatorCall, x: Value, *names: str) -> None:
    for name in names:
        value = call[name]
        if value is not None:
            unify(x.axes[1], value.axes[0])


@rule("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm")
def batch_norm(call: OperatorCall) -> Any:
    """In use, every channel has its own affine map."""
    x = call["input"]
    _channels(call, x, "weight", "bias", "running_mean", "running_var")
    if call["training"] or call["running_mean"] is None:
        _reduces(call, x, [number for number in range(len(x.axes)) if number != 1])
    call.literal(x.axes[1].size, x.axes[1], "num_features")
    made = Value(x.axes, call.made_of())
    return made if len(call.shapes) <= 1 else [made, *(Value(fresh(s), frozenset()) for s in call.shapes[1:])]


@rule("instance_norm")
def instance_norm(call: OperatorCall) -> Value:
    """Every channel of every example by itself, over its positions."""
    x = call["input"]
    _channels(call, x, "weight", "bias", "running_mean", "running_var")
    for axis in x.axes[2:]:
        pin(axis, "positions")
    call.literal(x.axes[1].size, x.axes[1], "num_features")
    return Value(x.axes, call.made_of())


def _averages(call: OperatorCall, x: Value, axes: tuple[Axis, ...]) -> None:
    """A normalisation averages over `axes`; it can do so over fewer when its weight says which network it is."""
    weight: Value | None = call["weight"]
    dims = [number for number, axis in enumerate(x.axes) if any(axis is one for one in axes)]
    if weight is not None and weight.itself is not None:
        call.found.normalised.append((weight.itself, axes))
    elif len(dims) == len(axes):
        _reduces(call, x, dims)
    else:
        for axis in axes:
            pin(axis, f"{call.where} averages over parts of it and has no weight of its own")


def _reduces(call: OperatorCall, x: Value, dims: Iterable[int]) -> None:
    """The call reduces over some axes of what it is given: over what is left of them."""
    assert call.key is not None
    call.found.averaged.append(Averaged(call.key, x.axes, tuple(dims), call.where))


@rule("layer_norm", "rms_norm", "_fused_rms_norm", "native_layer_norm")
def layer_norm(call: OperatorCall) -> Any:
    """Averages over the last axes, which the weight and the bias share."""
    x = call["input"]
    last = x.axes[len(x.axes) - len(call["normalized_shape"]) :]
    for value in (call["weight"], call["bias"]):
        if value is not None:
            for a, b in zip(last, value.axes, strict=True):
                unify(a, b)
    _averages(call, x, last)
    for size, axis in zip(call["normalized_shape"], last, strict=True):
        call.literal(size, axis, "normalized_shape")
    made = Value(x.axes, call.made_of())
    return made if len(call.shapes) <= 1 else [made, *(Value(fresh(s), None) for s in call.shapes[1:])]


@rule("group_norm")
def group_norm(call: OperatorCall) -> Value:
    """Averages over the channels of a group; whole groups may go, or the same channels of every group."""
    x, groups = call["input"], call["num_groups"]
    group, inner = Atom(groups), Atom(x.sizes[1] // groups)
    unify(x.axes[1], product((group, inner)))
    _channels(call, x, "weight", "bias")
    _averages(call, x, (inner,))
    call.literal(groups, group, "num_groups")
    call.literal(x.sizes[1], x.axes[1], "num_channels")
    return Value(x.axes, call.made_of())


@rule(
    *(f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d")),
    *("_adaptive_avg_pool2d", "upsample_trilinear3d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa"),
)
def positions(call: OperatorCall) -> Any:
    """Moves over positions, each channel by itself."""
    x = next(call.tensors())
    dimensions = int(next(c for c in reversed(call.operator.split("_with")[0].removesuffix("_aa")) if c.isdigit()))
    kept = x.axes[: len(x.axes) - dimensions]
    for axis in x.axes[len(kept) :]:
        pin(axis, "positions")
    made = [Value((*kept, *fresh(shape[len(kept) :], "positions")), call.made_of()) for shape in call.shapes]
    return made[0] if len(made) == 1 else made


_OVER_FEWER = {"mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp"}


@rule("mean", "sum", "prod", "amax", "amin", "max", "min", "any", "all", "argmax", "argmin", "logsumexp")
@rule("var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "median", "nanmean", "count_nonzero")
def reduction(call: OperatorCall) -> Any:
    """Over fewer indices, where that is well defined; what is picked by its place must stay whole."""
    values = list(call.tensors())
    if len(values) > 1:  # max and min of two tensors
        return pointwise(call)
    x, dims = values[0], call["dim"]
    count = len(x.axes)
    which = range(count) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % count for dim in which}
    if call.operator in _OVER_FEWER:
        _reduces(call, x, sorted(gone))
    else:
        for dim in gone:
            pin(x.axes[dim], f"reduced by {call.where}")
    made = []
    for shape in call.shapes:
        keep = len(shape) == count
        axes = [fresh([1])[0] if i in gone else axis for i, axis in enumerate(x.axes) if keep or i not in gone]
        made.append(Value(tuple(axes), call.made_of()))
    return made[0] if len(made) == 1 else made


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "flip", "roll", "sort")
@rule("argsort", "renorm", "cummax", "cummin")
def along(call: OperatorCall) -> Any:
    """Entries along the axis depend on one another, or change places; the other axes are free."""
    x = next(call.tensors())
    dims = call["dims"] if call["dims"] is not None else call["dim"]
    which = range(len(x.axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    for dim in which:
        pin(x.axes[dim], f"entries depend on one another in {call.where}")
    made = [Value(x.axes, call.made_of()) for _ in call.shapes]
    return made[0] if len(made) == 1 else made


@rule("topk", "kthvalue")
def topk(call: OperatorCall) -> Any:
    """Picks along one axis."""
    x, dim = next(call.tensors()), call["dim"]
    pin(x.axes[dim], f"entries are picked by {call.where}")
    made = []
    for shape in call.shapes:
        axes = list(x.axes)
        axes[dim : dim + 1 or None] = fresh([shape[dim]], f"entries are picked by {call.where}")
        made.append(Value(tuple(axes), call.made_of()))
    return made


@rule("prelu", "_prelu_kernel")
def prelu(call: OperatorCall) -> Value:
    """One slope, or one for each channel."""
    x, weight = list(call.tensors())[:2]
    if weight.sizes != [1] and len(weight.axes) == 1:
        unify(x.axes[1], weight.axes[0])
        call.literal(weight.sizes[0], weight.axes[0], "num_parameters")
    elif len(weight.axes) > 1:
        return broadcast(call, [x, weight], call.shape)
    return Value(x.axes, call.made_of())


@rule("glu")
def glu(call: OperatorCall) -> Value:
    """The first half times the sigmoid of the second."""
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    half = x.sizes[dim] // 2
    one, other = cut(x.axes[dim], [half, half])
    unify(one, other)
    return Value((*x.axes[:dim], one, *x.axes[dim + 1 :]), call.made_of())


@rule("fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask")
@rule("_fake_quantize_learnable_per_channel_affine")
def per_channel(call: OperatorCall) -> Value:
    """A scale and a zero point for each index of one axis."""
    x, *others = call.tensors()
    for other in others:
        unify(x.axes[call["axis"]], other.axes[0])
    return Value(x.axes, call.made_of())


@rule("lessen::*")
def lessen_operator(call: OperatorCall) -> Value:
    """An operator of lessen's own works element by element; `axis` says which one its vectors run along."""
    x, *others = call.tensors()
    for other in others:
        if len(other.axes) == 1 and other.sizes[0] > 1:
            axis = call["axis"] if call["axis"] is not None else x.sizes.index(other.sizes[0])
            unify(x.axes[axis], other.axes[0])
        elif len(other.axes) > 1:
            broadcast(call, [x, other], call.shape)
    return Value(x.axes, call.made_of())


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(call: OperatorCall) -> Value:
    """The weight is divided by its length over all axes but one."""
    v, g, dim = call["v"], call["g"], call["dim"]
    for number, axis in enumerate(v.axes):
        if number == dim % len(v.axes):
            unify(axis, g.axes[number])
        else:
            pin(axis, "a weight norm runs over it")
    return Value(v.axes, call.made_of())
