"""A stage's graph, made ready to run: `Flow` computes all nodes and edges of one batch in one forward pass.

Everything that learns is a submodule, and the whole forward pass up to the losses is inside, so that whatever wraps a
module (several processes, mixed precision) wraps the bridges, the objectives and the taps as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Batch, Examples, TaskFacts, View
from lessen.core.errors import DataError, GraphError, LessenError
from lessen.core.seeds import seeded
from lessen.graph.check import check, named, works
from lessen.graph.edge import Edge, edge_names
from lessen.graph.gate import Through
from lessen.graph.moves import Steering
from lessen.graph.nodes.node import WHOLE
from lessen.graph.nodes.other_data import data_behind
from lessen.graph.nodes.unit import Making, Now, Unit, Views, seed_draws
from lessen.graph.owners import Moved, Owner
from lessen.graph.ready import Ready
from lessen.graph.stage import Stage
from lessen.optim.schedule import Schedule
from lessen.surgery.taps import Tap, each_tap


@dataclass(eq=False)
class Passed:
    """What one forward pass gives: the loss to go down, and what to log.

    Args:
        total: The sum over the targets of what they combined.
        losses: The mean loss of each edge that was computed, without gradient, by its number.
        gates: The mean weight of the examples, for edges whose gate looks at them.
        targets: What each target combined, without gradient.
    """

    total: Tensor
    losses: dict[int, Tensor]
    gates: dict[int, Tensor]
    targets: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is computed as long as the same edges count.

    Args:
        units: The nodes, each after those that it is made of.
        edges: The edges that count, with their numbers.
        targets: The nodes that losses arrive at.
        seeded: Whether something may draw before a network that learns, which seeds for itself, is computed.
    """

    units: list[Unit]
    edges: list[tuple[int, Ready]]
    targets: list[str]
    seeded: bool


