"""Which channels of a network can be removed, and what else must go with each of them.

The network is exported (`torch.export`), every axis of every tensor is named, and names are unified along the
operators. An atom that is left free and stands in a parameter is a group: its indices can be removed everywhere at
once. Everything else is pinned, with a reason.

Related: Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900, which follows dependencies between layers instead.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import NetworkError
from lessen.surgery.attention import open_attention
from lessen.surgery.coupling import (  # noqa: F401  (they register rules)
    rules_channels,
    rules_products,
    rules_recurrent,
    rules_shapes,
)
from lessen.surgery.coupling.axes import Atom, Axis, Product, atoms, pin, resolve
from lessen.surgery.coupling.formula import Formula, formula, groups_of
from lessen.surgery.coupling.groups import Coupling, Group, Member, Number
from lessen.surgery.coupling.reads import Dim, Reads, read_numbers
from lessen.surgery.coupling.ties import tie
from lessen.surgery.coupling.walk import Found, Value, fresh, walk
from lessen.surgery.modules import copy_structure, get_tensor, tensor_names
from lessen.surgery.returns import give_parts
from lessen.surgery.tracing import traceable

Axes = dict[str, tuple[Axis, ...]]
OVER_FEWER = frozenset(
    {"mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp"}
    | {"normalize", "layer_norm", "rms_norm", "batch_norm"}
)
"""Functions of PyTorch that reduce over axes of their first argument, and may do so over fewer indices."""


@dataclass(frozen=True)
class Traced:
    """A network as a graph.

    Attributes:
        work: A copy of its modules that shares every parameter, with its attention opened.
        program: Its graph.
        reads: Where its code has its numbers from.
    """

    work: nn.Module
    program: ExportedProgram
    reads: Reads


def traced(model: nn.Module, inputs: Inputs) -> Traced:
    """Export a network in evaluation mode, on a copy; it is not changed.

    `nn.MultiheadAttention` is read as `surgery.attention.OpenAttention`, which has the same parameters.

    Args:
        model: Any network that `torch.export` can read.
        inputs: Example inputs; two or more examples tell the batch axis from axes of size 1.

    Raises:
        NetworkError: the network cannot be exported on these inputs; the text holds the exporter's own words.
    """
    work = give_parts(open_attention(copy_structure(model)).eval())
    device = next((p.device for p in work.parameters()), torch.device("cpu"))
    inputs = map_inputs(inputs, lambda value: value.to(device))
    return Traced(work, export(work, inputs), read_numbers(work, inputs))


def analyse(model: nn.Module, inputs: Inputs) -> Coupling:
    """Find the groups of channels that can be removed together; see `traced` for the arguments and errors."""
    return coupling_of(traced(model, inputs))


def coupling_of(network: Traced, *, fixed: Collection[int] = ()) -> Coupling:
    """The groups of a traced network.

    Args:
        network: The network.
        fixed: Groups of an earlier analysis that cannot be removed after all, by their numbers.
    """
    work, program, reads = network.work, network.program, network.reads
    known = _placeholders(work, program)
    found = Found()
    walk(list(program.graph.nodes), known, found)
    found.literals = tie(found.literals, reads, _finder(program, known, found))
    averaged = _averaged(found, reads)
    values = {value.itself: value.axes for value in known.values() if value.itself is not None}
    numbers = {atom: number for number, atom in enumerate(_stands(values))}
    for atom, number in numbers.items():
        if number in fixed:
            pin(atom, "its size is written in the network's own code")
    blocks = _choose_factors(values)
    names = _name_groups(values, {name for name, _ in work.named_parameters(remove_duplicate=False)}, found)
    groups = {name: Group(name, atom.size, (), numbers[atom], atom in blocks) for atom, name in names.items()}
    made = _coupling(work, values, found, names, groups)
    layouts = {site: tuple(formula(axis, names) for axis in axes) for site, axes in averaged.items()}
    return replace(made, averaged={site: axes for site, axes in layouts.items() if any(map(_grouped, axes))})


def _grouped(layout: Formula) -> bool:
    return any(True for _ in groups_of(layout))


def _averaged(found: Found, reads: Reads) -> Axes:
    """The calls that reduce over what is left of an axis, by their sites; the axes they do not reduce over are fixed.

    Where the function that the code called is another one, nothing is known of what it does with fewer indices.
    """
    made: Axes = {}
    for one in found.averaged:
        site = reads.sites.get(one.key, "")
        if site.rpartition(":")[0].rpartition(":")[2] in OVER_FEWER:
            fixed = (Atom(axis.size, "not reduced over") for axis in one.axes)
            made[site] = tuple(
                axis if number in one.over else other
                for number, (axis, other) in enumerate(zip(one.axes, fixed, strict=True))
            )
        else:
            for number in one.over:
                pin(one.axes[number], f"reduced by {one.where}")
    return made


def export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The network as a graph of `aten` operators, at the granularity of layers."""
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, dict) else (inputs,)
    kwargs = inputs if isinstance(inputs, dict) else {}
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # its kernels hide what they do from the graph
        with _quiet(), traceable():
            return torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise NetworkError(
            f"{type(model).__name__} cannot be read by torch.export on these inputs: {type(error).__name__}: "
            f"{said[:400]} Give inputs that the network takes; control flow that depends on values must be rewritten."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its graph, and logs, when it fails; its error says enough."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            # A network may remember its features; what it remembers during the export is undone by PyTorch.
            warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
            yield
    finally:
        logging.disable(before)


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


def _finder(program: ExportedProgram, known: dict[str, Value], found: Found) -> Callable[[Dim], Axis | None]:
    """Finds the axis behind a number that was read from the shape of a tensor."""
    given = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    own = {value.itself: value for value in known.values() if value.itself is not None}

    def find(dim: Dim) -> Axis | None:
        for maker, number in dim.tensor:
            made: Any
            if isinstance(maker, tuple):
                made = found.results.get(maker)
                made = made[number] if isinstance(made, list) and number < len(made) else made
            else:
                made = own.get(maker) if maker else known.get(given[number]) if number < len(given) else None
            if isinstance(made, Value):
                return made.axes[dim.dim] if dim.dim < len(made.axes) else None
        return None

    return find


def _stands(values: Axes) -> dict[Atom, dict[tuple[str, int], None]]:
    """For each free atom the axes of parameters and buffers it stands in, in order."""
    found: dict[Atom, dict[tuple[str, int], None]] = {}
    for name, axes in values.items():
        for dim, axis in enumerate(axes):
            for atom in atoms(axis):
                if not atom.pinned:
                    found.setdefault(atom, {})[name, dim] = None
    return found


def _choose_factors(values: Axes) -> set[Atom]:
    """Of two factors of one axis only the outer is removed: whole heads, whole groups of a convolution.

    Removing half of each would leave a quarter of the axis. What is removed instead of others is returned.
    """
    blocks: set[Atom] = set()
    for axes in values.values():
        for axis in axes:
            for part in _products(resolve(axis)):
                free = [factor for factor in part.factors if any(not atom.pinned for atom in atoms(factor))]
                for inner in free[1:]:
                    pin(inner, "whole blocks of it are removed instead")
                    blocks.update(atoms(free[0]))
    return blocks


def _products(axis: Axis) -> Iterator[Product]:
    if isinstance(axis, Product):
        yield axis
    for part in () if isinstance(axis, Atom) else axis.factors if isinstance(axis, Product) else axis.terms:
        yield from _products(part)


def _coupling(
    model: nn.Module, values: Axes, found: Found, names: dict[Atom, str], groups: dict[str, Group]
) -> Coupling:
    """Everything that was found, written with the names of the groups."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    layouts = {name: tuple(formula(axis, names) for axis in axes) for name, axes in values.items()}
    consumed: dict[str, set[str]] = {}
    for name, axis in found.contracted:
        consumed.setdefault(name, set()).update(groups_of(formula(axis, names)))
    members: dict[str, list[Member]] = {name: [] for name in groups}
    pinned: dict[tuple[str, int], str] = {}
    for name, axes in layouts.items():
        for dim, layout in enumerate(axes):
            inside = list(dict.fromkeys(groups_of(layout)))
            for group in inside:
                member = Member(name, dim, layout, group in consumed.get(name, ()), name in found.weights)
                members[group].append(member)
            if not inside and name in parameters and values[name][dim].size > 1:
                # Of several parts the largest is meant: not the gates, but the units of each.
                parts = [atom for atom in atoms(values[name][dim]) if atom.pinned]
                largest = max(parts, key=lambda atom: atom.size, default=None)
                pinned[name, dim] = (largest and largest.pinned) or "its entries are used one by one"
    return Coupling(
        groups={name: replace(group, members=tuple(members[name])) for name, group in groups.items()},
        layouts=layouts,
        pinned=pinned,
        numbers=_numbers(found, names),
        products=tuple(tuple(formula(axis, names) for axis in axes) for axes in found.products),
        normalised=frozenset(
            name for name, axes in found.normalised if any(_grouped(formula(axis, names)) for axis in axes)
        ),
        averaged={},
        weights=frozenset(found.weights),
    )


def _numbers(found: Found, names: dict[Atom, str]) -> tuple[Number, ...]:
    """The numbers in the code that change with a group, each once."""
    numbers: dict[str, Number] = {}
    for literal in found.literals:
        layout = formula(literal.axis, names)
        if any(groups_of(layout)):
            number = Number(literal.modules, literal.attribute, literal.value, layout)
            numbers.setdefault(repr(number), number)
    return tuple(numbers.values())


def _name_groups(values: Axes, parameters: set[str], found: Found) -> dict[Atom, str]:
    """A name for each free atom in a parameter: the module of the first weight that makes it."""
    read = {(name, atom) for name, axis in found.contracted for atom in atoms(axis)}
    names: dict[Atom, str] = {}
    for atom, stands in _stands(values).items():
        places = [place for place in stands if place[0] in parameters]
        if not places:
            continue
        made = [name for name, _ in places if name in found.weights and (name, atom) not in read]
        base = (made or [places[0][0]])[0].rpartition(".")[0] or "the network"
        name, number = base, 2
        while name in names.values():
            name, number = f"{base}#{number}", number + 1
        names[atom] = name
    return names
