"""What a field may hold: its type hint taken apart, for reading a recipe and for writing its schema."""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from lessen.core.settings import is_named_fields

MISSING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Slot:
    """One field of a settings class.

    Args:
        name: The name of the field.
        hint: Its type, with what `Annotated` says.
        default: The value it has when nothing is said, or MISSING.
    """

    name: str
    hint: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether the field must be given."""
        return self.default is MISSING


def slots(cls: type) -> dict[str, Slot]:
    """The fields of a settings class that can be given, by name, in their order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: Slot(f.name, hints[f.name], _default(f)) for f in dataclasses.fields(cls) if f.init}


def leaves(hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The alternatives of a hint, each with what `Annotated` says of it.

    >>> [leaf.__name__ for leaf, _ in leaves(int | str | None)]
    ['int', 'str', 'NoneType']
    """
    if get_origin(hint) is Annotated:
        inner, *said = get_args(hint)
        for leaf, more in leaves(inner):
            yield leaf, (*more, *said)
    elif get_origin(hint) in {Union, types.UnionType}:
        for part in get_args(hint):
            yield from leaves(part)
    else:
        yield hint, ()


def settings_class(leaf: Any) -> type | None:
    """The settings class that a leaf of a hint is, or None."""
    return leaf if isinstance(leaf, type) and (is_pydantic_dataclass(leaf) or is_named_fields(leaf)) else None


def is_object(leaf: Any) -> bool:
    """Whether a leaf of a hint means objects of settings classes only, and nothing that a file spells differently."""
    return settings_class(leaf) is not None or bool(getattr(leaf, "_is_protocol", False))


def item_of(leaf: Any) -> Any:
    """The hint of the items of a sequence, or None where the leaf is no sequence of one kind of item."""
    origin, args = get_origin(leaf), get_args(leaf)
    if origin is tuple:
        return args[0] if len(args) == 2 and args[1] is Ellipsis else None
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return args[0]
    return None


def value_of(leaf: Any) -> Any:
    """The hint of the values of a mapping, or None where the leaf is no mapping."""
    origin, args = get_origin(leaf), get_args(leaf)
    return args[1] if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2 else None


def inside(hint: Any, known: Mapping[str, type]) -> dict[str, type]:
    """The known classes whose objects a hint allows, as they are or as items and values of what it allows."""
    found: dict[str, type] = {}
    for leaf, _ in leaves(hint):
        found |= fitting(leaf, known)
        parts = get_args(leaf) if get_origin(leaf) is tuple else (item_of(leaf), value_of(leaf))
        for part in parts:
            if part is not None and part is not Ellipsis:
                found |= inside(part, known)
    return found


def by_name(classes: Iterable[type]) -> dict[str, type]:
    """Classes by their names; several of one name are told apart by the package in front, as `graph.Linear`.

    >>> [*by_name([Slot, int])]
    ['Slot', 'int']
    """
    kinds = list(dict.fromkeys(classes))
    count = collections.Counter(kind.__name__ for kind in kinds)
    return {kind.__name__ if count[kind.__name__] == 1 else _qualified(kind): kind for kind in kinds}


def same_name(name: str, known: Mapping[str, type]) -> dict[str, type]:
    """Of the known classes those of a name, with the package in front or without."""
    return {key: kind for key, kind in known.items() if name in {key, kind.__name__}}


def _qualified(kind: type) -> str:
    package = kind.__module__.split(".")
    return f"{package[1] if package[0] == 'lessen' and len(package) > 1 else kind.__module__}.{kind.__name__}"


def fitting(leaf: Any, known: Mapping[str, type]) -> dict[str, type]:
    """The known classes whose objects a leaf of a hint allows, by the names that a file gives them in this place.

    That is the plain name, unless several of one name are allowed here.
    """
    fits = _fitting(leaf, known)
    count = collections.Counter(kind.__name__ for kind in set(fits.values()))
    return {kind.__name__ if count[kind.__name__] == 1 else key: kind for key, kind in fits.items()}


def _fitting(leaf: Any, known: Mapping[str, type]) -> dict[str, type]:
    """Those of the class, or of the protocol.

    A call fits when its arguments have the names of the protocol's, whatever shape suffixes follow them: that is what
    tells an objective `(student, teacher)` from a divergence `(student_log, teacher_log)`.
    """
    if settings_class(leaf):
        return {leaf.__name__: leaf, **{name: cls for name, cls in known.items() if issubclass(cls, leaf)}}
    if getattr(leaf, "_is_protocol", False):
        return {name: cls for name, cls in known.items() if _keeps(cls, leaf)}
    if isinstance(leaf, type) and any(is_named_fields(cls) and leaf in cls.__mro__ for cls in known.values()):
        return {name: cls for name, cls in known.items() if leaf in cls.__mro__}
    if get_origin(leaf) is Callable:
        wanted = get_args(leaf)[0] if get_args(leaf) else ...
        if isinstance(wanted, list) and len(wanted) > 2:  # of two arguments there are too many kinds to tell apart
            return {name: cls for name, cls in known.items() if len(_arguments(cls, "__call__") or ()) == len(wanted)}
    return {}


@functools.cache
def _keeps(cls: type, protocol: type) -> bool:
    own = {field.name for field in dataclasses.fields(cls)}
    for name in _members(protocol):
        if name not in own and not hasattr(cls, name):
            return False
        theirs = _arguments(protocol, name)
        if theirs is not None and _arguments(cls, name) != theirs:
            return False
    return True


@functools.cache
def _members(protocol: type) -> set[str]:
    found: set[str] = set()
    for base in protocol.__mro__:
        if getattr(base, "_is_protocol", False) and base.__module__ != "typing":
            found |= set(vars(base)) | set(vars(base).get("__annotations__", {}))
    return {name for name in found if name == "__call__" or not name.startswith("_")}


@functools.cache
def _arguments(cls: type, name: str) -> tuple[str, ...] | None:
    """The names of a method's arguments before the star, without their shape suffixes."""
    method = inspect.getattr_static(cls, name, None)
    method = method.__func__ if isinstance(method, classmethod | staticmethod) else method
    if not inspect.isfunction(method):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(method).parameters.values() if p.kind in kinds]
    return tuple(re.sub(r"_[A-Z0-9]+$", "", name) for name in names[1:])


def _default(field: dataclasses.Field[Any]) -> Any:
    default = field.default
    if isinstance(default, FieldInfo):
        if default.default_factory is not None:
            return typing.cast("Callable[[], Any]", default.default_factory)()
        return MISSING if default.is_required() else default.default
    if default is not MISSING:
        return default
    return field.default_factory() if field.default_factory is not MISSING else MISSING
