"""YAML documents as plain data: how many values they hold, and how deep, is limited while they are read.

Nothing is made but texts, numbers, lists and mappings. Every error names the source and the line.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from lessen.core.errors import LessenError

YAML: Final = "tag:yaml.org,2002:"
NULL: Final = YAML + "null"
DEEPEST: Final = 64
"""Levels of a document; the deepest recipe that ships has 12."""
LONGEST: Final = 10_000
"""Values of a document, with aliases expanded; the longest recipe that ships has a few hundred."""
_LARGEST: Final = 4 << 20
"""Characters of a document: about three seconds of reading."""
_LONGEST_NUMBER: Final = 100
"""Characters of a number. Numbers to the base of 60, as 1:30:00, take quadratic time."""
_UNWRITABLE: Final = re.compile("[\x00\ud800-\udfff]")
_TAGS: Final = {"null", "bool", "int", "float", "str", "seq", "map"}


class _TooLargeError(Exception):
    """A limit was passed; at which line, and which."""


class Loader(yaml.SafeLoader):
    """Plain YAML, where 1e-3 is a number, as everywhere else."""

    most, deepest = LONGEST, DEEPEST
    _values = _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Counts what it reads: to refuse a document, nobody has to read all of it."""
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        self._values, self._level = self._values + 1, self._level + 1
        if self._values > self.most:
            raise _TooLargeError(line, f"these are more than {self.most:,} values. No recipe needs that many.")
        if self._level > self.deepest:
            raise _TooLargeError(line, f"this is nested deeper than {self.deepest} levels, which no recipe needs.")
        made = super().compose_node(parent, index)
        self._level -= 1
        return made


Loader.yaml_implicit_resolvers = {key: list(rows) for key, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Loader.add_implicit_resolver(
    YAML + "float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Document:
    """One document, its size checked.

    Args:
        text: The YAML.
        source: What to call it in errors.
        error: What to raise.
        most: Values that it may hold, with aliases expanded.
        deepest: Levels that it may have.

    Raises:
        LessenError: of the class `error`: it is not YAML, or a limit is passed.
    """

    def __init__(
        self, text: str, source: object, error: type[LessenError], *, most: int = LONGEST, deepest: int = DEEPEST
    ) -> None:
        self._source, self._raised = source, error
        if len(text) > _LARGEST:
            raise error(f"{source} has more than {_LARGEST:,} characters, which no recipe needs.")
        try:
            self._loader = Loader(text)
            self._loader.most, self._loader.deepest = most, deepest
            self.root: yaml.Node | None = self._loader.get_single_node()
        except _TooLargeError as cause:
            line, said = cause.args
            raise error(f"{source}, line {line}: {said}") from cause
        except RecursionError as cause:
            raise error(f"{source} is nested too deep.") from cause
        except yaml.MarkedYAMLError as cause:
            line = cause.problem_mark.line + 1 if cause.problem_mark else 1
            raise error(f"{source}, line {line}: this is not YAML: {cause.problem}.") from cause
        except (yaml.YAMLError, ValueError, OverflowError) as cause:  # an escape above the last character of Unicode
            raise error(f"{source}: this is not YAML: {cause}.") from cause
        if self.root is not None:
            self._check_size(self.root)

    def plain(self, node: yaml.Node | None = None) -> Any:
        """The document, or the part of it below a node, as plain data; keys are texts.

        Raises:
            LessenError: a tag or a value is wrong.
        """
        node = self.root if node is None else node
        if node is None:
            return None
        self.check_tag(node)
        if isinstance(node, yaml.MappingNode):
            return {name: self.plain(value) for name, (_, value) in self.pairs(node).items()}
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(value) for value in node.value]
        return self.scalar(node)

    def problem(self, node: yaml.Node, text: str) -> LessenError:
        """An error that names the line of a node."""
        return self._raised(f"{self._source}, line {node.start_mark.line + 1}: {text}")

    def check_tag(self, node: yaml.Node) -> None:
        """Refuse every tag but those of plain data."""
        name = node.tag.removeprefix(YAML)
        if name not in _TAGS:
            raise self.problem(node, f"{name[:60]} is not read here; put it in quotes if it is text.")

    def pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Keys and values of a mapping, by the text of the key; no key may be there twice."""
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else self.show(key)
            if name in pairs:
                first = pairs[name][0].start_mark.line + 1
                raise self.problem(key, f"{name!r} is given twice; the first is in line {first}.")
            pairs[name] = (key, value)
        return pairs

    def scalar(self, node: yaml.Node) -> Any:
        """A text, a number, true, false or null."""
        if node.tag != YAML + "str" and len(node.value) > _LONGEST_NUMBER:
            raise self._too_large(node)
        try:
            value = self._loader.construct_object(node, deep=True)
        except (ValueError, KeyError, OverflowError, yaml.YAMLError) as cause:
            raise self.problem(node, f"{self.show(node)} does not match its tag.") from cause
        if isinstance(value, int) and abs(value) >= 1 << 64:
            raise self._too_large(node)
        return value

    def show(self, node: yaml.Node) -> str:
        """The beginning of a node as it is written, for errors."""
        text = yaml.serialize(node).strip().removesuffix("...").strip().splitlines()
        return repr(text[0][:60] if text else "nothing")

    def _too_large(self, node: yaml.Node) -> LessenError:
        return self.problem(node, f"{self.show(node)} is too large; numbers have 64 bits at most.")

    def _check_size(self, root: yaml.Node) -> None:
        """Depth, number of values with every alias expanded, and characters that no file can hold."""
        most, deepest = self._loader.most, self._loader.deepest
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
                    raise self.problem(node, "an alias (*name) refers to a node that contains it.")
                stack += waiting
                continue
            found = [sizes[id(each)] for each in inside]
            size, depth = 1 + sum(size for size, _ in found), 1 + max((depth for _, depth in found), default=0)
            if depth > deepest:
                raise self.problem(node, f"this is nested deeper than {deepest} levels, which no recipe needs.")
            if size > most:
                raise self.problem(
                    node, f"these are more than {most:,} values with aliases expanded. No recipe needs that many."
                )
            if isinstance(node, yaml.ScalarNode) and _UNWRITABLE.search(node.value):
                raise self.problem(node, f"{node.value[:60]!a} holds a character that no text file can hold.")
            sizes[id(node)] = size, depth
            open_.discard(id(node))
            stack.pop()


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
