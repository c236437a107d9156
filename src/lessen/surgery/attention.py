"""`nn.MultiheadAttention` with free sizes, so that whole heads can be removed.

PyTorch's module insists that heads * width equals the width of its input. This one reads its sizes from its weights. It
takes the same arguments, computes the same, and has the same parameters under the same names.

Shapes: N examples, L queries, S keys, E width of the input, H heads, D width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import PlanError
from lessen.surgery.modules import get_module, set_modules


class OpenAttention(nn.Module):
    """Scaled dot-product attention of `heads` heads, each `width` wide, on inputs of any width.

    Args:
        heads: How many heads.
        width: The width of one head, of queries, keys and values alike.
        in_proj_weight: Shape (3 * heads * width, E).
        in_proj_bias: Shape (3 * heads * width,), or None.
        out_proj: From heads * width to the width of the output.
        dropout: Of attention weights, in training.
        batch_first: Whether inputs are (N, L, E) rather than (L, N, E).
    """

    _qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer from its fused kernel, which cannot do free sizes

    def __init__(
        self,
        *,
        heads: int,
        width: int,
        in_proj_weight: nn.Parameter,
        in_proj_bias: nn.Parameter | None,
        out_proj: nn.Module,
        dropout: float,
        batch_first: bool,
    ) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width
        self.dropout = dropout
        self.batch_first = batch_first
        self.in_proj_weight = in_proj_weight
        self.in_proj_bias: nn.Parameter | None
        self.register_parameter("in_proj_bias", in_proj_bias)
        self.out_proj = out_proj

    def forward(  # noqa: PLR0917  (the signature of nn.MultiheadAttention)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; `is_causal` is only a hint there, and the mask says it all."""
        batched = query.ndim == 3
        q_NHLD, k_NHSD, v_NHSD = self._project(query, key, value, batched)
        bias = self._bias(attn_mask, key_padding_mask, q_NHLD.dtype)
        weights = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            logits = (q_NHLD * self.head_dim**-0.5) @ k_NHSD.transpose(-2, -1)
            weights = (logits if bias is None else logits + bias).softmax(-1)
            weights = F.dropout(weights, dropout)
            mixed = weights @ v_NHSD
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q_NHLD, k_NHSD, v_NHSD, attn_mask=bias, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor, batched: bool) -> tuple[Tensor, Tensor, Tensor]:
        # Self-attention projects queries, keys and values in one product.
        inputs = (query,) if query is key is value else (query, key, value)
        weights = self.in_proj_weight.chunk(len(inputs))
        bias = self.in_proj_bias
        biases = (None,) * len(inputs) if bias is None else bias.chunk(len(inputs))
        parts = []
        for x, weight, shift in zip(inputs, weights, biases, strict=True):
            if not batched:
                x = x.unsqueeze(0)
            elif not self.batch_first:
                x = x.transpose(0, 1)
            made = F.linear(x, weight, shift).unflatten(-1, (3 // len(weights), self.num_heads, self.head_dim))
            parts.extend(made.permute(2, 0, 3, 1, 4).unbind(0))
        return parts[0], parts[1], parts[2]

    def _bias(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        total = None
        if attn_mask is not None:
            total = _additive(attn_mask, dtype)
            total = total.unflatten(0, (-1, self.num_heads)) if total.ndim == 3 else total
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask, dtype)[..., None, None, :]
            total = padding if total is None else total + padding
        return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Where a mask of booleans is True, nothing may be looked at."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
    return mask.to(dtype)


def can_open(module: nn.Module) -> bool:
    """Whether a module is a `nn.MultiheadAttention` that `OpenAttention` can stand for."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


def opened(attention: nn.Module) -> OpenAttention:
    """The same attention with free sizes; it shares the parameters.

    Raises:
        PlanError: the module is not one that can be opened.
    """
    if isinstance(attention, OpenAttention):
        return attention
    if not can_open(attention) or not isinstance(attention, nn.MultiheadAttention):
        raise PlanError(
            f"A {type(attention).__name__} cannot be opened. It must be a nn.MultiheadAttention with one width for "
            "queries, keys and values and without added keys."
        )
    made = OpenAttention(
        heads=attention.num_heads,
        width=attention.head_dim,
        in_proj_weight=attention.in_proj_weight,
        in_proj_bias=attention.in_proj_bias,
        out_proj=attention.out_proj,
        dropout=attention.dropout,
        batch_first=attention.batch_first,
    )
    return made.train(attention.training)


def open_attention(model: nn.Module, paths: list[str] | None = None) -> nn.Module:
    """Open every attention in a network that can be (or those at `paths`), in place, and return the network."""
    found = [name for name, module in model.named_modules() if can_open(module)] if paths is None else paths
    if found == [""]:
        return opened(model)
    set_modules(model, {path: opened(get_module(model, path)) for path in found})
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, OpenAttention) for m in module.modules()):
            module.use_nested_tensor = False  # its nested tensors are for the fused kernel
    return model
