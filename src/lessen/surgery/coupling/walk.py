"""One pass over an exported graph that names the axes of every tensor.

Each operator has a rule (see the `rules_...` files) that is given the named tensors it takes and returns the named
tensors it makes; on the way it unifies axes. An operator without a rule pins whatever it touches.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from lessen.surgery.coupling.axes import ONE, Atom, Axis, pin, unify
from lessen.surgery.coupling.reads import Key


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: the names of its axes, and the parameters it is made of.

    Args:
        axes: One axis for each dimension.
        made_of: Names of the parameters and buffers it is computed from; None where the network's inputs play a part.
        itself: The name of the parameter or buffer that it is, if it is one.
    """

    axes: tuple[Axis, ...]
    made_of: frozenset[str] | None = None
    itself: str | None = None

    @property
    def sizes(self) -> list[int]:
        """The shape."""
        return [axis.size for axis in self.axes]


@dataclass(frozen=True)
class Literal:
    """A number in the network's own code that is the size of an axis: the module that ran it, and its outer modules.

    Args:
        modules: Paths of the modules that were running, outer to inner.
        attribute: The attribute that is known to hold the number, or None where it must be looked for.
        value: The number.
        axis: What it is the size of.
        key: The call that the number was given to, as the graph names it; see `reads`.
        place: Which of the call's whole numbers it is, where that is known.
    """

    modules: tuple[str, ...]
    attribute: str | None
    value: int
    axis: Axis
    key: Key | None = None
    place: int | None = None


@dataclass(frozen=True)
class Averaged:
    """A call that reduces over some of the axes of what it is given: over those indices that are left.

    Args:
        key: The call, as the graph names it; see `reads`.
        axes: The axes of what it is given.
        over: Which of them it reduces over.
        where: The operator and its module, for people.
    """

    key: Key
    axes: tuple[Axis, ...]
    over: tuple[int, ...]
    where: str


