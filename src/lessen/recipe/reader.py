"""YAML to settings objects, guided by the types of their fields; every error names the file and the line.

A settings object is `ClassName: {field: value}`, or `ClassName` alone where every field has a default; `class_name` is
the same name. Where a field can only hold one class, its name can be left out. Nothing but the classes in `known` is
ever made.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from lessen.core.documents import NULL, Document
from lessen.core.errors import LessenError, RecipeError, did_you_mean
from lessen.core.hints import fitting, is_object, item_of, leaves, same_name, settings_class, slots, value_of
from lessen.core.settings import folded, is_named_fields

_PLAIN: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
LONGEST_PATH, LONGEST_NAME = 4095, 255
"""Bytes of a path and of a name in it, on Linux and macOS."""


class Reader(Document):
    """Reads one file.

    Args:
        text: The content of the file.
        file: What to call it in errors; relative paths in it start from its folder.
        known: The classes that may be made, by name.
    """

    def __init__(self, text: str, file: Path, known: Mapping[str, type]) -> None:
        super().__init__(text, file, RecipeError)
        self.file = file
        self.known = known

    def read(self, cls: type) -> Any:
        """The whole file as one settings object of a class.

        Raises:
            RecipeError: a key, a class or a value is wrong; the text names the file and the line.
        """
        if self.root is None:
            raise RecipeError(f"{self.file} is empty, but {', '.join(_required(cls)) or 'settings'} were expected.")
        return self._make(cls, self.root, self.root)

    def _make(self, cls: type, node: yaml.Node, at: yaml.Node) -> Any:
        """An object of a class from the mapping of its fields; `at` is the position of its name."""
        fields = slots(cls)
        if _is_null(node):
            pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        elif isinstance(node, yaml.MappingNode):
            pairs = self.pairs(node)
        else:
            raise self.problem(node, f"{cls.__name__} needs its settings as `name: value`, but got {self.show(node)}.")
        also, elsewhere = getattr(cls, "also", {}), getattr(cls, "elsewhere", {})
        for name, (key, _) in pairs.items():
            if name not in fields and also.get(name) not in fields:
                said = elsewhere.get(name) or did_you_mean(name, fields)
                raise self.problem(key, f"{cls.__name__} has no setting {name!r}: {said}")
            if name not in fields and also[name] in pairs:
                raise self.problem(key, f"{cls.__name__}: {also[name]} was given twice, once as {name}.")
        pairs = {name if name in fields else also[name]: pair for name, pair in pairs.items()}
        for name in _required(cls):
            if name not in pairs:
                raise self.problem(at, f"{cls.__name__}: {name} is missing.")
        values = {name: self._value(value, fields[name].hint) for name, (_, value) in pairs.items()}
        if is_named_fields(cls):  # which validates nothing itself
            for name, (_, value) in pairs.items():
                self._check_plain(values[name], fields[name].hint, value, f"{cls.__name__}: {name}")
        try:
            return cls(**values)
        except LessenError as error:
            raise self.problem(self._culprit(error, pairs, at), str(error)) from error

    def _check_plain(self, value: Any, hint: Any, node: yaml.Node, where: str) -> None:
        """Whether a number, a text or a truth value is one that a field takes."""
        kinds = [leaf for leaf, _ in leaves(hint) if leaf is not NoneType]
        if kinds and {*kinds} <= {bool, int, float, str}:
            try:
                TypeAdapter(hint).validate_python(value, strict=True)
            except ValidationError as error:
                wanted = " or ".join(_PLAIN[kind] for kind in kinds)
                raise self.problem(node, f"{where}: got {self.show(node)}, but {wanted} was expected.") from error

    def _culprit(
        self, error: BaseException, pairs: Mapping[str, tuple[yaml.Node, yaml.Node]], at: yaml.Node
    ) -> yaml.Node:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            for item in cause.errors():
                if item["loc"] and item["loc"][0] in pairs:
                    return pairs[str(item["loc"][0])][1]
        return at

    def _value(self, node: yaml.Node, hint: Any) -> Any:
        self.check_tag(node)
        kinds = [leaf for leaf, _ in leaves(hint)]
        fits = {name: cls for leaf in kinds for name, cls in fitting(leaf, self.known).items()}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, kinds, fits)
        objects = all(kind is NoneType or is_object(kind) or fitting(kind, self.known) for kind in kinds)
        if isinstance(node, yaml.SequenceNode) and not objects:
            return self._sequence(node, kinds)
        value = None if isinstance(node, yaml.SequenceNode) else self.scalar(node)
        if objects and not isinstance(value, str) and not (value is None and NoneType in kinds and _is_null(node)):
            raise self.problem(node, f"got {self.show(node)}, but one of {_list(fits)} was expected.")
        if isinstance(value, str):
            if objects:
                return self._make(self._named(value, node, fits), yaml.ScalarNode(NULL, ""), node)
            if Path in kinds:
                return self._place(value, node)
        return value

    def _mapping(self, node: yaml.MappingNode, kinds: list[Any], fits: Mapping[str, type]) -> Any:
        pairs = self.pairs(node)
        plain = next((cls for kind in kinds if (cls := settings_class(kind))), None)
        ((name, (key, inside)), *more) = pairs.items() if pairs else [("", (node, node))]
        if not more and pairs and (plain is None or name not in slots(plain)):
            name = _spelt(name, fits)
        somewhere = bool(same_name(name, self.known))
        named = not more and (name in fits or (somewhere and (bool(fits) or Any in kinds)))
        if plain is not None and (not named or name in slots(plain)):
            return self._make(plain, node, node)
        if named or (fits and not more and pairs):
            return self._make(self._named(name, key, fits or self.known), inside, key)
        if fits:
            raise self.problem(node, f"got {self.show(node)}, but one of {_list(fits)} was expected.")
        inner = next((hint for kind in kinds if (hint := value_of(kind)) is not None), Any)
        return {name: self._value(value, inner) for name, (_, value) in pairs.items()}

    def _sequence(self, node: yaml.SequenceNode, kinds: list[Any]) -> Any:
        tuples = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is tuple]
        fixed = next((parts for parts in tuples if Ellipsis not in parts and len(parts) == len(node.value)), None)
        inner = next((hint for kind in kinds if (hint := item_of(kind)) is not None), Any)
        hints = fixed or (inner,) * len(node.value)
        return [self._value(value, hint) for value, hint in zip(node.value, hints, strict=True)]

    def _named(self, name: str, node: yaml.Node, fits: Mapping[str, type]) -> type:
        name = _spelt(name, fits)
        if name in fits:
            return fits[name]
        if same := same_name(name, fits):
            raise self.problem(node, f"there are several {name}: write {' or '.join(same)}.")
        if same_name(name, self.known):
            raise self.problem(node, f"{name} cannot be used here. Expected one of: {_list(fits)}.")
        raise self.problem(node, f"there is no {name!r}: {did_you_mean(name, fits)}")

    def _place(self, value: str, node: yaml.Node) -> Path:
        try:
            path = Path(value).expanduser()
        except RuntimeError as error:
            raise self.problem(
                node, f"{value!r} begins with the home directory of a user that does not exist."
            ) from error
        if len(value.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in path.parts):
            raise self.problem(node, f"{value[:60]!r} … is too long for a path.")
        return path if path.is_absolute() else (self.file.parent / path).absolute()


def plain_value(text: str, source: str) -> Any:
    """YAML as plain data, with the same limits as a recipe.

    Args:
        text: The YAML.
        source: Where it comes from, for errors.

    Raises:
        RecipeError: it is not YAML, names a tag, or is too large.

    >>> plain_value("[32, 1e-3]", "here")
    [32, 0.001]
    """
    return Document(text, source, RecipeError).plain()


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == NULL


def _required(cls: type) -> list[str]:
    return [name for name, slot in slots(cls).items() if slot.required]


def _spelt(name: str, fits: Mapping[str, type]) -> str:
    """The name of a class that is meant by its name in any case, with underscores or without."""
    return name if name in fits else {folded(known): known for known in fits}.get(folded(name), name)


def _list(names: Mapping[str, type]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
