"""Lessons that lessen models: compression and distillation for PyTorch, with the evidence next to the file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lessen.measure import measure
    from lessen.pipeline import Compressed, compress
    from lessen.recipe import load, pack, resume, sweep
    from lessen.report import compare, frame

__version__ = "0.1.0.dev0"
__all__ = ["Compressed", "compare", "compress", "frame", "load", "measure", "pack", "resume", "sweep"]

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
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lessen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
