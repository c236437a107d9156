"""Settings objects: frozen, keyword-only, validated once, and able to go to a file and back.

A settings object is written as one key, its class, over its fields: `{"SoftTargets": {"temperature": 4.0}}`. Which
classes may be read back is told by the reader, so a file can name only what the program already knows.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import inspect
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass
from pydantic.dataclasses import is_pydantic_dataclass

from lessen.core.errors import SettingError, did_you_mean

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, dataclasses.Field))
def settings(cls: type[T]) -> type[T]:
    """Make a class a settings object: a frozen, keyword-only dataclass whose fields pydantic validates.

    An error in a setting is a `SettingError` that names the class, the field, what came and what was expected. Slips
    that can mean one thing only are accepted: values by position, in the order of the fields; a class, or its name, for
    the object with its defaults; one object where several are expected. A class attribute `also` maps names that
    others use to fields, `elsewhere` maps names to a sentence that says where they belong.

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
    _take_shared(cls)
    made = _pydantic_dataclass(
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True),
    )(cls)
    validating = made.__init__
    fields = [f.name for f in dataclasses.fields(made) if f.init]

    def __init__(self: Any, *args: Any, **values: Any) -> None:
        given = _named(made, fields, args, values)
        for _ in range(len(given) + 2):  # each turn mends at least one value
            try:
                validating(self, **given)
            except ValidationError as error:
                mended = _mended(error, given, made)
                if mended is None:
                    raise SettingError(explain(cls.__name__, error, fields, _advice(made))) from error
                given = mended
            else:
                return

    __init__.__wrapped__ = validating  # type: ignore[attr-defined]
    __init__.__doc__ = None
    made.__init__ = __init__  # type: ignore[method-assign]
    _MADE.setdefault(folded(cls.__name__), []).append(made)
    return made  # type: ignore[return-value]


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    eq_default=False,
    field_specifiers=(dataclasses.field, dataclasses.Field),
)
def named_fields(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass without validation, for objects that hold networks and functions.

    Names are checked as those of settings are, and the same slips are accepted: values by position, and a settings
    class for the object with its defaults. Two of them are equal only if they are the same.

    >>> @named_fields
    ... class Edge:
    ...     source: str
    ...     weight: float = 1.0
    >>> Edge(source="a", wieght=2.0)
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: Edge has no setting 'wieght': did you mean 'weight'?
    >>> Edge()
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: Edge: source is missing.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    plain = made.__init__
    fields = [f for f in dataclasses.fields(made) if f.init]  # type: ignore[arg-type]
    names = [f.name for f in fields]
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]

    def __init__(self: Any, *args: Any, **values: Any) -> None:
        given = _named(made, names, args, values)
        wrong = [
            f"{cls.__name__} has no setting {name!r}: {_advice(made).get(name) or did_you_mean(name, names)}"
            for name in given
            if name not in names
        ]
        wrong = wrong or [f"{cls.__name__}: {name} is missing." for name in needed if name not in given]
        if wrong:
            raise SettingError(" ".join(wrong))
        plain(self, **given)

    __init__.__wrapped__ = plain  # type: ignore[attr-defined]
    __init__.__doc__ = None
    made.__init__ = __init__  # type: ignore[method-assign]
    made._named_fields = made  # type: ignore[attr-defined]
    return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, dataclasses.Field))
def shared_settings(cls: type[T]) -> type[T]:
    """Make a class the base of settings classes that have fields in common. It is no settings class itself.

    The fields of a base follow those of the class. A class attribute `last` names fields that follow them all, of the
    class or of a base. A field that the class writes again is its own.

    >>> @shared_settings
    ... class Trained:
    ...     epochs: int = 10
    >>> @settings
    ... class Taught(Trained):
    ...     last = ("cache",)
    ...     temperature: float = 4.0
    ...     cache: bool = False
    >>> Taught(2.0, 3)
    Taught(temperature=2.0, epochs=3, cache=False)
    """
    cls._shared_settings = cls  # type: ignore[attr-defined]
    return cls


