"""What a recipe may name: the settings classes in the `__all__` of lessen's packages. Nothing is registered twice."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import is_pydantic_dataclass

from lessen.core.card import Card
from lessen.core.hints import by_name, settings_class
from lessen.core.others import others
from lessen.core.settings import shared_bases
from lessen.graph import Branch, Edge, Ensemble, Labels, Role, Snapshot, Variant

PACKAGES = ("data", "knowledge", "operations", "graph", "engine", "schemes", "deploy", "pipeline")


@functools.cache
def catalogue() -> Mapping[str, type]:
    """Lessen's settings classes by name, in the order of the packages; `package.Name` where a name is used twice."""
    return by_name(
        thing
        for package in PACKAGES
        for thing in _offered(package).values()
        if isinstance(thing, type) and is_pydantic_dataclass(thing)
    )


@functools.cache
def words() -> Mapping[str, type]:
    """The parts of a graph that a file can hold: nodes without networks or examples of their own, and edges."""
    return {kind.__name__: kind for kind in (Branch, Edge, Ensemble, Labels, Role, Snapshot, Variant)}


def known() -> Mapping[str, type]:
    """All that a recipe may name: lessen's settings classes, and those of the packages that are allowed."""
    brought = [kind for kind in others() if settings_class(kind)]
    return by_name([*catalogue().values(), *words().values(), *brought])


@functools.cache
def methods() -> Mapping[str, type]:
    """Every class with a card, by its name: the methods, with or without settings."""
    found: dict[str, type] = {}
    for package in PACKAGES:
        for name, thing in _offered(package).items():
            if isinstance(thing, type) and isinstance(getattr(thing, "card", None), Card):
                found[name] = thing
    return found


def about(cls: type) -> tuple[str, dict[str, str]]:
    """The first sentence of a class, and what its docstring, or that of a shared base, says of each argument.

    >>> from lessen.data import Shift
    >>> about(Shift)[1]["by"]
    'Most pixels to move by, in each direction.'
    """
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    said = {name: text for base in reversed(shared_bases(cls)) for name, text in about(base)[1].items()}
    name, inside = "", False
    for line in lines:
        if line.strip() == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(":")
            said[name] = text.strip()
        elif inside and name and line.strip():
            said[name] += " " + line.strip()
    return (lines[0] if lines else ""), said


def _offered(package: str) -> dict[str, Any]:
    module = importlib.import_module(f"lessen.{package}")
    return {name: getattr(module, name) for name in getattr(module, "__all__", ())}