class Flow(nn.Module):
    """All nodes and edges of a stage, checked on one batch.

    Args:
        stage: What to make ready.
        batch: A few examples, to learn the shapes from. They are computed in eval mode, and nothing is changed by it.
        augment: The view of training batches for networks that have none of their own.
        seed: For the initial weights of bridges, gates and snapshots.
        device: Where to compute; None leaves the networks where they are.
        task: The task, as learned objectives need it; None: the batch is all the data.

    Raises:
        GraphError, TapError, ShapeError, DataError: see `validate`.
    """

    def __init__(
        self,
        stage: Stage,
        batch: Batch,
        *,
        augment: View | None = None,
        seed: int = 0,
        device: torch.device | None = None,
        task: TaskFacts | None = None,
    ) -> None:
        super().__init__()
        check(stage)
        self.task = task or TaskFacts(examples=len(batch))
        self.stage = stage
        self.seed = seed
        self._nodes = named(stage.graph)
        self.names = edge_names(stage.graph.edges)
        self.edges = list(stage.graph.edges)
        self._active = [number for number, edge in enumerate(self.edges) if works(edge)]
        self.views = Views(augment)
        ends = _ends(self.edges[number] for number in self._active)
        self.units: dict[str, Unit] = {name: self._unit(name) for name in self.needed(ends)}
        self._writers = [self._unit(name) for name, node in self._nodes.items() if node.writes]
        self.learning = nn.ModuleList()
        self.owners: dict[str, Owner] = {}
        self._ready: dict[int, Ready] = {}
        self._plans: dict[tuple[tuple[int, ...], frozenset[str]], Plan] = {}
        self._parameters_of: dict[str, list[nn.Parameter]] = {}
        self._steered: dict[int, Steering] = {}
        self._apart: set[int] = set()
        self._elsewhere = {
            number for number in self._active if any(map(self.reads_other_data, _ends([self.edges[number]])))
        }
        try:
            if device is not None:
                for unit in [*self.units.values(), *self._writers]:
                    unit.to(device)
            else:
                device = _device_of(self.units.values())
            with self._undisturbed():
                self._dry(batch.to(device), device)
            self._collect()
        except BaseException:
            self.close()
            raise

    # Making ready

    def needed(self, names: Iterable[str]) -> list[str]:
        """These nodes and all that they are made of, each after those that it is made of."""
        order: list[str] = []

        def need(name: str) -> None:
            if name not in order:
                for other in self._nodes[name].needs(self._nodes):
                    need(other)
                order.append(name)

        for name in names:
            need(name)
        return order

    def _taps_in(self, name: str) -> list[Tap]:
        taps: dict[Tap, None] = {}
        for number in self._active:
            edge = self.edges[number]
            source_tap, target_tap = edge.taps()
            if edge.source == name:
                taps |= dict.fromkeys(each_tap(source_tap))
            if edge.target == name:
                taps |= dict.fromkeys(each_tap(target_tap))
            if not isinstance(edge.gate, Schedule | str) and name in {edge.source, edge.target}:
                taps[WHOLE] = None
        for node in self._nodes.values():
            taps |= dict.fromkeys(node.taps_in(name))
        return list(taps)

    def _unit(self, name: str) -> Unit:
        return self._nodes[name].unit(Making(self._nodes, self._taps_in(name), self.views, self.task.output))

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Run in eval mode without gradient, and put modes, buffers and the random state back."""
        parts: list[object] = [*self.learning, *(unit.module for unit in self.units.values())]
        parts += [part for node in self._nodes.values() if node.has_head for part in node.parts]
        parts += [part for edge in self.edges for part in (edge.bridge, edge.objective, edge.gate)]
        modules = [part for part in parts if isinstance(part, nn.Module)]
        modes = [(part, part.training) for module in modules for part in module.modules()]
        buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
        for module in modules:
            module.eval()
        try:
            with seeded(self.seed, "dry"), torch.no_grad():
                yield
        finally:
            for part, training in modes:
                part.training = training
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

    def _dry(self, batch: Batch, device: torch.device) -> None:
        now = Now(batch=batch, training=True)
        for unit in self._writers:
            unit.write(now)
        now.training = False
        for unit in self.units.values():
            unit.make_ready(now, device, self.seed)
        for number in self._active:
            edge, name = self.edges[number], self.names[number]
            data = next(iter(data_behind(edge.target, self._nodes))) or None
            task = self.task if data is None else replace(self.task, examples=len(self.others[data]))
            self._ready[number] = Ready.make(edge, name, now, device=device, seed=self.seed, task=task, data=data)
        for gate in self.stage.graph.gates or {}:
            given = {number: ready for number, ready in self._ready.items() if ready.gated_with == gate}
            if given:
                self._gate(gate, {number: ready.loss(now, 0.0) for number, ready in given.items()})

    def _collect(self) -> None:
        """Say which optimizer moves what, and how losses get there."""
        self._moved = moved = Moved(self.stage, self._nodes, self.units, list(self._ready.values()))
        self.owners = moved.owners
        self.learning.extend(moved.learning)
        for number, ready in self._ready.items():
            self._parameters_of[ready.target] = moved.movable(ready.target)
            if moved.kept_apart(ready):
                self._apart.add(number)
            if ready.edge.moves is not None:
                self._steered[number] = moved.steering(ready)

    def root(self, name: str) -> str:
        """The node whose optimizer moves what learns at a node."""
        return self._nodes[name].moved_by(self._nodes)

    def teaches_output(self, name: str) -> bool:
        """Whether an edge that counts arrives at the output of a node, of a variant of it, or of an ensemble of it."""
        active = [self.edges[number] for number in self._active]
        whole = [edge.target for edge in active if WHOLE in each_tap(edge.taps()[1])]
        nodes = [self._nodes[target] for target in whole]
        again = any(node.has_output and not node.has_head and self.root(node.name) == name for node in nodes)
        return name in whole or again or any(name in node.members for node in nodes)

    # Running

    def set_mode(self, *, training: bool) -> None:
        """Put learning parts into train or eval mode; frozen networks are in eval mode, also inside a learning one."""
        for part in self.learning:
            part.train(training)
        for unit in self.units.values():
            unit.set_mode()

    def forward(
        self,
        batch: Batch,
        progress: float,
        *,
        training: bool = True,
        draw: int = 0,
        view_seed: int = 0,
        waiting: frozenset[str] = frozenset(),
        others: Mapping[str, Batch] | None = None,
        scale: Tensor | None = None,
    ) -> Passed:
        """Compute the edges that count at this progress, and the nodes that they need; what learns, always.

        Args:
            batch: The examples, on the device.
            progress: Of the stage, in [0, 1].
            training: Whether views of training batches are used. If not, the batch may be of another split, and edges
                whose objective needs the index of training examples, or that are of other data, are skipped.
            draw: A seed for whatever is drawn in this pass (dropout); each learning network has a stream of its own.
            view_seed: A seed for random views, the same for the whole pass over the data.
            waiting: The nodes that do not move at this step; edges that move no other are skipped.
            others: The batches of other data, on the device, by the name of their node; without it the first examples.
            scale: What the loss is multiplied by in the backward pass, for float16.
        """
        now = Now(batch=batch, training=training, draw=draw, view_seed=view_seed, others=dict(others or {}))
        for unit in self._writers:
            unit.write(now)
        factors = {
            number: factor
            for number, ready in self._ready.items()
            if (training or not (ready.by_number or number in self._elsewhere))
            and (factor := ready.factor(progress)) != 0
        }
        if waiting:
            factors = {
                number: factor
                for number, factor in factors.items()
                if not self._moved.by(self.edges[number]) <= waiting
            }
        plan = self._plans.get((tuple(factors), waiting)) or self._plan(tuple(factors), waiting)
        if training and plan.seeded:
            seed_draws(draw, batch.index.device)
        for unit in plan.units:
            unit.compute(now)
        arriving: dict[str, dict[str, Tensor]] = {name: {} for name in plan.targets}
        losses: dict[int, Tensor] = {}
        gates: dict[int, Tensor] = {}
        means: dict[int, Tensor] = {}
        together: dict[str, dict[int, Tensor]] = {}
        apart: dict[str, Tensor] = {}
        for number, ready in plan.edges:
            try:
                loss_N = ready.loss(now, progress)
                if ready.gated_with is not None:
                    together.setdefault(ready.gated_with, {})[number] = loss_N
                elif ready.gate is None:
                    means[number] = loss_N.mean()
                    losses[number] = means[number].detach()
                else:
                    weights_N = ready.weights(loss_N, now)
                    means[number] = (loss_N * weights_N).mean()
                    losses[number], gates[number] = loss_N.detach().mean(), weights_N.detach().mean()
            except LessenError as error:
                raise type(error)(f"The edge {ready.name}: {error}") from error
            except (IndexError, RuntimeError, ValueError) as error:
                raise DataError(f"The edge {ready.name} cannot be computed: {error}") from error
        for name, losses_N in together.items():
            weights_EN = self._gate(name, losses_N)
            for weights_N, (number, loss_N) in zip(weights_EN, losses_N.items(), strict=True):
                means[number] = (loss_N * weights_N).mean()
                losses[number], gates[number] = loss_N.detach().mean(), weights_N.mean()
        for number, ready in plan.edges:
            factor, mean = factors[number], means[number]
            if number in self._steered:
                mean = self._steered[number](mean, scale)
            if number in self._apart:
                given = mean if factor == 1 else mean * factor
                apart[ready.target] = given if ready.target not in apart else apart[ready.target] + given
                continue
            arriving[ready.target][ready.name] = mean if factor == 1 else mean * factor
        total: Tensor | None = None
        targets: dict[str, Tensor] = {}
        for name, loss in apart.items():
            carried = self._carried(name, loss, scale)
            targets[name] = carried.detach()
            total = carried if total is None else total + carried
        for name, arrived in arriving.items():
            if not arrived:
                continue
            # An objective may freeze a part of its own when it has been prepared.
            movable = [parameter for parameter in self._parameters_of[name] if parameter.requires_grad]
            combined = self.units[name].combine(arrived, movable)
            targets[name] = combined.detach() if name not in apart else combined.detach() + targets[name]
            total = combined if total is None else total + combined
        if total is None:
            total = torch.zeros((), device=batch.index.device)
        return Passed(total, losses, gates, targets)

    def _carried(self, name: str, loss: Tensor, scale: Tensor | None) -> Tensor:
        """A loss that arrives at a node, with its gradient at the carriers of the node's optimizer."""
        mine = self.owners[self.root(name)]
        assert mine.carriers is not None
        others = [p for owner in self.owners.values() if owner is not mine for p in owner.named.values()]
        return mine.carriers.carried(loss, others, scale)

    def _gate(self, name: str, losses_N: Mapping[int, Tensor]) -> Tensor:
        """The weights (E, N) that a gate over several edges gives to their losses."""
        losses_EN = torch.stack([loss_N.detach() for loss_N in losses_N.values()])
        weights_EN = (self.stage.graph.gates or {})[name](losses_EN)
        if not isinstance(weights_EN, Tensor) or weights_EN.shape != losses_EN.shape:
            came = tuple(weights_EN.shape) if isinstance(weights_EN, Tensor) else type(weights_EN).__name__
            raise GraphError(
                f"The gate {name!r} gave {came} for losses of shape {tuple(losses_EN.shape)}; it must give one weight "
                "for each edge and example."
            )
        return weights_EN.detach()

    @property
    def others(self) -> dict[str, Examples]:
        """The sets of other data that nodes read, by the name of their node."""
        return {name: unit.examples for name, unit in self.units.items() if unit.examples is not None}

    def reads_other_data(self, name: str) -> bool:
        """Whether a node's values are of other data than the stage's."""
        return data_behind(name, self._nodes) != {""}

    def _plan(self, numbers: tuple[int, ...], waiting: frozenset[str]) -> Plan:
        """What is computed when these edges count, looked up once.

        A teacher whose edges are closed costs nothing. A network that learns is always computed, unless it waits: it
        has buffers that move with every batch.
        """
        ends = _ends(self.edges[number] for number in numbers)
        always = [name for name, unit in self.units.items() if unit.always and self.root(name) not in waiting]
        needed = self.units if len(numbers) == len(self._ready) else self.needed([*ends, *always])
        units = [unit for name, unit in self.units.items() if name in needed]
        first = next((unit for unit in units if unit.draws), None)
        plan = self._plans[numbers, waiting] = Plan(
            units,
            [(number, self._ready[number]) for number in numbers],
            list(dict.fromkeys(self._ready[number].target for number in numbers)),
            seeded=first is None or not first.seeds,
        )
        return plan

    def gate_at(self, number: int, progress: float) -> float:
        """How far the gate of an edge is open to all examples; 1 for a gate that looks at each."""
        open_by = self._ready[number].open_by
        return 1.0 if open_by is None else open_by.at(progress)

    def uses_all(self, batch: Batch) -> bool:
        """Whether every weight that learns gets a gradient in every pass, whatever the progress."""
        if self.stage.turns is not None:
            return False
        if any(ready.edge.schedule or not isinstance(ready.edge.gate, Through) for ready in self._ready.values()):
            return False
        parameters = [parameter for owner in self.owners.values() for parameter in owner.parameters]
        with self._undisturbed(), torch.enable_grad():
            total = self(batch, 1.0).total
            moved = [parameter for parameter in parameters if parameter.requires_grad]
            gradients = torch.autograd.grad(total, moved, allow_unused=True)
        self.forget()
        return len(moved) == len(parameters) and all(gradient is not None for gradient in gradients)

    def gives(self, batch: Batch) -> dict[str, float]:
        """The mean loss of each edge at the end of the stage, and of its gate, in eval mode; nothing is moved by it.

        What is not finite is left out.
        """
        with self._undisturbed(), torch.enable_grad():  # a rule on gradients needs them
            passed = self(batch, 1.0)
        self.forget()
        found = {self.names[number]: float(loss) for number, loss in passed.losses.items()}
        found |= {f"{self.names[number]}, gate": float(weight) for number, weight in passed.gates.items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def forget(self) -> None:
        """Let go of the activations of the last pass."""
        for unit in self.units.values():
            unit.forget()

    def close(self) -> None:
        """Take all hooks away; the networks are as they were."""
        for unit in self.units.values():
            unit.close()


def validate(stage: Stage, batch: Batch, *, augment: View | None = None, task: TaskFacts | None = None) -> None:
    """Check a stage before its first step: words, taps, shapes, bridges, objectives; nothing is changed.

    Args:
        stage: What would run.
        batch: A few examples, computed once.
        augment: The view of training batches, if there is one.
        task: The task, as learned objectives need it; None: the batch is all the data.

    Raises:
        GraphError: a name is unknown or taken, no node learns, or an objective does not give one finite loss an
            example.
        TapError: a tap names no module, or its module is called never or more than once.
        ShapeError: two taps do not fit, or no bridge fits them; the text names both shapes.
        DataError: the data has no labels where an edge needs them.
        SettingError: an optimizer does not fit its parameters.
    """
    flow = Flow(stage, batch, augment=augment, task=task)
    try:
        for owner in flow.owners.values():
            if owner.named:
                owner.build()
    finally:
        flow.close()


def _ends(edges: Iterable[Edge]) -> list[str]:
    """The nodes at the ends of edges."""
    return [end for edge in edges for end in (edge.source, edge.target) if end is not None]


def _device_of(units: Any) -> torch.device:
    for unit in units:
        if unit.module is not None:
            for parameter in unit.module.parameters():
                return torch.device(parameter.device)
    return torch.device("cpu")
