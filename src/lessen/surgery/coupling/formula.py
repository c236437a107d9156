"""How one axis of a tensor is made of groups, as data that can be written to a file.

A formula is a list of terms, one behind the other; a term is a list of factors, outer to inner; a factor is a number
(that many indices, none of which go), the name of a group, or a formula in brackets. `[["conv1", 49]]` is an axis of
49 * size("conv1") indices, `[["a"], ["b"], [8]]` is a concatenation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lessen.surgery.coupling.axes import Atom, Axis, Product, resolve

Formula = list[list[Any]]


def formula(axis: Axis, names: Mapping[Atom, str]) -> Formula:
    """Write an axis down; atoms without a name become numbers."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return [[names.get(axis, axis.size)]]
    if isinstance(axis, Product):
        return [_term([formula(factor, names) for factor in axis.factors])]
    terms: Formula = []
    for part in axis.terms:
        for term in formula(part, names):
            if terms and all(isinstance(factor, int) for factor in (*term, *terms[-1])):
                terms[-1] = [math.prod(terms[-1]) + math.prod(term)]
            else:
                terms.append(term)
    return terms


def _term(factors: list[Formula]) -> list[Any]:
    term: list[Any] = []
    for factor in factors:
        for part in factor[0] if len(factor) == 1 else [factor]:
            if term and isinstance(part, int) and isinstance(term[-1], int):
                term[-1] *= part
            else:
                term.append(part)
    return term


def groups_of(axis: Formula) -> Iterator[str]:
    """The names of the groups in a formula."""
    for term in axis:
        for factor in term:
            if isinstance(factor, str):
                yield factor
            elif isinstance(factor, list):
                yield from groups_of(factor)


def is_formula(axis: Any, sizes: Mapping[str, int]) -> bool:
    """Whether data from a file is a formula, made of whole numbers above zero and of groups with such a size.

    No term of such a formula, and no factor of a term, is larger than the whole axis.

    >>> is_formula([["a", 49], [8]], {"a": 2}), is_formula([["a", 0]], {"a": 2}), is_formula([["b"]], {"a": 2})
    (True, False, False)
    """

    def factor(each: Any) -> bool:
        each = sizes.get(each, 0) if isinstance(each, str) else each
        return is_formula(each, sizes) if isinstance(each, list) else type(each) is int and each > 0

    return isinstance(axis, list) and all(isinstance(term, list) and all(map(factor, term)) for term in axis)


def size(axis: Formula, sizes: Mapping[str, int]) -> int:
    """How many indices the axis has when the groups have these sizes.

    >>> size([["a", 49], [8]], {"a": 2})
    106
    """
    return sum(math.prod(_factor_size(factor, sizes) for factor in term) for term in axis)


def _factor_size(factor: Any, sizes: Mapping[str, int]) -> int:
    if isinstance(factor, int):
        return factor
    return sizes[factor] if isinstance(factor, str) else size(factor, sizes)


def kept_indices(axis: Formula, sizes: Mapping[str, int], kept: Mapping[str, Sequence[int]]) -> Tensor:
    """The indices of the axis that stay when the groups keep these of theirs; a group not in `kept` keeps all.

    >>> kept_indices([["a", 2], [1]], {"a": 3}, {"a": [0, 2]})
    tensor([0, 1, 4, 5, 6])
    """
    return keep_mask(axis, sizes, kept).nonzero().flatten()


def keep_mask(axis: Formula, sizes: Mapping[str, int], kept: Mapping[str, Sequence[int]]) -> Tensor:
    """For each index of the axis whether it stays, bool. Only the groups in the formula cost time and memory."""

    def mask(name: str) -> Tensor:
        if name not in kept:
            return torch.ones(sizes[name], dtype=torch.bool)
        stays = torch.zeros(sizes[name], dtype=torch.bool)
        stays[torch.as_tensor(kept[name], dtype=torch.int64)] = True
        return stays

    return _spread(axis, torch.ones(1, dtype=torch.bool), mask, torch.logical_and)


def owners(axis: Formula, sizes: Mapping[str, int], group: str) -> Tensor:
    """For each index of the axis the index of the group that it falls with, or -1, int64."""

    def label(name: str) -> Tensor:
        return torch.arange(sizes[name]) if name == group else torch.full((sizes[name],), -1)

    return _spread(axis, torch.full((1,), -1), label, torch.maximum)


def _spread(
    axis: Formula, fixed: Tensor, of_group: Callable[[str], Tensor], joined: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """One value for each index of the axis: that of its groups, joined; `fixed` (one value) for what is a number."""
    terms = []
    for term in axis:
        parts = fixed
        for factor in term:
            if isinstance(factor, int):
                own = fixed.expand(factor)
            elif isinstance(factor, str):
                own = of_group(factor)
            else:
                own = _spread(factor, fixed, of_group, joined)
            parts = joined(parts[:, None], own[None, :]).flatten()
        terms.append(parts)
    return torch.cat(terms)
