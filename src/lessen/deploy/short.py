"""Parameters of 16 bits in an ONNX file: stored so, and cast to 32 bits where they are used.

A runtime carries out the cast when it loads the file. OpenVINO keeps it, as it does for its own compressed files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lessen.surgery import short


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes our operators."""
    from onnx import TensorProto
    from onnxscript import opset21

    op: Any = opset21

    def float16(x: Any) -> Any:
        return op.CastLike(op.Cast(x, to=TensorProto.FLOAT16), x)

    def bfloat16(x: Any) -> Any:
        return op.CastLike(op.Cast(x, to=TensorProto.BFLOAT16), x)

    ours: Any = torch.ops.lessen
    return {ours.float16.default: float16, ours.bfloat16.default: bfloat16}


def decompositions() -> dict[Any, Any]:
    """Our operators in PyTorch's own, so that a program runs where lessen is not installed."""
    ours: Any = torch.ops.lessen
    return {ours.float16.default: short.plain_float16, ours.bfloat16.default: short.plain_bfloat16}


def store_short(model: Any) -> None:
    """Store what is cast to 16 bits in them, in an ONNX model, in place; without any nothing changes."""
    import ml_dtypes
    import onnx

    graph = model.graph
    kinds: dict[int, Any] = {onnx.TensorProto.FLOAT16: np.float16, onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, Any] = {}
    for node in graph.node:
        to = next((each.i for each in node.attribute if each.name == "to"), 0)
        if node.op_type == "Cast" and to in kinds and node.input[0] in tensors:
            value = onnx.numpy_helper.to_array(tensors[node.input[0]]).astype(kinds[to])
            made[node.output[0]] = onnx.numpy_helper.from_array(value, node.output[0])
    if not made:
        return
    nodes = []
    for node in graph.node:
        if node.output[0] in made and node.op_type == "Cast":
            continue
        if node.op_type == "CastLike" and node.input[0] in made:
            to = tensors[node.input[1]].data_type if node.input[1] in tensors else onnx.TensorProto.FLOAT
            node = onnx.helper.make_node("Cast", [node.input[0]], list(node.output), to=to)
        nodes.append(type(node).FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *made.values()])
