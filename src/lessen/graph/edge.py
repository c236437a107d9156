"""Edges: which node teaches which, with which loss, at which layers, and with which weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from torch import nn

from lessen.core.contracts import Bridge, LearnedObjective, Objective
from lessen.core.settings import added, named_fields
from lessen.graph.gate import Gate, Through
from lessen.optim.schedule import Schedule
from lessen.surgery.taps import Address, Tap, Taps, as_tap


@named_fields
class Edge:
    """An objective between a tap of the source, which teaches, and a tap of the target, which learns.

    Args:
        source: The name of the node that teaches. None: the objective is a penalty, which looks at the target alone.
        target: The name of the node that learns.
        objective: `(target's value, source's value) -> (N,)`, or settings that build one from the shapes of the two.
        source_tap: Where to read the source; a string is the path of a module's output. `Taps` give a tuple of values.
        target_tap: Where to read the target.
        bridge: Applied to the target's value so that it compares with the source's: a module, or settings that
            build one. It learns with the target, and is never part of the network.
        weight: Multiplies the mean loss. 0 is the same as no edge.
        schedule: A further factor that follows the progress of the stage.
        gate: Which examples count; a string is the name of a set gate of the graph.
        to_source: Whether gradient flows to the source too. If not, the engine cuts it.
        moves: The nodes that the loss moves, each with what its gradient is multiplied by, as {"generator": -1,
            "student": 1}: the generator goes up where the student goes down. No other node is moved by the edge, and no
            value is cut off. None: the loss goes down at the target, and at the source if `to_source`.
    """

    source: str | None = None
    target: str
    objective: Objective | LearnedObjective
    source_tap: Address = field(default_factory=Tap)
    target_tap: Address = field(default_factory=Tap)
    bridge: Bridge | nn.Module | None = None
    weight: float = 1.0
    schedule: Schedule | None = None
    gate: Gate | str = field(default_factory=Through)
    to_source: bool = False
    moves: Mapping[str, float] | None = added()

    def taps(self) -> tuple[Tap | Taps, Tap | Taps]:
        """The taps of source and target."""
        source, target = self.source_tap, self.target_tap
        return source if isinstance(source, Taps) else as_tap(source), (
            target if isinstance(target, Taps) else as_tap(target)
        )

    def weight_at(self, progress: float) -> float:
        """Weight times schedule."""
        return self.weight if self.schedule is None else self.weight * self.schedule.at(progress)


def edge_names(edges: Sequence[Edge]) -> list[str]:
    """The names of edges in logs and drawings: `source->target`, the taps where they are not the output, `#2`.

    An edge without a source is `->target`.

    >>> given = {"source": "a", "target": "b", "objective": None}
    >>> edge_names([Edge(**given, source_tap="x"), Edge(**given), Edge(**given)])
    ['a->b:x>', 'a->b', 'a->b#2']
    """
    names: list[str] = []
    for edge in edges:
        source_tap, target_tap = edge.taps()
        name = f"{edge.source or ''}->{edge.target}"
        if str(source_tap) or str(target_tap):
            name += f":{source_tap}>{target_tap}"
        count = sum(known == name or known.startswith(f"{name}#") for known in names)
        names.append(name if count == 0 else f"{name}#{count + 1}")
    return names
