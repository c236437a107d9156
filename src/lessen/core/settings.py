"""Settings objects: frozen, keyword-only, validated once, and able to go to a file and back.

A settings object is written as one key, its class, over its fields: `{"SoftTargets": {"temperature": 4.0}}`. Which
classes may be read back is told by the reader, so a file can name only what the program already knows.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass

from lessen.core.errors import SettingError, did_you_mean

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, dataclasses.Field))
def settings(cls: type[T]) -> type[T]:
    """Make a class a settings object: a frozen, keyword-only dataclass whose fields pydantic validates.

    An error in a setting is a `SettingError` that names the class, the field, what came and what was expected.

    >>> @settings
    ... class Warm:
    ...     temperature: float = 4.0
    >>> Warm(temperature=2)
    Warm(temperature=2.0)
    >>> Warm(temprature=2)
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: Warm has no setting 'temprature': did you mean 'temperature'?
    """
    made = _pydantic_dataclass(
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True),
    )(cls)
    validating = made.__init__

    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            validating(self, *args, **values)
        except ValidationError as error:
            raise SettingError(explain(cls.__name__, error, [f.name for f in dataclasses.fields(made)])) from error
        for name, value in vars(self).items():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                raise SettingError(
                    f"{cls.__name__}: {name}: got the class {value.__name__}, but expected settings: "
                    f"write {value.__name__}()."
                )

    __init__.__wrapped__ = validating  # type: ignore[attr-defined]
    __init__.__doc__ = None
    made.__init__ = __init__  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def explain(name: str, error: ValidationError, fields: list[str]) -> str:
    """A pydantic error in one short sentence a field, with close names for a field that does not exist."""
    parts = []
    for item in error.errors(include_url=False):
        where = ".".join(str(step) for step in item["loc"])
        if item["type"] == "unexpected_keyword_argument":
            parts.append(f"{name} has no setting {where!r}: {did_you_mean(where, fields)}")
        elif item["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
            parts.append(f"{name}: {where} is missing.")
        else:
            message = item["msg"].removeprefix("Value error, ").rstrip(".")
            came = f"{where}: got {item['input']!r}, but " if where else ""
            parts.append(f"{name}: {came}{message[0].lower()}{message[1:]}.")
    return " ".join(parts)


def encode(value: Any) -> Any:
    """Turn a settings object, and all it holds, into JSON data with defaults filled in.

    >>> @settings
    ... class Warm:
    ...     temperature: float = 4.0
    >>> encode([Warm()])
    [{'Warm': {'temperature': 4.0}}]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init and f.repr}
        return {type(value).__name__: fields}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(encode(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SettingError(f"A {type(value).__name__} cannot be written to a file as a setting: {value!r}.")


def decode(data: Any, known: Mapping[str, type]) -> Any:
    """Turn JSON data back into the settings objects it was made from; only classes in `known` are ever made.

    >>> @settings
    ... class Warm:
    ...     temperature: float = 4.0
    >>> decode({"Warm": {"temperature": 2}}, {"Warm": Warm})
    Warm(temperature=2.0)
    >>> decode({"Wram": {}}, {"Warm": Warm})
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: There is no 'Wram': did you mean 'Warm'?
    """
    if isinstance(data, list):
        return [decode(item, known) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((name, fields),) = data.items()
        if isinstance(name, str) and name[:1].isupper() and (isinstance(fields, dict) or fields is None):
            if name not in known:
                raise SettingError(f"There is no {name!r}: {did_you_mean(name, known)}")
            values = {key: decode(value, known) for key, value in (fields or {}).items()}
            return known[name](**values)
    return {key: decode(value, known) for key, value in data.items()}
