"""Which channels of a network can be removed, and what else must go with each of them.

The network is exported (`torch.export`), every axis of every tensor is named, and names are unified along the
operators. An atom that is left free and stands in a parameter is a group: its indices can be removed everywhere at
once. Everything else is pinned, with a reason.

Related: Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900, which follows dependencies between layers instead.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import NetworkError
from lessen.surgery.attention import open_attention
from lessen.surgery.coupling import rules_channels, rules_products, rules_shapes  # noqa: F401  (they register rules)
from lessen.surgery.coupling.axes import Atom, Axis, Product, atoms, pin, resolve
from lessen.surgery.coupling.formula import Formula, formula, groups_of, size
from lessen.surgery.coupling.walk import Found, Value, fresh, walk
from lessen.surgery.modules import copy_structure, get_tensor, tensor_names


@dataclass(frozen=True)
class Member:
    """One axis of a parameter or buffer that loses indices with a group.

    Args:
        tensor: Name of the parameter or buffer.
        dim: Which of its axes.
        layout: How that axis is made of groups.
        consumes: Whether a product sums over the axis (the input side of a weight).
        weight: Whether it is a weight or bias of a product or convolution.
    """

    tensor: str
    dim: int
    layout: Formula
    consumes: bool
    weight: bool


@dataclass(frozen=True)
class Group:
    """Indices that can be removed together.

    Args:
        name: After the first module that makes them.
        size: How many there are.
        members: Where they stand.
    """

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Number:
    """An attribute, or a number somewhere in the attributes of the modules, that is the size of an axis.

    Args:
        modules: Paths of the modules that were running, outer to inner.
        attribute: The attribute known to hold it, or None.
        value: Its size now.
        layout: What it is the size of.
    """

    modules: tuple[str, ...]
    attribute: str | None
    value: int
    layout: Formula


@dataclass(frozen=True)
class Coupling:
    """What can be removed from a network, together with what.

    Args:
        groups: By name, in the network's order.
        layouts: For each parameter and buffer, the layout of each axis.
        pinned: (name of a parameter, axis) -> why nothing can be removed there.
        numbers: Numbers in the network's own code that are sizes.
        products: For each product or convolution, the layouts whose sizes multiply to its multiply-adds.
        normalised: Names of the weights of normalisations that average over what a group can remove.
        weights: Names of the weights and biases of products and convolutions.
    """

    groups: dict[str, Group]
    layouts: dict[str, tuple[Formula, ...]]
    pinned: dict[tuple[str, int], str]
    numbers: tuple[Number, ...]
    products: tuple[tuple[Formula, ...], ...]
    normalised: frozenset[str]
    weights: frozenset[str]

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each group."""
        return {name: group.size for name, group in self.groups.items()}


def analyse(model: nn.Module, inputs: Inputs) -> Coupling:
    """Find the groups of channels that can be removed together.

    The network is exported in evaluation mode on a copy; it is not changed. `nn.MultiheadAttention` is read as
    `surgery.attention.OpenAttention`, which has the same parameters.

    Args:
        model: Any network that `torch.export` can read.
        inputs: Example inputs; two or more examples tell the batch axis from axes of size 1.

    Raises:
        NetworkError: the network cannot be exported on these inputs; the text holds the exporter's own words.
    """
    work = open_attention(copy_structure(model)).eval()
    device = next((p.device for p in work.parameters()), torch.device("cpu"))
    program = export(work, map_inputs(inputs, lambda value: value.to(device)))
    known = _placeholders(work, program)
    found = Found()
    walk(list(program.graph.nodes), known, found)
    values = {value.itself: value.axes for value in known.values() if value.itself is not None}
    _choose_factors(values)
    return _coupling(work, values, found)


