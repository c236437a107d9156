"""Lessons that lessen models: compression and distillation for PyTorch, with the evidence next to the file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lessen.core.others import use
    from lessen.measure import measure
    from lessen.pipeline import Compressed, compress
    from lessen.recipe import load, pack, resume, sweep
    from lessen.report import compare, frame

__version__ = "0.1.0.dev0"
__all__ = ["Compressed", "compare", "compress", "frame", "load", "measure", "pack", "resume", "sweep", "use"]

_HOME = {
    "Compressed": "lessen.pipeline",
    "compare": "lessen.report",
    "compress": "lessen.pipeline",
    "frame": "lessen.report",
    "load": "lessen.recipe",
    "measure": "lessen.measure",
    "pack": "lessen.recipe",
    "resume": "lessen.recipe",
    "sweep": "lessen.recipe",
    "use": "lessen.core.others",
}


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"lessen.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'lessen' has no attribute {name!r}{_advice(name)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """What editors and notebooks complete `lessen.` with."""
    return sorted([*__all__, *_PARTS, "__version__"])


_PARTS = ("operations", "schemes", "knowledge", "graph", "data", "tasks", "deploy", "engine", "zoo", "core")


def _advice(name: str) -> str:
    """Where a name lives that was looked for here, as the end of a sentence; nothing for what Python itself looks for.

    >>> _advice("PruneChannels")
    '. Write: from lessen.operations import PruneChannels'
    """
    if name.startswith("_"):
        return ""
    places = {part: importlib.import_module(f"lessen.{part}").__all__ for part in _PARTS}
    for part, names in places.items():
        if name in names:
            return f". Write: from lessen.{part} import {name}"
    from lessen.core.errors import did_you_mean

    return f": {did_you_mean(name, [*__all__, *(each for names in places.values() for each in names)])}"
