"""The JSON schema of recipes, from the settings classes: for editors that complete and check while one types."""

from __future__ import annotations

import enum
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic.fields import FieldInfo

from lessen.core.hints import Slot, fitting, item_of, leaves, settings_class, slots, value_of
from lessen.core.settings import encode
from lessen.recipe.catalogue import about

_PLAIN: Mapping[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    Path: "string",
    NoneType: "null",
}
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def schema_of(cls: type, known: Mapping[str, type]) -> dict[str, Any]:
    """The schema of a file that holds one settings object of a class, and of all it can hold.

    Args:
        cls: The class of the whole file.
        known: The classes a file may name.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A {cls.__name__.lower()} of lessen",
        **_object(cls, known),
        "$defs": {name: _object(held, known) for name, held in sorted(_reached(cls, known).items())},
    }


def _object(cls: type, known: Mapping[str, type]) -> dict[str, Any]:
    says, arguments = about(cls)
    properties = {name: _field(slot, arguments.get(name, ""), known) for name, slot in slots(cls).items()}
    required = [name for name, slot in slots(cls).items() if slot.required]
    made: dict[str, Any] = {"description": says, "type": "object", "properties": properties}
    return {**made, **({"required": required} if required else {}), "additionalProperties": False}


def _field(slot: Slot, says: str, known: Mapping[str, type]) -> dict[str, Any]:
    made = _hint(slot.hint, known)
    if says:
        made["description"] = says
    if not slot.required:
        made["default"] = encode(slot.default)
    return made


def _hint(hint: Any, known: Mapping[str, type]) -> dict[str, Any]:
    options = [option for leaf, said in leaves(hint) for option in _leaf(leaf, said, known)]
    unique = [option for i, option in enumerate(options) if option not in options[:i]]
    if not unique or {} in unique:
        return {}
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _leaf(leaf: Any, said: tuple[Any, ...], known: Mapping[str, type]) -> list[dict[str, Any]]:
    if leaf in _PLAIN:
        return [{"type": _PLAIN[leaf], **_bounds(said)}]
    if typing.get_origin(leaf) is typing.Literal:
        return [{"enum": list(typing.get_args(leaf))}]
    if isinstance(leaf, type) and issubclass(leaf, enum.Enum):
        return [{"enum": [member.value for member in leaf]}]
    fits = fitting(leaf, known)
    options: list[dict[str, Any]] = [{"$ref": f"#/$defs/{_key(cls, known)}"}] if (cls := settings_class(leaf)) else []
    for name, held in fits.items():
        inner: dict[str, Any] = {"$ref": f"#/$defs/{_key(held, known)}"}
        bare = not any(slot.required for slot in slots(held).values())
        if bare:
            options.append({"const": name})
            inner = {"anyOf": [inner, {"type": "null"}]}
        options.append(
            {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}
        )
    if options:
        return options
    return _container(leaf, known)


def _key(cls: type, known: Mapping[str, type]) -> str:
    """What a class is called among all known ones."""
    name = cls.__name__
    return name if known.get(name) is cls else next((key for key, kind in known.items() if kind is cls), name)


def _container(leaf: Any, known: Mapping[str, type]) -> list[dict[str, Any]]:
    origin, args = typing.get_origin(leaf), typing.get_args(leaf)
    if (inner := item_of(leaf)) is not None:
        return [{"type": "array", "items": _hint(inner, known)}]
    if origin is tuple:
        count = len(args)
        parts = [_hint(arg, known) for arg in args]
        return [{"type": "array", "prefixItems": parts, "minItems": count, "maxItems": count}]
    if (inner := value_of(leaf)) is not None:
        return [{"type": "object", "additionalProperties": _hint(inner, known)}]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return [{"type": "array"}]
    # What a file cannot hold (a function, a module type) is left out; what can be anything is left open.
    return [{}] if leaf is Any else []


def _bounds(said: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in said:
        for piece in item.metadata if isinstance(item, FieldInfo) else (item,):
            for name, key in _BOUNDS.items():
                if (bound := getattr(piece, name, None)) is not None:
                    found[key] = bound
    return found


def _reached(cls: type, known: Mapping[str, type]) -> dict[str, type]:
    """The classes that can occur anywhere inside a class."""
    found: dict[str, type] = {}
    hints = [slot.hint for slot in slots(cls).values()]
    while hints:
        for leaf, _ in leaves(hints.pop()):
            parts = typing.get_args(leaf) if typing.get_origin(leaf) is tuple else (item_of(leaf), value_of(leaf))
            hints += [part for part in parts if part not in {None, Ellipsis}]
            own = settings_class(leaf)
            for held in (*fitting(leaf, known).values(), *((own,) if own else ())):
                if (key := _key(held, known)) not in found:
                    found[key] = held
                    hints += [slot.hint for slot in slots(held).values()]
    return found