def shared_bases(cls: type) -> list[type]:
    """The bases of a settings class that `shared_settings` made, nearest first."""
    return [base for base in cls.__mro__[1:] if vars(base).get("_shared_settings") is base]


def _take_shared(cls: type) -> None:
    """Write the fields of shared bases into a class, in the order of its positional values."""
    bases = shared_bases(cls)
    if not bases:
        return
    fields = dict(inspect.get_annotations(cls))
    for base in bases:
        hints = get_type_hints(base, include_extras=True)
        for name in inspect.get_annotations(base):
            if get_origin(hints[name]) is not ClassVar:
                fields.setdefault(name, hints[name])
    for name in getattr(cls, "last", ()):
        if name not in fields:
            raise SettingError(f"{cls.__name__}: last names {name!r}, which is no field: {did_you_mean(name, fields)}")
        fields[name] = fields.pop(name)
    cls.__annotations__ = fields


def is_named_fields(cls: type) -> bool:
    """Whether `named_fields` made this very class."""
    return vars(cls).get("_named_fields") is cls


def added() -> Any:
    """A field that was added to a class in use: None unless it is given, and left out of identities while it is None.

    >>> @named_fields
    ... class Node:
    ...     name: str
    ...     reads: str | None = added()
    >>> Node("student").reads
    """
    return dataclasses.field(default=None, metadata={"added": True})


_MADE: dict[str, list[type]] = {}
"""Every settings class, by its name without case and underscores: what "adam" or "prune_channels" means."""


def made_classes() -> list[type]:
    """Every settings class of this process, in the order in which they were made."""
    return [kind for kinds in _MADE.values() for kind in kinds]


def folded(name: str) -> str:
    """A name without case, underscores and hyphens: what two spellings of one class have in common."""
    return name.replace("_", "").replace("-", "").lower()


def is_settings_class(value: Any) -> bool:
    """Whether a value is a settings class itself, not an object of one."""
    return isinstance(value, type) and is_pydantic_dataclass(value)


def made_of(value: Any, hint: Any = Any) -> Any:
    """The object that a settings class, or its name, stands for; anything else stays as it is.

    Args:
        value: A settings class, its name, or anything else.
        hint: The type of the field that it is for: of several classes of one name, the one that fits is meant.

    Raises:
        SettingError: a class needs settings that were not given, or a string is close to the name of a class.

    >>> @settings
    ... class Warm:
    ...     temperature: float = 4.0
    >>> made_of(Warm), made_of("warm"), made_of(3)
    (Warm(temperature=4.0), Warm(temperature=4.0), 3)
    """
    if is_settings_class(value):
        try:
            return value()
        except SettingError as error:
            raise SettingError(f"{value.__name__} is a class, and needs settings: {error}") from error
    if isinstance(value, str):
        kinds = _MADE.get(folded(value), [])
        kinds = _fit(hint, kinds)
        kinds = [kind for kind in kinds if kind.__module__.startswith("lessen.")] or kinds
        if kinds:
            return made_of(kinds[-1])
    return value


def _fit(hint: Any, kinds: list[type]) -> list[type]:
    """Of several classes, those that a field may hold; all of them where its type does not tell."""
    if len(kinds) < 2:
        return kinds
    from lessen.core.hints import inside

    return [kind for kind in kinds if inside(hint, {"": kind})] or kinds


