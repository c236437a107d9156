"""Parameters of 16 bits in an ONNX file: stored so, and cast to 32 bits where they are used.

A runtime carries out the cast when it loads the file. OpenVINO keeps it, as it does for its own compressed files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import torch

from lessen.deploy.constants import DOMAIN, Array, Constants, Stored, own_operator, replace
from lessen.deploy.forms.base import Twin
from lessen.surgery.forms import half

BITS = 16
_KINDS = {"Float16": ir.DataType.FLOAT16, "BFloat16": ir.DataType.BFLOAT16}


class HalfTwin(Twin):
    """Parameters of 16 bits."""

    order: ClassVar[int] = 2

    def translations(self) -> dict[Any, Callable[..., Any]]:
        """Each rounding is an operator of our domain."""
        ours: Any = torch.ops.lessen
        float16_op, bfloat16_op = (own_operator(name, 1) for name in _KINDS)

        def float16(x: Any) -> Any:
            return float16_op(x)

        def bfloat16(x: Any) -> Any:
            return bfloat16_op(x)

        return {ours.float16.default: float16, ours.bfloat16.default: bfloat16}

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        """The roundings in PyTorch's own operators."""
        ours: Any = torch.ops.lessen
        return {ours.float16.default: half.plain_float16, ours.bfloat16.default: half.plain_bfloat16}

    def operators(self) -> dict[str, Stored]:
        """The two roundings."""
        return {name: (_value, lambda node: BITS) for name in _KINDS}

    def store(self, constants: Constants) -> None:
        """Store what is rounded to 16 bits in them."""
        for node in [node for node in constants.graph if node.domain == DOMAIN and node.op_type in _KINDS]:
            (given,) = node.inputs
            assert given is not None
            value = constants.value(given)
            name = node.outputs[0].name or "short"
            if value is None:
                halves = constants.before(node, "Cast", [given], name=f"{name}_short", to=_KINDS[node.op_type].value)
            else:
                halves = constants.add(f"{name}_short", value.astype(_KINDS[node.op_type].numpy()))
            replace(node, constants.before(node, "Cast", [halves], name=f"{name}_cast", to=ir.DataType.FLOAT.value))


def halves(constants: Constants, value: ir.Value) -> np.dtype[Any] | None:
    """The 16 bits that a constant is rounded to, or None."""
    node = value.producer()
    ours = node is not None and node.domain == DOMAIN and node.op_type in _KINDS
    return np.dtype(_KINDS[node.op_type].numpy()) if ours and node is not None else None


def _value(node: ir.Node, given: list[Array]) -> Array:
    return given[0].astype(_KINDS[node.op_type].numpy()).astype(np.float32)


TWIN = HalfTwin()
