"""Axes that must keep one size because the network's own code takes the size of one for that of another.

`batch, length, width = x.shape` and later `y.reshape(batch, length, width)`, where `y` comes from heads: the width of
`x` must then be that of all heads together. Such axes are made one: a head goes together with a block of the width.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Sequence

from lessen.surgery.coupling.axes import Atom, Axis, Product, pin, product, resolve, unify
from lessen.surgery.coupling.reads import Computed, Dim, Origin, Reads
from lessen.surgery.coupling.walk import Literal, fresh

_REASON = "the code takes its size for that of an axis with another layout"


def tie(literals: Sequence[Literal], reads: Reads, find: Callable[[Dim], Axis | None]) -> list[Literal]:
    """Unify axes whose sizes the code takes for one another.

    Args:
        literals: Numbers given to calls that are sizes of axes.
        reads: Where the code has them from.
        find: The axis behind a number of a shape, or None where it is not known.

    Returns:
        The literals that were not read from shapes: these are held by attributes.
    """
    held: list[Literal] = []
    read: list[tuple[Literal, Origin]] = []
    for literal in literals:
        origin = literal.value if literal.attribute else reads.origin(literal.key, literal.value, literal.place)
        if isinstance(origin, int):
            held.append(literal)
        else:
            read.append((literal, origin))
    for literal, origin in read:
        _make_one(literal, origin, find, held)
    return held


def _make_one(literal: Literal, origin: Origin, find: Callable[[Dim], Axis | None], held: Sequence[Literal]) -> None:
    """The axis of a literal is the one that its number was read from, or the factor of it that is meant."""
    if isinstance(origin, Dim):
        source = find(origin)
        if source is not None:
            _unify(literal.axis, source)
        return
    if not isinstance(origin, Computed):
        return
    left, right = origin.left, origin.right
    if origin.function is operator.mul and isinstance(left, int):
        left, right = right, left
    source = find(left) if isinstance(left, Dim) else None
    if source is None or not isinstance(right, int) or right < 1:
        return
    if origin.function is operator.floordiv:
        _unify(source, product((_counted(right, literal, held), literal.axis)))
    elif origin.function is operator.mul:
        _unify(literal.axis, product((source, *fresh([right]))))
    elif origin.function in {operator.add, operator.sub}:
        pin(literal.axis, _REASON)


def _unify(one: Axis, other: Axis) -> None:
    """Make two axes one, unless they have one size whatever is removed: the factors of one in another order."""
    if one.size == other.size and _polynomial(one) != _polynomial(other):
        unify(one, other, _REASON)


def _polynomial(axis: Axis) -> Counter[tuple[int, ...]]:
    """The size as a polynomial in the sizes of free atoms: monomials (ids of atoms) to coefficients."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return Counter({(): axis.size}) if axis.pinned else Counter({(id(axis),): 1})
    if isinstance(axis, Product):
        made: Counter[tuple[int, ...]] = Counter({(): 1})
        for factor in axis.factors:
            pairs = itertools.product(made.items(), _polynomial(factor).items())
            made = Counter()
            for (a, m), (b, n) in pairs:
                made[tuple(sorted((*a, *b)))] += m * n
        return made
    total: Counter[tuple[int, ...]] = Counter()
    for term in axis.terms:
        total.update(_polynomial(term))
    return total


def _counted(number: int, literal: Literal, held: Sequence[Literal]) -> Axis:
    """The axis that a number counts: one that the same call is given, or else the same module."""
    alike = [other for other in held if other.value == number and other.attribute is None]
    for other in alike:
        if other.key == literal.key:
            return other.axis
    for other in alike:
        if other.modules == literal.modules:
            return other.axis
    return fresh([number])[0]
