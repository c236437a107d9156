"""One edge made ready to run: its values are found, its bridge and its objective are built, its shapes are checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from lessen.core.contracts import LearnedObjective, ObjectiveInput
from lessen.core.data import Batch, TaskFacts
from lessen.core.errors import DataError, GraphError, ShapeError
from lessen.core.seeds import seeded
from lessen.graph.edge import Edge
from lessen.graph.explain import check_loss, explained, shape_of, shown
from lessen.graph.gate import ExampleGate, Through
from lessen.graph.nodes.node import WHOLE
from lessen.graph.nodes.unit import Now
from lessen.optim.schedule import Schedule
from lessen.surgery.taps import Tap, Taps, reader
from lessen.surgery.values import map_values


@dataclass(eq=False)
class Ready:
    """An edge with everything looked up.

    Args:
        name: In logs and errors.
        edge: As it was given.
        source_tap: Where the source is read.
        target_tap: Where the target is read.
        objective: The loss.
        bridge: On the target's side, or None.
        gate: What looks at each example, or None; also None where a gate over several edges does.
        open_by: A gate that is one number for all examples, or None.
        data: The node of other data that its examples are of; None: the data of the stage.

    `source` and `target` are the nodes that teach and learn; `gated_with` is the name of the gate over several edges
    that it is under, or None.
    """

    name: str
    edge: Edge
    source_tap: Tap | Taps
    target_tap: Tap | Taps
    objective: Callable[[Any, Any], Tensor]
    bridge: nn.Module | None
    gate: ExampleGate | None
    open_by: Schedule | None
    data: str | None = None

    @classmethod
    def make(
        cls, edge: Edge, name: str, now: Now, *, device: torch.device, seed: int, task: TaskFacts, data: str | None
    ) -> Self:
        """Build what learns, and compute the edge once.

        Raises:
            GraphError, ShapeError, DataError: it cannot be computed; the text names the edge and both shapes.
        """
        gate = None if isinstance(edge.gate, Schedule | str) else edge.gate
        ready = cls(
            name=name,
            edge=edge,
            source_tap=edge.taps()[0],
            target_tap=edge.taps()[1],
            objective=edge.objective,  # type: ignore[arg-type]  # settings become an objective below
            bridge=None,
            gate=gate.to(device) if isinstance(gate, nn.Module) else gate,
            open_by=edge.gate if isinstance(edge.gate, Schedule) and not isinstance(edge.gate, Through) else None,
            data=data,
        )
        source, target = ready._values(now)
        if source is None and edge.source is not None:
            raise DataError(
                f"The edge {name} needs labels, but the data has none. Use data with labels, or leave the edge out."
            )
        if edge.bridge is not None:
            with explained(name, target, source), seeded(seed, "bridge", name):
                ready.bridge = build_bridge(edge.bridge, target, source).to(device)
                target = ready.bridge(target)
        whole = ready.source_tap == WHOLE and ready.target_tap == WHOLE and edge.bridge is None
        if isinstance(edge.objective, nn.Module):
            ready.objective = edge.objective.to(device)
        elif whole and hasattr(edge.objective, "for_task"):
            with explained(name, target, source):
                ready.objective = edge.objective.for_task(task.task, target, source)
        elif isinstance(edge.objective, LearnedObjective):
            with explained(name, target, source), seeded(seed, "objective", name):
                shapes = shape_of(target), None if edge.source is None else shape_of(source)
                made = edge.objective.objective_for(*shapes, task)
            ready.objective = made.to(device).eval()
        # What the objective needs in addition to the teacher's value is missing in the data, or the shapes do not fit.
        with explained(name, target, source):
            loss_N = ready._objective(0.0)(target, ready._beside(source, now.batch_of(data)))
        check_loss(name, loss_N, len(now.batch_of(data)), target, source)
        ready._check_gate(loss_N, now)
        return ready

    def __post_init__(self) -> None:
        self.source, self.target = self.edge.source, self.edge.target
        self.gated_with = self.edge.gate if isinstance(self.edge.gate, str) else None
        self._read_source, self._read_target = reader(self.source_tap), reader(self.target_tap)
        # The factor, where it is the same all the time.
        steady = self.edge.schedule is None and self.open_by is None
        self._steady = self.edge.weight_at(0.0) if steady else None

    @property
    def by_number(self) -> bool:
        """Whether the objective needs the indices of the examples, which exist for the training split only."""
        return ObjectiveInput.INDEX in self._asked

    def parts(self) -> dict[str, nn.Module]:
        """What of the edge may learn, by kind."""
        own = {"bridge": self.bridge, "objective": self.objective, "gate": self.gate}
        return {kind: part for kind, part in own.items() if isinstance(part, nn.Module)}

    def factor(self, progress: float) -> float:
        """Weight, times schedule, times a gate that is one number for all examples."""
        if self._steady is not None:
            return self._steady
        factor = self.edge.weight_at(progress)
        return factor if self.open_by is None else factor * self.open_by.at(progress)

    def loss(self, now: Now, progress: float) -> Tensor:
        """The loss of each example, shape (N,)."""
        source, target = self._values(now)
        if not self.edge.to_source and self.edge.moves is None:
            source = cut(source)
        if self.bridge is not None:
            target = self.bridge(target)
        return self._objective(progress)(
            target, self._beside(source, now.batch if self.data is None else now.others[self.data])
        )

    def weights(self, loss_N: Tensor, now: Now) -> Tensor:
        """How much each example counts, shape (N,)."""
        assert self.gate is not None
        source, target = self._outputs(now)
        return self.gate(loss_N.detach(), now.batch_of(self.data).labels, cut(source), cut(target))

    def _values(self, now: Now) -> tuple[Any, Any]:
        source = None if self.source is None else self._read_source(now.values[self.source])
        return source, self._read_target(now.values[self.target])

    def _outputs(self, now: Now) -> tuple[Any, Any]:
        """What a gate looks at."""
        return None if self.source is None else now.values[self.source][WHOLE], now.values[self.target][WHOLE]

    def _objective(self, progress: float) -> Callable[[Any, Any], Tensor]:
        during = self._during
        return self.objective if during is None else during(progress)

    @cached_property
    def _during(self) -> Callable[[float], Callable[[Any, Any], Tensor]] | None:
        """What gives the objective at a progress of the stage, where it changes."""
        return getattr(self.objective, "during", None)

    @cached_property
    def _asked(self) -> tuple[ObjectiveInput, ...]:
        """What the objective needs in addition to the teacher's value."""
        return getattr(self.objective, "needs", ())

    def _beside(self, source: Any, batch: Batch) -> Any:
        asked = self._asked
        if not asked:
            return source
        found = {ObjectiveInput.LABELS: batch.labels, ObjectiveInput.INDEX: batch.index}
        for what in asked:
            if found[what] is None:
                raise DataError(
                    f"{type(self.objective).__name__} needs the {what.value} of the examples, and the data has none."
                )
        return (source, *(found[what] for what in asked))

    def _check_gate(self, loss_N: Tensor, now: Now) -> None:
        if self.gate is None:
            return
        outputs = self._outputs(now)
        with explained(self.name, *outputs):
            weights_N = self.weights(loss_N, now)
        if not isinstance(weights_N, Tensor) or weights_N.shape != loss_N.shape:
            raise GraphError(
                f"The gate of the edge {self.name} must give one weight per example, shape {tuple(loss_N.shape)}."
            )