def _named(made: type, fields: Sequence[str], args: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of their fields: those given by position, and those under a name that others use."""
    if len(args) > len(fields):
        raise SettingError(
            f"{made.__name__} has {len(fields)} settings ({', '.join(fields)}), but {len(args)} values were given."
        )
    also: Mapping[str, str] = getattr(made, "also", {})
    given = dict(zip(fields, args, strict=False))
    for name, value in values.items():
        own = also.get(name, name) if name not in fields else name
        if own in given:
            raise SettingError(f"{made.__name__}: {own} was given twice{f', once as {name}' if own != name else ''}.")
        given[own] = value
    return {name: _without_classes(value) for name, value in given.items()}


def _without_classes(value: Any) -> Any:
    """A value in which settings classes are objects: `SoftTargets` is `SoftTargets()`."""
    if is_settings_class(value):
        return made_of(value)
    if type(value) in {list, tuple} and any(is_settings_class(item) for item in value):
        return type(value)(made_of(item) if is_settings_class(item) else item for item in value)
    return value


def _mended(error: ValidationError, given: Mapping[str, Any], made: type) -> dict[str, Any] | None:
    """The values with slips undone that can mean one thing only; None if there are none.

    A single object where several are expected is the only one; a string where an object is expected names its class.
    """
    mended = dict(given)
    kinds: dict[str, set[str]] = {}
    for item in error.errors(include_url=False):
        if not item["loc"] or (name := str(item["loc"][0])) not in mended:
            continue
        kinds.setdefault(name, set()).add(item["type"])
        place = item["loc"][1] if len(item["loc"]) > 1 else None
        if item["type"] not in _NOT_OBJECTS:
            continue
        if type(mended[name]) in {list, tuple} and isinstance(place, int):
            hint = _hint(made, name)
            mended[name] = [made_of(one, hint) if number == place else one for number, one in enumerate(mended[name])]
        elif isinstance(mended[name], str):
            mended[name] = made_of(mended[name], _hint(made, name))
    for name, found in kinds.items():
        if found == {"tuple_type"} and not isinstance(mended[name], Mapping | Sequence | Set | None):
            mended[name] = (mended[name],)
    return mended if any(_is_other(mended[name], given[name]) for name in kinds if name in given) else None


def _hint(made: type, name: str) -> Any:
    """The type of a field; Any where it cannot be told, as where it names a class inside a function."""
    try:
        return _hints(made).get(name, Any)
    except NameError:
        return Any


@functools.cache
def _hints(made: type) -> dict[str, Any]:
    return get_type_hints(made, include_extras=True)


def _is_other(one: Any, two: Any) -> bool:
    """Whether two values are neither the same object nor lists of the same objects; arrays cannot be compared by ==."""
    if one is two:
        return False
    both = isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two)
    return not both or any(_is_other(mine, other) for mine, other in zip(one, two, strict=True))


_NOT_OBJECTS = {"is_instance_of", "dataclass_type", "dataclass_exact_type"}


def _advice(made: type) -> Mapping[str, str]:
    """What to say of names that belong elsewhere."""
    return getattr(made, "elsewhere", {})


def explain(
    name: str, error: ValidationError, fields: Sequence[str], elsewhere: Mapping[str, str] | None = None
) -> str:
    """A pydantic error in one short sentence a field, in the words of people.

    Args:
        name: The settings class.
        error: What pydantic says.
        fields: Those that there are; close ones are named for a field that does not exist.
        elsewhere: What to say of names that belong to other settings.
    """
    parts: dict[str, list[str]] = {}
    unions: dict[str, tuple[Any, list[str]]] = {}
    for item in error.errors(include_url=False):
        where = _place(item["loc"])
        if item["type"] == "unexpected_keyword_argument":
            said = (elsewhere or {}).get(where)
            parts[where] = [f"{name} has no setting {where!r}: {said or did_you_mean(where, fields)}"]
        elif item["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
            parts[where] = [f"{name}: {where} is missing."]
        else:
            unions.setdefault(where, (item["input"], []))[1].append(_expected(item))
            parts.setdefault(where, [])
    for where, (came, wanted) in unions.items():
        got = f"{where}: got {_shown(came)}, but " if where else ""
        choice = _choice(list(dict.fromkeys(wanted)))
        parts[where].append(f"{name}: {got}{choice}{'' if choice.endswith('?') else '.'}{_remedy(came, choice)}")
    return " ".join(text for texts in parts.values() for text in texts)


def _place(where: Sequence[Any]) -> str:
    """The path of a value; what pydantic adds to tell the members of a union apart is left out."""
    text = ""
    for number, step in enumerate(where):
        if isinstance(step, int):
            text += f"[{step}]"
        elif number == 0 or (step.isidentifier() and not step[:1].isupper() and step not in _MEMBERS):
            text += f".{step}" if text else str(step)
    return text


_MEMBERS = {"int", "float", "str", "bool", "tuple", "list", "dict", "none", "callable"}


def _expected(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "is_instance_of":
        return f"{_article(context['class'])} {context['class']} was expected"
    if kind in {"dataclass_type", "dataclass_exact_type"}:
        return f"{_article(context['class_name'])} {context['class_name']} was expected"
    if kind in {"tuple_type", "list_type"}:
        return "a list was expected"
    if kind in {"dict_type", "mapping_type"}:
        return "a mapping was expected"
    if kind in {"int_type", "int_parsing", "int_from_float"}:
        return "a whole number was expected"
    if kind in {"float_type", "float_parsing"}:
        return "a number was expected"
    if kind in {"bool_type", "bool_parsing"}:
        return "true or false was expected"
    if kind == "string_type":
        return "a text was expected"
    if kind == "none_required":
        return "None was expected"
    if kind == "literal_error":
        return f"{context['expected']} was expected"
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    message = message.replace("Input should be", "it should be")
    return f"{message[0].lower()}{message[1:]}"


def _choice(wanted: list[str]) -> str:
    """Alternatives as one clause.

    >>> _choice(["a list was expected", "None was expected", "it should be less than 1"])
    'it should be less than 1, or a list or None was expected'
    """
    things = [text.removesuffix(_WANTED) for text in wanted if text.endswith(_WANTED)]
    others = [text for text in wanted if not text.endswith(_WANTED)]
    last = f"{', '.join(things[:-1])} or {things[-1]}" if len(things) > 1 else "".join(things)
    return ", or ".join([*others, *([last + _WANTED] if things else [])])


_WANTED = " was expected"


def _article(name: str) -> str:
    return "an" if name[:1] in "AEIOU" else "a"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _remedy(came: Any, said: str) -> str:
    """What to write instead, where that can be told."""
    if isinstance(came, int | float) and not isinstance(came, bool) and 1 < came <= 100 and _OF_SHARES.search(said):
        return f" It is a share, not a percentage: write {came / 100:g}."
    if isinstance(came, str) and _OBJECTS.search(said):
        kinds = {
            kind.__name__: kind for made in _MADE.values() for kind in made if kind.__module__.startswith("lessen.")
        }
        close = difflib.get_close_matches(came.lower(), {name.lower() for name in kinds}, n=1)
        right = next((name for name in kinds if close and name.lower() == close[0]), None)
        return f" Did you mean {right}()?" if right is not None else ""
    return ""


_OBJECTS = re.compile(r"\ban? [A-Z]")
_OF_SHARES = re.compile(r"less than (or equal to )?1\b(?!\d)")


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


def decode(data: Any, known: Mapping[str, type], hint: Any = Any) -> Any:
    """Turn JSON data back into the settings objects it was made from; only classes in `known` are ever made.

    Args:
        data: What `encode` made.
        known: The classes that may be made, by name.
        hint: The type of the field that the data is for: of several classes of one name, the one that fits is meant.

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
        return [decode(item, known, each) for item, each in zip(data, _items(hint, len(data)), strict=True)]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((name, fields),) = data.items()
        if isinstance(name, str) and name[:1].isupper() and (isinstance(fields, dict) or fields is None):
            cls = _called(name, known, hint)
            values = {key: decode(value, known, _hint(cls, key)) for key, value in (fields or {}).items()}
            return cls(**values)
    return {key: decode(value, known, hint) for key, value in data.items()}


def _items(hint: Any, count: int) -> Sequence[Any]:
    """The types of the items of a list: those of a tuple of that length, or that of the whole."""
    from lessen.core.hints import leaves

    tuples = [get_args(leaf) for leaf, _ in leaves(hint) if get_origin(leaf) is tuple]
    return next((parts for parts in tuples if len(parts) == count and Ellipsis not in parts), (hint,) * count)


def _called(name: str, known: Mapping[str, type], hint: Any) -> type:
    """The class of a name that a field may hold."""
    if name in known:
        return known[name]
    from lessen.core.hints import inside, same_name

    several = same_name(name, known)
    fits = inside(hint, several)
    if len(fits) == 1:
        return next(iter(fits.values()))
    raise SettingError(f"There is no {name!r}: {did_you_mean(name, several or known)}")
