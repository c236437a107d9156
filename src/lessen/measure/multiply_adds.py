"""Multiply-adds of one forward pass, counted operator by operator as PyTorch dispatches them.

What is counted is what runs: the shapes that reach `convolution`, `mm`, `addmm`, `bmm`, `baddbmm`, `mv`, `dot` and
scaled-dot-product attention. One multiply-add is one multiplication and one addition (half of what is called a FLOP).
Additions of biases, normalisations and everything elementwise are not counted. This is a count, never a speed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lessen.core.data import Inputs
from lessen.measure.evaluate import evaluating, run_once


def count_multiply_adds(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-adds of one forward pass on these inputs.

    >>> count_multiply_adds(nn.Linear(8, 4), torch.zeros(1, 8))
    32
    """
    return sum(multiply_adds_by_operator(model, inputs).values())


def multiply_adds_by_operator(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Multiply-adds of one forward pass, by the name of the operator that did them."""
    counting = _Counting()
    with evaluating(model), _open_attention(), counting:
        run_once(model, inputs)
    return dict(counting.counted)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in _COUNTS:
            # An operator made of others (a linear under inference mode) shows its parts when it is taken apart.
            with self:
                parts = func.decompose(*args, **kwargs)
            return parts if parts is not NotImplemented else func(*args, **kwargs)
        result = func(*args, **kwargs)
        self.counted[packet.__name__.strip("_")] += _COUNTS[packet](result, *args, **kwargs)
        return result


@contextmanager
def _open_attention() -> Iterator[None]:
    """Attention modules through their parts, not through one fused operator whose inside cannot be seen."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def _convolution(result: Tensor, inputs: Tensor, weight: Tensor, *rest: Any, **more: Any) -> int:
    # weight: (out, in / groups, ...) and one product a place of the output; transposed: (in, out / groups, ...) and
    # one product a place of the input. rest: bias, stride, padding, dilation, transposed, output_padding, groups.
    transposed = rest[4] if len(rest) > 4 else more.get("transposed", False)
    return (inputs if transposed else result).numel() * math.prod(weight.shape[1:])


def _attention(result: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Queries with keys, then weights with values, for each query head: (..., L, E), (..., S, E), (..., S, V)."""
    scores = query.shape[:-1].numel() * key.shape[-2]
    return scores * (query.shape[-1] + value.shape[-1])


_aten = torch.ops.aten
_COUNTS: dict[Any, Callable[..., int]] = {
    _aten.convolution: _convolution,
    _aten._convolution: _convolution,
    _aten.mm: lambda result, a, b: result.numel() * a.shape[-1],
    _aten._int_mm: lambda result, a, b: result.numel() * a.shape[-1],
    _aten.addmm: lambda result, bias, a, b, **_: result.numel() * a.shape[-1],
    _aten.bmm: lambda result, a, b: result.numel() * a.shape[-1],
    _aten.baddbmm: lambda result, bias, a, b, **_: result.numel() * a.shape[-1],
    _aten.mv: lambda result, a, b: a.numel(),
    _aten.addmv: lambda result, bias, a, b, **_: a.numel(),
    _aten.dot: lambda result, a, b: a.numel(),
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention: _attention,
    _aten._scaled_dot_product_efficient_attention: _attention,
    _aten._scaled_dot_product_cudnn_attention: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
}