class Each(nn.Module):
    """A bridge for each of several taps.

    Args:
        bridges: In the order of the taps.
    """

    def __init__(self, bridges: list[nn.Module]) -> None:
        super().__init__()
        self.bridges = nn.ModuleList(bridges)

    def forward(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(bridge(value) for bridge, value in zip(self.bridges, values, strict=True))


def build_bridge(bridge: Any, target: Any, source: Any) -> nn.Module:
    """The module of a bridge for these values, in eval mode; one for each of several taps, unless it pairs them itself.

    Raises:
        ShapeError: it cannot get from one to the other, or the taps are not as many on both sides.
    """
    if isinstance(bridge, nn.Module):
        return bridge
    before, after = shape_of(target), shape_of(source)
    if not isinstance(target, tuple) or getattr(bridge, "pairs", False):
        built: nn.Module = bridge.build(before, after)
        return built.eval()
    if not isinstance(source, tuple) or len(source) != len(target):
        raise ShapeError(
            "a bridge for each tap needs the same number of taps on both sides, but the target's value is "
            f"{shown(target)} and the source's {shown(source)}. Give the same number, or use a bridge that takes all "
            "of them."
        )
    return Each([bridge.build(*shapes) for shapes in zip(before, after, strict=True)]).eval()


def cut(value: Any) -> Any:
    """The same value without gradient."""
    return map_values(_cut, value)


def _cut(leaf: Tensor) -> Tensor:
    return leaf.detach() if leaf.requires_grad else leaf
