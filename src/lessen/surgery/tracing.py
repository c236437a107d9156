"""What must hold while a network is traced by `torch.export`, whoever asks for the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lessen.surgery.recurrent_shapes import shapes_at_once

TERMS = 1_000
"""How many terms a size may have. Beyond that an export with free sizes does not end within minutes, or at all."""


class SizesError(RuntimeError):
    """The sizes in a network depend on those of its inputs in more terms than are followed."""


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """In force around an export: what PyTorch's own layers do only to be quick does not stop it."""
    with shapes_at_once(), _masks_unread(), _known_once(), _bounded_once():
        yield


@contextlib.contextmanager
def _known_once() -> Iterator[None]:
    """What is known of free sizes is written in its simplest form once, and not anew with each fact that is added.

    Networks with many views have hundreds of facts with divisions in them: with sizes free, three quarters of the time
    of tracing mobilevit_xxs went into that. Where a fact is then not recognised, it is only stated once more.
    """
    from torch.fx.experimental import symbolic_shapes

    name = "_resimplify_floor_div_axioms"
    place: Any = symbolic_shapes.ShapeEnv
    if hasattr(place, name):  # within another export, or made in another way
        yield
        return

    def keep(shapes: Any, value: bool) -> None:
        vars(shapes)[name] = value  # for whoever reads the program afterwards

    setattr(place, name, property(lambda shapes: False, keep))
    try:
        yield
    finally:
        delattr(place, name)


@contextlib.contextmanager
def _bounded_once() -> Iterator[None]:
    """The smallest and largest value of a size are worked out once for each part of it.

    PyTorch walks through a size as a tree, so that a part which occurs in it again and again is bounded as often: where
    the padding depends on the size, a size has hundreds of terms after a few layers, and a dozen different parts.
    """
    from torch.utils._sympy import interp, value_ranges

    places: list[Any] = [interp, value_ranges]
    walk: Any = getattr(interp, "sympy_interp", None)
    ranges = getattr(value_ranges, "SymPyValueRangeAnalysis", None)
    elsewhere = walk is None or ranges is None or getattr(value_ranges, "sympy_interp", None) is not walk
    if elsewhere or hasattr(walk, "bounds_once"):  # another version of PyTorch, or within another export
        yield
        return
    known: dict[Any, Any] = {}
    of: list[Any] = []  # the last is whose ranges `known` holds

    def walk_once(analysis: Any, env: Any, size: Any, **settings: Any) -> Any:
        nonlocal known
        if analysis is not ranges:
            return walk(analysis, env, size, **settings)
        if of and of[-1] is env:
            if size not in known:
                known[size] = walk(analysis, env, size, **settings)
            return known[size]
        before, known = known, {}
        of.append(env)
        try:
            return walk(analysis, env, size, **settings)
        finally:
            known = before
            of.pop()

    walk_once.bounds_once = True  # type: ignore[attr-defined]
    try:
        for place in places:
            place.sympy_interp = walk_once
        yield
    finally:
        for place in places:
            place.sympy_interp = walk


@contextlib.contextmanager
def terms_limited() -> Iterator[None]:
    """An export whose sizes grow beyond `TERMS` terms ends with an error, so that it can be tried with fixed sizes.

    Windows that are padded, and "same" padding, state the size of a layer by that of the layer before, several times
    over. The limit is on what the network computes, not on a clock: a network gives the same file on every machine.

    Raises:
        SizesError: within the export, where a size has too many terms.
    """
    from torch.fx.experimental.sym_node import SymNode

    place: Any = SymNode
    begin = place.__init__
    if getattr(begin, "limits_terms", False):  # within another export
        yield
        return
    counted: dict[Any, int] = {}

    def terms(size: Any) -> int:
        if size not in counted:
            counted[size] = 1 + sum(terms(part) for part in size.args)
        return counted[size]

    def begin_within(node: Any, size: Any, *args: Any, **settings: Any) -> None:
        if hasattr(size, "args") and terms(size) > TERMS:  # and not a plain number
            raise SizesError(f"A size has {terms(size)} terms; {TERMS} are followed.")
        begin(node, size, *args, **settings)

    begin_within.limits_terms = True  # type: ignore[attr-defined]
    place.__init__ = begin_within
    try:
        yield
    finally:
        place.__init__ = begin


@contextlib.contextmanager
def _masks_unread() -> Iterator[None]:
    """Without a look at the values of a mask, which are not known yet.

    `nn.TransformerEncoder` looks whether a mask is causal, and so whether a kernel that needs no mask would do. With
    the mask itself its layers compute the same.
    """
    from torch.nn.modules import transformer

    module: Any = transformer
    before = getattr(module, "_detect_is_causal_mask", None)
    if before is None:  # a version of PyTorch that has it elsewhere exports as it does without
        yield
        return

    def said(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True

    module._detect_is_causal_mask = said
    try:
        yield
    finally:
        module._detect_is_causal_mask = before
