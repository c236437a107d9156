"""Attention as ONNX files have it: two products and a softmax between them, in as few operators as runtimes join.

The exporter's own form scales queries and keys by themselves and turns keys by way of three axes. OpenVINO then joins
nothing but the products with the softmax, and copies the keys. Here keys are turned at once, and the scores are scaled.

Shapes: E features of a head, L queries, S keys, H heads, G of them with keys of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes attention."""
    import onnx_ir as ir
    from onnx import numpy_helper
    from onnxscript import opset21

    op: Any = opset21  # its type variables do not know symbolic tensors

    def attention(  # noqa: PLR0917  (the signature is PyTorch's)
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        floats = query.dtype.numpy()
        if enable_gqa and query.shape[-3] != key.shape[-3]:
            key, value = repeated(key, query.shape[-3]), repeated(value, query.shape[-3])
        rank = len(key.shape)
        factor = constant(query.shape[-1] ** -0.5 if scale is None else scale, floats)
        turned = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
        if query.dtype == ir.DataType.FLOAT:
            scores = op.Mul(op.MatMul(query, turned), factor)
        else:  # 16 bits may not hold scores that are not scaled yet
            scores = op.MatMul(op.Mul(query, factor), turned)
        if is_causal:
            rows, columns = (np.arange(int(each.shape[-2])) for each in (query, key))
            attn_mask = op.GreaterOrEqual(constant(rows[:, None], np.int64), constant(columns[None], np.int64))
        boolean = attn_mask is not None and (is_causal or attn_mask.dtype == ir.DataType.BOOL)
        if boolean:
            lowest = constant(np.finfo(floats).min, floats)
            scores = op.Add(scores, op.Where(attn_mask, constant(0, floats), lowest))
        elif attn_mask is not None:
            scores = op.Add(scores, attn_mask)
        weights = op.Softmax(scores, axis=-1)
        if boolean and not is_causal:  # a query that may look at nothing gets nothing
            weights = op.Where(attn_mask, weights, constant(0, floats))
        return op.MatMul(weights, value)

    def repeated(given: Any, heads: int) -> Any:
        """Keys or values (..., G, S, E), each head of them repeated in place to (..., H, S, E)."""
        groups, features = given.shape[-3], given.shape[-1]
        rank = len(given.shape)
        counts = [1] * (rank + 1)
        counts[-3] = heads // groups
        spread = op.Tile(op.Unsqueeze(given, constant([rank - 2], np.int64)), constant(counts, np.int64))
        return op.Reshape(spread, constant([*[0] * (rank - 3), heads, -1, features], np.int64))

    def constant(value: Any, kind: Any) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.asarray(value, dtype=kind)))

    return {ATTENTION: attention}


def by_definition(  # noqa: PLR0917  (the signature is PyTorch's)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by its definition: query (..., L, E), key (..., S, E), value (..., S, V)."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if boolean else scores + attn_mask
    return scores.softmax(-1) @ value
