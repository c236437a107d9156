"""Methods that come from outside lessen: whose code a person has allowed, and the classes that it brings.

A file may name a class of somebody's own. To make it, its module must be imported, which executes it; so a file alone
never does that. A package is allowed by `lessen.use`, by objects of it that are given to lessen, or by a load that was
told to import.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from lessen.core.errors import SettingError, did_you_mean
from lessen.core.settings import made_classes

GROUP = "lessen.methods"
"""Entry points of this group name the modules of installed packages that bring methods."""
SCRIPT = "__main__"

_allowed: set[str] = set()


def use(*what: str | ModuleType | type) -> Any:
    """Let recipes, plans and packed files name classes from outside lessen. What is named is imported and trusted.

    Args:
        what: Modules, as objects or by name; names of entry points of the group `lessen.methods`; or classes, as of a
            script or notebook. All of the top-level package of each may be named from then on, in this process.

    Returns:
        What was given, imported; so `use` may decorate a class.

    Raises:
        SettingError: there is no such module, or it cannot be imported.

    >>> import fractions
    >>> use("fractions") is fractions
    True
    >>> use("fractoins")
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: There is no module 'fractoins' to take methods from. Install it, or start ...
    """
    if not what:
        raise SettingError("use: nothing was given; name a module, as lessen.use('my_methods'), or give a class.")
    found = [_used(each) for each in what]
    return found[0] if len(found) == 1 else tuple(found)


def allow(value: object) -> None:
    """Let files name the classes of the package that an object comes from; its code has run already."""
    _allow(type(value).__module__)


def is_allowed(name: str) -> bool:
    """Whether a module, given by name or by that of its entry point, is allowed already."""
    return _package(offers().get(name, name)) in _allowed


def is_lessens(kind: type) -> bool:
    """Whether a class is lessen's."""
    return _package(kind.__module__) == "lessen"


def others() -> list[type]:
    """The settings classes and dataclasses of all packages that are allowed, as far as they are imported.

    Of two that bear one name in one module, as after a cell of a notebook was run twice, the later.
    """
    found: dict[tuple[str, str], type] = {}
    for kind in (*_dataclasses(), *made_classes()):
        if _package(kind.__module__) in _allowed:
            found[kind.__module__, kind.__qualname__] = kind
    return list(found.values())


def offers() -> dict[str, str]:
    """The modules that installed packages offer, by the name of their entry point; nothing is imported."""
    return {point.name: point.module for point in _points()}


def _used(what: str | ModuleType | type) -> Any:
    if isinstance(what, ModuleType | type):
        _allow(what.__module__ if isinstance(what, type) else what.__name__)
        return what
    if not isinstance(what, str):
        raise SettingError(f"use: got {what!r:.80}, but a module, the name of one or a class was expected.")
    if what == SCRIPT:
        raise SettingError("use: the classes of a script or notebook have no module to import; give the classes.")
    name = offers().get(what, what)
    try:
        with current_folder():
            found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise SettingError(
                f"{name} cannot be imported, because it imports {error.name}, which is missing."
            ) from error
        more = f" Installed packages offer: {', '.join(map(repr, offers()))}." if offers() else ""
        raise SettingError(
            f"There is no module {what!r} to take methods from. Install it, or start in its folder.{more}"
        ) from error
    except Exception as error:  # it is somebody's code
        first = str(error).strip().partition("\n")[0]
        raise SettingError(f"Module {name!r} cannot be imported: {type(error).__name__}: {first}") from error
    _allow(name)
    return found


def _allow(module: str) -> None:
    if _package(module) not in {"lessen", "builtins"}:
        _allowed.add(_package(module))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _dataclasses() -> Iterator[type]:
    for name, module in list(sys.modules.items()):
        if _package(name) in _allowed and isinstance(module, ModuleType):
            for thing in list(vars(module).values()):
                if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == name:
                    yield thing


@contextmanager
def current_folder() -> Iterator[None]:
    """Let modules be imported from the current folder as well, after all other places, for a block."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def named(module: str, name: str) -> type:
    """The class of a name in a module of somebody's own that is allowed.

    Raises:
        SettingError: the module is not allowed, or has no such class.
    """
    brought = [kind for kind in others() if kind.__module__ == module]
    found = next((kind for kind in brought if kind.__name__ == name), None)
    if found is not None:
        return found
    if _package(module) in _allowed and (module == SCRIPT or module in sys.modules):
        raise SettingError(f"{module} has no {name!r}: {did_you_mean(name, [kind.__name__ for kind in brought])}")
    if module == SCRIPT:
        raise SettingError(
            f"{name} was defined in a script or notebook. Define it here as well, and call lessen.use({name}) before; "
            "to load it from anywhere, put it into a module."
        )
    raise SettingError(
        f"{name} comes from the module {module!r}, and to import that executes it. If you trust its author, call "
        f"lessen.use({module!r}) before, or allow it with --allow-import (in Python: allow_import=True)."
    )