@dataclass
class Found:
    """What a pass over the graph collects besides the names.

    Args:
        literals: Numbers in the code that are sizes.
        products: For each matrix product or convolution, the axes whose sizes multiply to its multiply-adds.
        weights: Names of parameters that stand as weight or bias of a product or convolution.
        contracted: (parameter, axis) that a product sums over.
        normalised: Name of the weight of a normalisation, and the axes it averages over.
        averaged: A call that reduces over axes that may lose indices, the axes of what it is given, and which.
        results: What each call has made, by the name that the graph gives the call.
    """

    literals: list[Literal] = field(default_factory=list)
    products: list[tuple[Axis, ...]] = field(default_factory=list)
    weights: set[str] = field(default_factory=set)
    contracted: list[tuple[str, Axis]] = field(default_factory=list)
    normalised: list[tuple[str, tuple[Axis, ...]]] = field(default_factory=list)
    averaged: list[Averaged] = field(default_factory=list)
    results: dict[Key, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorCall:
    """One operator call: its arguments by name, the shape(s) it makes, where in the network it stands."""

    operator: str
    arguments: dict[str, Any]
    shapes: list[tuple[int, ...]]
    modules: tuple[str, ...]
    found: Found
    key: Key | None = None

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor it makes."""
        return self.shapes[0]

    @property
    def where(self) -> str:
        """The operator and the module that runs it, for people."""
        return f"{self.operator} in {(self.modules[-1] if self.modules else '') or 'the network'}"

    def tensors(self) -> Iterator[Value]:
        """All named tensors among the arguments."""
        for argument in self.arguments.values():
            yield from _values(argument)

    def made_of(self, *values: Value | None) -> frozenset[str] | None:
        """What a result of these tensors (or of all arguments) is made of."""
        parts: frozenset[str] = frozenset()
        for value in values or tuple(self.tensors()):
            if value is not None:
                if value.made_of is None:
                    return None
                parts |= value.made_of
        return parts

    def literal(self, value: int, axis: Axis, attribute: str | None = None, place: int | None = None) -> None:
        """Note that a number in the code is the size of an axis."""
        self.found.literals.append(Literal(self.modules, attribute, value, axis, self.key, place))

    def fresh(self, reason: str | None = None) -> Value:
        """A result whose axes are new, pinned for a reason or free."""
        return Value(fresh(self.shape, reason), self.made_of())


Rule = Callable[[OperatorCall], Any]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Say that a function is the rule of these operators of `aten` (with or without a trailing underscore)."""

    def keep(function: Rule) -> Rule:
        for name in operators:
            RULES[name] = function
        return function

    return keep


def fresh(sizes: Sequence[int], reason: str | None = None) -> tuple[Axis, ...]:
    """New axes of these sizes."""
    return tuple(ONE if size == 1 else Atom(int(size), reason) for size in sizes)


def walk(nodes: Sequence[Node], known: dict[str, Value], found: Found) -> None:
    """Name the axes of every node.

    Args:
        nodes: The nodes of the graph, in order.
        known: The named tensors of the placeholders, by the name of the placeholder.
        found: What is collected on the way.
    """
    values: dict[Node, Any] = {}
    used = _used(nodes)
    for node in nodes:
        if node not in used:
            continue
        if node.op == "placeholder":
            values[node] = known.get(node.name)
        elif node.op == "output":
            for value in _values(map_arg(node.args, lambda n: values[n])):
                for axis in value.axes:
                    pin(axis, "an output of the network")
        elif node.op == "call_function" and node.target is operator.getitem:
            whole, index = node.args
            made = values[whole] if isinstance(whole, Node) else None
            values[node] = made[index] if isinstance(made, list) and isinstance(index, int) else made
        elif node.op == "call_function":
            values[node] = _step(_call(node, values, found), node)
            found.results[_key(node)] = values[node]
        else:  # get_attr: a constant or a part of the graph
            values[node] = None


def _used(nodes: Sequence[Node]) -> set[Node]:
    """The nodes that an output, or something that is written to in place, depends on."""
    used: set[Node] = set()
    for node in reversed(nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op == "output" or node in used or (schema is not None and schema.is_mutable):
            used.add(node)
            used.update(node.all_input_nodes)
    return used


def _step(call: OperatorCall, node: Node) -> Any:
    name = "lessen::*" if call.operator.startswith("lessen::") else call.operator
    applied = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if applied is None and _is_pointwise(node.target):
        applied = pointwise
    if applied is None:
        return _unknown(call, f"{call.where} has no rule")
    try:
        return applied(call)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        return _unknown(call, f"{call.where} is called in a way that its rule does not know ({error})")


def _call(node: Node, values: dict[Node, Any], found: Found) -> OperatorCall:
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    args = map_arg(node.args, lambda n: values[n])
    kwargs = map_arg(node.kwargs, lambda n: values[n])
    if schema is None:
        arguments: dict[str, Any] = {str(number): value for number, value in enumerate(args)}
        name = getattr(target, "__name__", str(target))
    else:
        arguments = {part.name: part.default_value if part.has_default_value() else None for part in schema.arguments}
        arguments |= {part.name: value for part, value in zip(schema.arguments, args, strict=False)}
        space, _, name = schema.name.partition("::")
        name = name if space == "aten" else schema.name
    arguments |= kwargs
    shapes = [tuple(map(int, value.shape)) for value in _tensors(node.meta.get("val"))]
    stack = node.meta.get("nn_module_stack") or {}
    modules = tuple(_path(path) for path, _ in stack.values())
    return OperatorCall(name, arguments, shapes, modules, found, _key(node))


def _key(node: Node) -> Key:
    """The call of the network's code that made a node; the last node of a call makes its result."""
    name, kind = node.meta.get("torch_fn") or (node.name, "")
    return name, kind


def _path(path: str) -> str:
    """The path of a module called a second time has a suffix "@1"."""
    return path.split("@")[0]


def _values(thing: Any) -> Iterator[Value]:
    if isinstance(thing, Value):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _values(part)
    elif isinstance(thing, dict):
        for part in thing.values():
            yield from _values(part)


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _tensors(part)


def _is_pointwise(target: Any) -> bool:
    tags = getattr(target, "tags", ())
    if torch.Tag.pointwise in tags:
        return True
    if torch.Tag.inplace in tags:
        packet = getattr(torch.ops.aten, target._schema.name.split("::")[-1].removesuffix("_"), None)
        overload = getattr(packet, target._overloadname, None)
        return overload is not None and torch.Tag.pointwise in overload.tags
    return False


def _unknown(call: OperatorCall, reason: str) -> Any:
    for value in call.tensors():
        for axis in value.axes:
            pin(axis, reason)
    made = [Value(fresh(shape, reason), call.made_of()) for shape in call.shapes]
    return made[0] if len(made) == 1 else made


def pointwise(call: OperatorCall) -> Value:
    """Element by element, with broadcasting: axes that meet are one."""
    return broadcast(call, list(call.tensors()), call.shape)


def broadcast(call: OperatorCall, values: Sequence[Value], shape: Sequence[int]) -> Value:
    """The result of tensors that are broadcast against each other."""
    axes: list[Axis] = []
    for position, size in enumerate(shape):
        meet = [v.axes[position - len(shape)] for v in values if len(v.axes) >= len(shape) - position]
        meet = [axis for axis in meet if axis.size == size] if size != 1 else []
        for other in meet[1:]:
            unify(meet[0], other, f"the axes that meet at {call.where} have different layouts")
        axes.append(meet[0] if meet else fresh([size])[0])
    return Value(tuple(axes), call.made_of(*values) if values else frozenset())
