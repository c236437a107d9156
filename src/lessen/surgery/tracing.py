"""What must hold while a network is traced by `torch.export`, whoever asks for the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lessen.surgery.recurrent_shapes import shapes_at_once


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """In force around an export: what PyTorch's own layers do only to be quick does not stop it."""
    with shapes_at_once(), _masks_unread(), _known_once():
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