def export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The network as a graph of `aten` operators, at the granularity of layers."""
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, dict) else (inputs,)
    kwargs = inputs if isinstance(inputs, dict) else {}
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # its kernels hide what they do from the graph
        return torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:
        raise NetworkError(
            f"{type(model).__name__} cannot be read by torch.export on these inputs: {type(error).__name__}: "
            f"{str(error).strip()[:600]} Give inputs that the network takes; control flow that depends on values "
            "must be rewritten."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _placeholders(model: nn.Module, program: ExportedProgram) -> dict[str, Value]:
    """A named tensor for each placeholder of the graph. Tied tensors are one, under the first of their names."""
    names = {key: names[0] for key, names in tensor_names(model).items()}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    own: dict[str, Value] = {}
    known: dict[str, Value] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind in {InputKind.PARAMETER, InputKind.BUFFER} and spec.target is not None:
            tensor = get_tensor(model, spec.target)
            name = names[id(tensor)]
            known[spec.arg.name] = own.setdefault(name, Value(fresh(tensor.shape), frozenset({name}), name))
            continue
        fake = nodes[spec.arg.name].meta.get("val")
        shape = fake.shape if isinstance(fake, Tensor) else ()
        given = spec.kind is InputKind.USER_INPUT
        reason = "an input of the network" if given else "a tensor of fixed size in the code"
        known[spec.arg.name] = Value(fresh(shape, reason), None if given else frozenset())
    return known


def _choose_factors(values: dict[str, tuple[Axis, ...]]) -> None:
    """Of two factors of one axis only the outer is removed: whole heads, whole groups of a convolution.

    Removing half of each would leave a quarter of the axis.
    """
    for axes in values.values():
        for axis in axes:
            for part in _products(resolve(axis)):
                free = [factor for factor in part.factors if any(not atom.pinned for atom in atoms(factor))]
                for inner in free[1:]:
                    pin(inner, "whole blocks of it are removed instead")


def _products(axis: Axis) -> Iterator[Product]:
    if isinstance(axis, Product):
        yield axis
    for part in () if isinstance(axis, Atom) else axis.factors if isinstance(axis, Product) else axis.terms:
        yield from _products(part)


def _coupling(model: nn.Module, values: dict[str, tuple[Axis, ...]], found: Found) -> Coupling:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names = _name_groups(values, parameters, found)
    layouts = {name: tuple(formula(axis, names) for axis in axes) for name, axes in values.items()}
    consumed: dict[str, set[str]] = {}
    for name, axis in found.contracted:
        consumed.setdefault(name, set()).update(groups_of(formula(axis, names)))
    members: dict[str, list[Member]] = {name: [] for name in names.values()}
    pinned: dict[tuple[str, int], str] = {}
    for name, axes in layouts.items():
        for dim, layout in enumerate(axes):
            inside = list(dict.fromkeys(groups_of(layout)))
            for group in inside:
                consumes = group in consumed.get(name, ())
                members[group].append(Member(name, dim, layout, consumes, name in found.weights))
            reason = next((atom.pinned for atom in atoms(values[name][dim]) if atom.pinned), None)
            if not inside and name in parameters and values[name][dim].size > 1:
                pinned[name, dim] = reason or "its entries are used one by one"
    groups = {name: Group(name, atom.size, tuple(members[name])) for atom, name in names.items()}
    numbers = dict.fromkeys(
        (literal.modules, literal.attribute, literal.value, repr(layout))
        for literal in found.literals
        if any(groups_of(layout := formula(literal.axis, names)))
    )
    return Coupling(
        weights=frozenset(found.weights),
        groups=groups,
        layouts=layouts,
        pinned=pinned,
        numbers=tuple(Number(m, a, v, ast.literal_eval(layout)) for m, a, v, layout in numbers),
        products=tuple(tuple(formula(axis, names) for axis in axes) for axes in found.products),
        normalised=frozenset(
            name for name, axes in found.normalised if any(any(groups_of(formula(axis, names))) for axis in axes)
        ),
    )


def _name_groups(values: dict[str, tuple[Axis, ...]], parameters: set[str], found: Found) -> dict[Atom, str]:
    """A name for each free atom in a parameter: the module of the first weight whose first axis it is."""
    free: dict[Atom, list[tuple[bool, str]]] = {}
    for name, axes in values.items():
        for dim, axis in enumerate(axes):
            for atom in atoms(axis):
                if not atom.pinned and name in parameters:
                    free.setdefault(atom, []).append((not (dim == 0 and name in found.weights), name))
    names: dict[Atom, str] = {}
    for atom, places in free.items():
        base = min(places, key=lambda place: place[0])[1].rpartition(".")[0] or "the network"
        name, number = base, 2
        while name in names.values():
            name, number = f"{base}#{number}", number + 1
        names[atom] = name
    return names


def multiply_adds(coupling: Coupling, kept: Mapping[str, int]) -> int:
    """How many multiply-adds the example inputs cost when the groups keep this many indices."""
    sizes = {**coupling.sizes, **kept}
    return sum(math.prod(size(layout, sizes) for layout in layouts) for layouts in coupling.products)


def parameter_count(coupling: Coupling, model: nn.Module, kept: Mapping[str, int]) -> int:
    """How many parameters are left when the groups keep this many indices."""
    sizes = {**coupling.sizes, **kept}
    total = 0
    for name, parameter in model.named_parameters():
        layouts = coupling.layouts.get(name)
        total += parameter.numel() if layouts is None else math.prod(size(layout, sizes) for layout in layouts)
    return total
