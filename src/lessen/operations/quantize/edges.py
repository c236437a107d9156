"""The edges of a network that need quantize / dequantize pairs so that a runtime fuses integer kernels.

A runtime makes an integer kernel of an operator when all its operands come out of a pair and its result goes into one.
A pair where it is not wanted is as bad as a missing one: between a convolution and the ReLU that it absorbs, it splits
them. The rules, on the traced calls:

* a layer (convolution, linear) is computed in integers, and so are additions, products, concatenations and means
  that lead to one; each of their operands needs a pair;
* what a convolution or such an operator gives needs a pair, unless its only reader is an activation that clips: then
  what that gives does. What a linear layer gives needs one only if it is read by an integer operator;
* an operator that only moves numbers (reshape, max-pool, split) keeps the grid of what it moves;
* everything else computes in floating point, from and to grids.
"""

from __future__ import annotations

from collections.abc import Callable

from lessen.surgery.calls import Call, Trace

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
LAYERS = CONVOLUTIONS | {"linear"}
JOINS = frozenset({"add", "mul", "cat", "concat", "concatenate"})
POOLS = frozenset({"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean"})
CLIPS = frozenset({"relu", "relu6", "hardtanh", "clamp", "clip"})
_MOVES = """max_pool1d max_pool2d max_pool3d adaptive_max_pool2d reshape view flatten unflatten permute transpose
squeeze unsqueeze chunk split unbind __getitem__ narrow expand repeat pad channel_shuffle pixel_shuffle movedim"""
MOVES = frozenset(_MOVES.split())
NOTHING = frozenset(
    {"dropout", "contiguous", "detach", "clone", "alias", "dropout2d", "alpha_dropout", "to", "type_as"}
)

Sites = dict[str, str]
"""From a site to the site whose grid it keeps: itself, or for what only moves numbers, where they came from."""


def find_edges(seen: Trace, is_layer: Callable[[Call], bool]) -> Sites:
    """The sites that need pairs, in the network's order.

    Args:
        seen: The network with its batch normalisations folded.
        is_layer: Whether a call of a convolution or linear function is to be computed in integers.
    """
    makers, consumers = seen.makers(), seen.consumers()
    integer = _integer_calls(seen, consumers, is_layer)
    sites: Sites = {}

    def want(number: int) -> str:
        """Put a pair behind a tensor and give the site of its grid."""
        maker = makers.get(number)
        if maker is None:
            site = f"input:{seen.inputs.index(number)}"
            return sites.setdefault(site, site)
        moved = maker.inputs[0] if maker.inputs else None  # nothing floating is given where integers are converted
        if maker.op in NOTHING and moved is not None:
            return want(moved)
        if maker.op in MOVES and moved is not None:
            return sites.setdefault(maker.site, want(moved))
        return sites.setdefault(maker.site, maker.site)

    for one in seen.calls:
        if id(one) not in integer:
            continue
        for number in one.inputs[:1] if one.op in LAYERS else one.inputs:
            if number is not None:
                want(number)
        if one.op != "linear":
            readers = consumers.get(one.outputs[0], [])
            clipped = len(readers) == 1 and readers[0].op in CLIPS and one.outputs[0] not in seen.outputs
            want(readers[0].outputs[0] if clipped else one.outputs[0])
    order = {one.site: place for place, one in enumerate(seen.calls)}
    return dict(sorted(sites.items(), key=lambda pair: order.get(pair[0], -1)))


def _integer_calls(seen: Trace, consumers: dict[int, list[Call]], is_layer: Callable[[Call], bool]) -> set[int]:
    """The identities of the calls that are computed in integers."""
    integer: set[int] = set()
    # From the end to the start, so that what reads a tensor is decided before what makes it.
    for one in reversed(seen.calls):
        whole = bool(one.inputs) and all(number is not None for number in one.inputs)
        if (one.op in LAYERS and one.inputs[0] is not None and not _moving(one) and is_layer(one)) or (
            (_joins(one) or one.op in POOLS)
            and whole
            and any(_leads(number, integer, consumers) for number in one.outputs)
        ):
            integer.add(id(one))
    return integer


def _moving(one: Call) -> bool:
    """Whether the weight is computed from the inputs, as by a network that makes its own filters."""
    return len(one.inputs) > 1 and one.inputs[1] is not None


def _joins(one: Call) -> bool:
    return one.op in JOINS and one.plain and len(one.inputs) > 1


def _leads(number: int, integer: set[int], consumers: dict[int, list[Call]]) -> bool:
    """Whether a tensor reaches an integer call through nothing but clips and moves."""
    return any(
        id(one) in integer
        or (one.op in CLIPS | MOVES | NOTHING and any(_leads(further, integer, consumers) for further in one.outputs))
        for one in consumers.get(number, [])
    )
