"""Names for the axes of tensors, and what it means that two axes are the same.

An axis is written with *atoms*: a product of axes (outer to inner, as `reshape` lays them out), a sum of axes (one
behind the other, as `cat` lays them out), or an atom, of which nothing more is known. `unify` says that two axes must
lose the same indices; where one of them turns out to have parts, the atoms of the other are refined into the same
parts, everywhere they stand, because an atom is bound to what it turned out to be.

A pinned atom must keep all its indices, and knows why. What cannot be expressed is pinned, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


class Atom:
    """An axis, or a part of one, without known parts.

    Args:
        size: How many indices it has.
        pinned: Why none of them may be removed, or None.
    """

    __slots__ = ("bound", "pinned", "size")

    def __init__(self, size: int, pinned: str | None = None) -> None:
        self.size = size
        self.pinned = pinned
        self.bound: Axis | None = None

    def __repr__(self) -> str:
        return f"{'!' if self.pinned else ''}{self.size}"


@dataclass(frozen=True)
class Product:
    """Index (i, j, ...) of the factors, outer to inner, stands at i * size(j) + j. Without factors: size 1."""

    factors: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """How many indices it has."""
        return math.prod(factor.size for factor in self.factors)


@dataclass(frozen=True)
class Sum:
    """The indices of the terms, one term behind the other."""

    terms: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """How many indices it has."""
        return sum(term.size for term in self.terms)


Axis = Atom | Product | Sum
ONE = Product(())


def product(axes: Iterable[Axis]) -> Axis:
    """The product of axes, resolved."""
    return resolve(Product(tuple(axes)))


def concatenation(axes: Iterable[Axis]) -> Axis:
    """The sum of axes, resolved."""
    return resolve(Sum(tuple(axes)))


def resolve(axis: Axis) -> Axis:
    """The axis in normal form: bindings followed, nested parts flattened, factors common to all terms moved out.

    >>> a, b, c = Atom(2), Atom(3), Atom(49)
    >>> resolve(Sum((Product((a, c)), Product((b, c)))))
    Product(factors=(Sum(terms=(2, 3)), 49))
    """
    if isinstance(axis, Atom):
        if axis.bound is not None:
            axis.bound = resolve(axis.bound)
            return axis.bound
        return ONE if axis.size == 1 else axis
    if isinstance(axis, Product):
        factors: list[Axis] = []
        for part in map(resolve, axis.factors):
            factors.extend(part.factors if isinstance(part, Product) else (part,))
        return factors[0] if len(factors) == 1 else Product(tuple(factors))
    terms: list[Axis] = []
    for part in map(resolve, axis.terms):
        terms.extend(part.terms if isinstance(part, Sum) else (part,) if part.size else ())
    return terms[0] if len(terms) == 1 else _move_out(terms)


def _move_out(terms: list[Axis]) -> Axis:
    """Sum(a*r, b*r) -> Sum(a, b)*r, so that there is one way to write it."""
    lists = [list(factors_of(term)) for term in terms]
    common: list[Axis] = []
    while lists and all(lists) and all(factors[-1] == lists[0][-1] for factors in lists):
        common.insert(0, lists[0][-1])
        for factors in lists:
            factors.pop()
    if not common:
        return Sum(tuple(terms))
    return Product((Sum(tuple(_of(factors) for factors in lists)), *common))


def factors_of(axis: Axis) -> tuple[Axis, ...]:
    """The factors of a resolved axis."""
    return axis.factors if isinstance(axis, Product) else (axis,)


def _of(factors: Iterable[Axis]) -> Axis:
    whole = tuple(factors)
    return whole[0] if len(whole) == 1 else Product(whole)


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms that an axis is made of, in order."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        yield axis
    else:
        for part in axis.factors if isinstance(axis, Product) else axis.terms:
            yield from atoms(part)


def pin(axis: Axis, reason: str) -> None:
    """Keep all indices of an axis, for a reason; the first reason stays."""
    for atom in atoms(axis):
        atom.pinned = atom.pinned or reason


def unify(one: Axis, other: Axis, reason: str = "two layouts of one axis do not fit together") -> None:
    """Say that two axes of one size lose the same indices. Where their layouts cannot be one, both are pinned."""
    if not _unify(resolve(one), resolve(other)):
        pin(one, reason)
        pin(other, reason)


def cut(axis: Axis, sizes: Iterable[int], reason: str = "the axis is cut inside one of its parts") -> list[Axis]:
    """The parts of an axis, one behind the other. Where the cut cannot be expressed, everything is pinned."""
    rest: Axis = resolve(axis)
    parts: list[Axis] = []
    sizes = list(sizes)
    for size in sizes[:-1]:
        pair = _cut(rest, size)
        if pair is None:
            pin(axis, reason)
            return [Atom(size, reason) for size in sizes]
        parts.append(pair[0])
        rest = resolve(pair[1])
    return [*parts, rest]


def reshape(axes: Iterable[Axis], sizes: Iterable[int]) -> list[Axis]:
    """The axes after a reshape to these sizes: the factors of the whole tensor, dealt out anew."""
    sizes = list(sizes)
    whole = product(axes)
    rest = list(factors_of(whole))
    made: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        while (have := math.prod(factor.size for factor in taken)) < size and rest:
            need = size // have
            pair = _factor(rest[0], need) if size % have == 0 else None
            if pair is None:
                reason = f"a reshape to {sizes} cuts across the parts of an axis"
                pin(whole, reason)
                return [Atom(size, reason) for size in sizes]
            taken.append(pair[0])
            rest[:1] = [factor for factor in factors_of(resolve(pair[1])) if factor.size > 1]
        made.append(product(taken))
    return made


def _factor(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """An axis as (outer part that is no larger than `size`, inner rest)."""
    axis = resolve(axis)
    if axis.size <= size:
        return (axis, ONE) if size % axis.size == 0 else None
    if axis.size % size:
        return None
    outer, inner = Atom(size), Atom(axis.size // size)
    return (outer, inner) if _unify(axis, Product((outer, inner))) else None


def _bind(atom: Atom, axis: Axis) -> bool:
    if atom.pinned:
        pin(axis, atom.pinned)
    atom.bound = axis
    return True


def _unify(one: Axis, other: Axis) -> bool:
    one, other = resolve(one), resolve(other)
    if one == other:
        return True
    if one.size != other.size:
        return False
    if isinstance(one, Atom):
        return _bind(one, other)
    if isinstance(other, Atom):
        return _bind(other, one)
    if isinstance(one, Sum) or isinstance(other, Sum):
        return _unify_sums(one, other)
    return _unify_products(one, other)


def _unify_products(one: Axis, other: Axis) -> bool:
    first, *rest = factors_of(one)
    second, *others = factors_of(other)
    if first.size > second.size:
        return _unify_products(other, one)
    if first.size == second.size:
        return _unify(first, second) and _unify(Product(tuple(rest)), Product(tuple(others)))
    if second.size % first.size:
        return _unify_sums(one, other)
    outer, inner = Atom(first.size), Atom(second.size // first.size)
    if not _unify(second, Product((outer, inner))):
        return False
    return _unify(first, outer) and _unify(Product(tuple(rest)), Product((inner, *others)))


def _unify_sums(one: Axis, other: Axis) -> bool:
    """Unify as sums: the shorter of the two first terms is cut from both."""
    head = min(_first_term(one), _first_term(other))
    if head >= one.size:
        return False
    left, right = _cut(one, head), _cut(other, head)
    return left is not None and right is not None and _unify(left[0], right[0]) and _unify(left[1], right[1])


def _first_term(axis: Axis) -> int:
    """The size of the first of the terms of an axis, as a sum."""
    axis = resolve(axis)
    if isinstance(axis, Sum):
        return axis.terms[0].size
    if isinstance(axis, Atom):
        return axis.size
    first, *rest = axis.factors
    inner = math.prod(factor.size for factor in rest)
    return _first_term(first) * inner if isinstance(first, Sum) else inner


def _cut(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """An axis as (its first `size` indices, the rest)."""
    axis = resolve(axis)
    if size == 0:
        return Sum(()), axis
    if size == axis.size:
        return axis, Sum(())
    if isinstance(axis, Atom):
        head, tail = Atom(size), Atom(axis.size - size)
        _bind(axis, Sum((head, tail)))
        return head, tail
    if isinstance(axis, Sum):
        first, *rest = axis.terms
        if size >= first.size:
            pair = _cut(Sum(tuple(rest)), size - first.size)
            return None if pair is None else (Sum((first, pair[0])), pair[1])
        pair = _cut(first, size)
        return None if pair is None else (pair[0], Sum((pair[1], *rest)))
    first, *rest = axis.factors
    inner = Product(tuple(rest))
    whole, part = divmod(size, inner.size)
    if part == 0:
        pair = _cut(first, whole)
        return None if pair is None else (Product((pair[0], inner)), Product((pair[1], inner)))
    # The cut is inside one repetition of the inner part: the outer factor falls into (before, the one cut, after).
    outer = cut(first, [whole, 1, first.size - whole - 1])
    if resolve(outer[1]) != ONE:
        return None
    pair = _cut(inner, part)
    if pair is None:
        return None
    before, after = Product((outer[0], inner)), Product((outer[2], inner))
    return Sum((before, pair[0])), Sum((pair[1], after))
