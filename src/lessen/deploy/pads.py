"""Zeros around a quantized map, put into the convolution that reads it.

A network that pads by itself (as those that came from TensorFlow do before a stride) leaves a Pad between two pairs,
which has no integer kernel: the map would be made floating point, padded and rounded again. Zero is on every grid, so
the convolution may add the same zeros itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lessen.deploy.constants import Array, attribute


def absorb_pads(graph: ir.Graph) -> bool:
    """Merge a Pad of zeros into the convolution after it where the pairs between them have one grid, in place.

    Args:
        graph: With constants as initializers. What nothing reads any more stays in it.

    Returns:
        Whether there was such a Pad.
    """
    found = False
    for pad in [node for node in graph if node.op_type == "Pad"]:
        given = pad.inputs[0]
        before, after = None if given is None else given.producer(), _only(pad, "QuantizeLinear")
        back = None if after is None else _only(after, "DequantizeLinear")
        if back is None or before is None or before.op_type != "DequantizeLinear" or not _zeros(pad):
            continue
        pads = _constant(pad.inputs[1])
        assert pads is not None
        rank, made = len(pads) // 2, back.outputs[0]
        spatial = [*pads[2:rank].tolist(), *pads[rank + 2 :].tolist()]
        if pads[:2].any() or pads[rank : rank + 2].any() or min(spatial, default=-1) < 0 or not _same(before, back):
            continue
        convolutions = [use.node for use in made.uses()]
        if all(_explicit(node) and list(node.inputs).count(made) == 1 for node in convolutions):
            found = True
            for node in convolutions:
                _pad(node, spatial)
                node.replace_input_with(0, given)
    return found


def _only(node: ir.Node, kind: str) -> ir.Node | None:
    """The one node that reads what a node gives, if it is of this kind."""
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _constant(value: ir.Value | None) -> Array | None:
    tensor = None if value is None or not value.is_initializer() else value.const_value
    return None if tensor is None else np.asarray(tensor.numpy())


def _same(one: ir.Node, other: ir.Node) -> bool:
    """Whether two nodes have equal constants, all but their first input."""
    return all(
        a is b or (_constant(a) is not None and np.array_equal(_constant(a), _constant(b)))  # type: ignore[arg-type]
        for a, b in zip(one.inputs[1:], other.inputs[1:], strict=True)
    )


def _explicit(node: ir.Node) -> bool:
    """Whether a node is a convolution that says its pads in numbers."""
    return node.op_type == "Conv" and attribute(node, "auto_pad", "NOTSET") == "NOTSET"


def _zeros(pad: ir.Node) -> bool:
    """Whether a node pads with zeros, all of its axes, by constants."""
    given = [*pad.inputs, None, None, None]
    value = np.zeros(1) if given[2] is None else _constant(given[2])
    known = _constant(given[1]) is not None and value is not None and not value.any()
    return bool(attribute(pad, "mode", "constant") == "constant" and given[3] is None and known)


def _pad(convolution: ir.Node, spatial: list[int]) -> None:
    """Add to the pads of a convolution."""
    own: Any = attribute(convolution, "pads", [0] * len(spatial))
    for name in ("pads", "auto_pad"):
        convolution.attributes.pop(name, None)
    convolution.attributes.add(ir.AttrInt64s("pads", [a + b for a, b in zip(own, spatial, strict=True)]))
