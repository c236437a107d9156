"""YAML to settings objects, guided by the types of their fields; every error names the file and the line.

A settings object is `ClassName: {field: value}`, or `ClassName` alone where every field has a default. Where a field
can only hold one class, its name can be left out. Nothing but the classes in `known` is ever made.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from pydantic import ValidationError

from lessen.core.errors import LessenError, RecipeError, did_you_mean
from lessen.recipe.hints import fitting, is_object, item_of, leaves, settings_class, slots, value_of

YAML = "tag:yaml.org,2002:"
NULL = YAML + "null"
DEEPEST = 64
"""Levels of a recipe; the deepest that ships has 12."""
LONGEST = 10_000
"""Values of a recipe, with aliases carried out; the longest that ships has a few hundred."""
LONGEST_PATH, LONGEST_NAME = 4095, 255
"""Bytes of a path and of a name in it, on Linux and macOS."""
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
TAGS = {"null", "bool", "int", "float", "str", "seq", "map"}


class Loader(yaml.SafeLoader):
    """Plain YAML, where 1e-3 is a number, as everywhere else."""


Loader.yaml_implicit_resolvers = {key: list(rows) for key, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Loader.add_implicit_resolver(
    YAML + "float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Reader:
    """Reads one file.

    Args:
        text: The content of the file.
        file: What to call it in errors; relative paths in it start from its folder.
        known: The classes that may be made, by name.
    """

    def __init__(self, text: str, file: Path, known: Mapping[str, type]) -> None:
        self.file = file
        self.known = known
        try:
            self._loader = Loader(text)
            self._root = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RecipeError(f"{file}, line {line}: this is not YAML: {error.problem}.") from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape above the last character of Unicode
            raise RecipeError(f"{file}: this is not YAML: {error}.") from error
        except RecursionError as error:
            raise RecipeError(f"{file} is nested deeper than {DEEPEST} levels, which no recipe needs.") from error
        if self._root is not None:
            self._check_size(self._root)

    def read(self, cls: type) -> Any:
        """The whole file as one settings object of a class.

        Raises:
            RecipeError: a key, a class or a value is wrong; the text names the file and the line.
        """
        if self._root is None:
            raise RecipeError(f"{self.file} is empty, but {', '.join(_required(cls)) or 'settings'} were expected.")
        return self._make(cls, self._root, self._root)

    def plain(self) -> Any:
        """The whole file as plain data: texts, numbers, lists and mappings.

        Raises:
            RecipeError: a tag or a value is wrong.
        """
        return None if self._root is None else self._value(self._root, Any)

    def _check_size(self, root: yaml.Node) -> None:
        """Depth, number of values with every alias carried out, and characters that no file can hold."""
        sizes: dict[int, tuple[int, int]] = {}
        open_: set[int] = set()
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in sizes:
                stack.pop()
                continue
            inside = _inside(node)
            waiting = [each for each in inside if id(each) not in sizes]
            if waiting:
                open_.add(id(node))
                if any(id(each) in open_ for each in waiting):
                    raise self._error(node, "an alias (*name) refers to a node that contains it.")
                stack += waiting
                continue
            found = [sizes[id(each)] for each in inside]
            size, depth = 1 + sum(size for size, _ in found), 1 + max((depth for _, depth in found), default=0)
            if depth > DEEPEST:
                raise self._error(node, f"this is nested deeper than {DEEPEST} levels, which no recipe needs.")
            if size > LONGEST:
                raise self._error(
                    node, f"these are more than {LONGEST:,} values with aliases expanded. No recipe needs that many."
                )
            if isinstance(node, yaml.ScalarNode) and _UNWRITABLE.search(node.value):
                raise self._error(node, f"{node.value[:60]!a} holds a character that no text file can hold.")
            sizes[id(node)] = size, depth
            open_.discard(id(node))
            stack.pop()

    def _error(self, node: yaml.Node, text: str) -> RecipeError:
        return RecipeError(f"{self.file}, line {node.start_mark.line + 1}: {text}")

    def _make(self, cls: type, node: yaml.Node, at: yaml.Node) -> Any:
        """An object of a class from the mapping of its fields; `at` is the position of its name."""
        fields = slots(cls)
        if _is_null(node):
            pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        elif isinstance(node, yaml.MappingNode):
            pairs = self._pairs(node)
        else:
            raise self._error(node, f"{cls.__name__} needs its settings as `name: value`, but got {self._show(node)}.")
        for name, (key, _) in pairs.items():
            if name not in fields:
                raise self._error(key, f"{cls.__name__} has no setting {name!r}: {did_you_mean(name, fields)}")
        for name in _required(cls):
            if name not in pairs:
                raise self._error(at, f"{cls.__name__}: {name} is missing.")
        values = {name: self._value(value, fields[name].hint) for name, (_, value) in pairs.items()}
        try:
            return cls(**values)
        except LessenError as error:
            raise self._error(self._culprit(error, pairs, at), str(error)) from error

    def _culprit(
        self, error: BaseException, pairs: Mapping[str, tuple[yaml.Node, yaml.Node]], at: yaml.Node
    ) -> yaml.Node:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            for item in cause.errors():
                if item["loc"] and item["loc"][0] in pairs:
                    return pairs[str(item["loc"][0])][1]
        return at

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else self._show(key)
            if name in pairs:
                first = pairs[name][0].start_mark.line + 1
                raise self._error(key, f"{name!r} is given twice; the first is in line {first}.")
            pairs[name] = (key, value)
        return pairs

    def _value(self, node: yaml.Node, hint: Any) -> Any:
        if node.tag.removeprefix(YAML) not in TAGS:
            raise self._error(node, f"{node.tag.removeprefix(YAML)} is not read here; put it in quotes if it is text.")
        kinds = [leaf for leaf, _ in leaves(hint)]
        fits = {name: cls for leaf in kinds for name, cls in fitting(leaf, self.known).items()}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, kinds, fits)
        objects = all(kind is NoneType or is_object(kind) or fitting(kind, self.known) for kind in kinds)
        if isinstance(node, yaml.SequenceNode) and not objects:
            return self._sequence(node, kinds)
        value = None if isinstance(node, yaml.SequenceNode) else self._scalar(node)
        if objects and not isinstance(value, str) and not (value is None and NoneType in kinds and _is_null(node)):
            raise self._error(node, f"got {self._show(node)}, but one of {_list(fits)} was expected.")
        if isinstance(value, str):
            if objects:
                return self._make(self._named(value, node, fits), yaml.ScalarNode(NULL, ""), node)
            if Path in kinds:
                return self._place(value, node)
        return value

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self._loader.construct_object(node, deep=True)
        except (ValueError, KeyError, OverflowError, yaml.YAMLError) as error:
            raise self._error(node, f"{self._show(node)} does not match its tag.") from error
        if isinstance(value, int) and abs(value) >= 1 << 64:
            raise self._error(node, f"{self._show(node)} is too large; numbers have 64 bits at most.")
        return value

    def _mapping(self, node: yaml.MappingNode, kinds: list[Any], fits: Mapping[str, type]) -> Any:
        pairs = self._pairs(node)
        plain = next((cls for kind in kinds if (cls := settings_class(kind))), None)
        ((name, (key, inside)), *more) = pairs.items() if pairs else [("", (node, node))]
        named = not more and (name in fits or (name in self.known and (bool(fits) or Any in kinds)))
        if plain is not None and (not named or name in slots(plain)):
            return self._make(plain, node, node)
        if named or (fits and not more and pairs):
            return self._make(self._named(name, key, fits or self.known), inside, key)
        if fits:
            raise self._error(node, f"got {self._show(node)}, but one of {_list(fits)} was expected.")
        inner = next((hint for kind in kinds if (hint := value_of(kind)) is not None), Any)
        return {name: self._value(value, inner) for name, (_, value) in pairs.items()}

    def _sequence(self, node: yaml.SequenceNode, kinds: list[Any]) -> Any:
        tuples = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is tuple]
        fixed = next((parts for parts in tuples if Ellipsis not in parts and len(parts) == len(node.value)), None)
        inner = next((hint for kind in kinds if (hint := item_of(kind)) is not None), Any)
        hints = fixed or (inner,) * len(node.value)
        return [self._value(value, hint) for value, hint in zip(node.value, hints, strict=True)]

    def _named(self, name: str, node: yaml.Node, fits: Mapping[str, type]) -> type:
        if name in fits:
            return fits[name]
        if name in self.known:
            raise self._error(node, f"{name} cannot be used here. Expected one of: {_list(fits)}.")
        raise self._error(node, f"there is no {name!r}: {did_you_mean(name, fits)}")

    def _place(self, value: str, node: yaml.Node) -> Path:
        try:
            path = Path(value).expanduser()
        except RuntimeError as error:
            raise self._error(
                node, f"{value!r} begins with the home directory of a user that does not exist."
            ) from error
        if len(value.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in path.parts):
            raise self._error(node, f"{value[:60]!r} … is too long for a path.")
        return path if path.is_absolute() else (self.file.parent / path).absolute()

    def _show(self, node: yaml.Node) -> str:
        text = yaml.serialize(node).strip().removesuffix("...").strip().splitlines()
        return repr(text[0][:60] if text else "nothing")


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
    return Reader(text, Path(source), {}).plain()


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == NULL


def _required(cls: type) -> list[str]:
    return [name for name, slot in slots(cls).items() if slot.required]


def _list(names: Mapping[str, type]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
