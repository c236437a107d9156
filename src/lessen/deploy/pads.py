"""Zeros around a quantized map, put into the convolution that reads it.

A network that pads by itself (as those that came from TensorFlow do before a stride) leaves a Pad between two pairs,
which has no integer kernel: the map would be made floating point, padded and rounded again. Zero is on every grid, so
the convolution may add the same zeros itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def absorb_pads(graph: Any) -> None:
    """Merge a Pad of zeros into the convolution after it where the pairs between them have one grid, in place.

    Args:
        graph: With constants as initializers.
    """
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def only(name: str, kind: str) -> Any:
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    def constant(name: str) -> Any:
        return numpy_helper.to_array(values[name]) if name in values else None

    def same(one: Any, other: Any) -> bool:
        return all(
            a == b or (constant(a) is not None and np.array_equal(constant(a), constant(b)))
            for a, b in zip(one.input[1:], other.input[1:], strict=True)
        )

    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        before, after = makers.get(pad.input[0]), only(pad.output[0], "QuantizeLinear")
        back = None if after is None else only(after.output[0], "DequantizeLinear")
        if back is None or before is None or before.op_type != "DequantizeLinear" or not _zeros(pad, constant):
            continue
        pads, convolutions = constant(pad.input[1]), readers.get(back.output[0], [])
        rank = len(pads) // 2
        spatial = [*pads[2:rank].tolist(), *pads[rank + 2 :].tolist()]
        if pads[:2].any() or pads[rank : rank + 2].any() or min(spatial, default=-1) < 0 or not same(before, back):
            continue
        if all(_explicit(node) and list(node.input).count(back.output[0]) == 1 for node in convolutions):
            for node in convolutions:
                _pad(node, spatial)
                node.input[0] = pad.input[0]
    _drop_unread(graph)


def _drop_unread(graph: Any) -> None:
    """Remove pads that nothing reads any more, the pairs behind them, and what only these have read."""
    gone: set[str] = set()
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        kinds = {"Pad", "QuantizeLinear", "DequantizeLinear"}
        dead = [node for node in graph.node if node.op_type in kinds and not read & set(node.output)]
        if not dead:
            break
        for node in dead:
            gone |= set(node.input)
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in gone - read]:
        graph.initializer.remove(tensor)


def _explicit(node: Any) -> bool:
    """Whether a node is a convolution that says its pads in numbers."""
    automatic = next((each.s for each in node.attribute if each.name == "auto_pad"), b"NOTSET")
    return bool(node.op_type == "Conv" and automatic == b"NOTSET")


def _zeros(pad: Any, constant: Any) -> bool:
    """Whether a node pads with zeros, all of its axes, by constants."""
    mode = next((each.s for each in pad.attribute if each.name == "mode"), b"constant")
    given = [*pad.input, "", "", ""]
    value = constant(given[2]) if given[2] else np.zeros(1)
    known = constant(given[1]) is not None and value is not None
    return bool(mode == b"constant" and not given[3] and known and not value.any())


def _pad(convolution: Any, spatial: list[int]) -> None:
    """Add to the pads of a convolution."""
    from onnx import helper

    own = next((list(each.ints) for each in convolution.attribute if each.name == "pads"), [0] * len(spatial))
    kept = [each for each in convolution.attribute if each.name not in {"pads", "auto_pad"}]
    kept.append(helper.make_attribute("pads", [a + b for a, b in zip(own, spatial, strict=True)]))
    copies = [type(each).FromString(each.SerializeToString()) for each in kept]
    del convolution.attribute[:]
    convolution.attribute.extend(copies)
