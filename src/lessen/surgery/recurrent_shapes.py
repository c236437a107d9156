"""Recurrent layers in `torch.export`: their shapes at once, whatever the length.

To know the shape of what an LSTM or a GRU gives, the exporter runs PyTorch's own formula of it, step by step: a text of
a hundred words takes minutes, and its length is fixed from then on. Here it is told the shapes. The layer itself stays
one operator in the graph, and tensors with numbers are computed as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_LAYERS = ("lstm", "gru")
"""Those that exporters know as one operator."""


@contextlib.contextmanager
def shapes_at_once() -> Iterator[None]:
    """In force around an export. A version of PyTorch that keeps its formulas elsewhere exports as it does without."""
    places = _formulas()
    try:
        for table, key, formula in places:
            table[key] = _shapes(formula)
        _forget()
        yield
    finally:
        for table, key, formula in places:
            table[key] = formula
        _forget()


def _formulas() -> list[tuple[Any, Any, Any]]:
    """Where PyTorch looks for the formulas: tables, keys, and what is there."""
    try:
        from torch._decomp import decomposition_table

        tables = [(one.py_kernels, [*one.py_kernels]) for one in _operators()]
    except (ImportError, AttributeError):
        return []
    tables += [(decomposition_table, _operators())]
    return [(table, key, table[key]) for table, keys in tables for key in keys if key in table]


def _operators() -> list[Any]:
    return [getattr(torch.ops.aten, name).input for name in _LAYERS]


def _forget() -> None:
    """Operators remember which formula they found last."""
    for operator in _operators():
        getattr(operator, "_dispatch_cache", {}).clear()


def _shapes(formula: Callable[..., Any]) -> Callable[..., Any]:
    from torch._subclasses.fake_tensor import FakeTensor

    def run(*args: Any, **kwargs: Any) -> Any:
        x, hx, *others = args
        if kwargs or not isinstance(x, FakeTensor) or len(others) != 7:
            return formula(*args, **kwargs)
        starts = [hx] if isinstance(hx, Tensor) else list(hx)
        ways = 1 + bool(others[5])
        outputs = x.new_empty((*x.shape[:-1], ways * starts[0].shape[-1]))
        return (outputs, *(start.new_empty(start.shape) for start in starts))

    return run
