"""Self-distillation by branches: the end of a network teaches exits from its middle.

Zhang et al., Be your own teacher, ICCV 2019, arXiv:1905.08094.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from lessen.core.card import Card
from lessen.core.contracts import Bridge
from lessen.core.settings import settings
from lessen.graph import Branch, LinearHead, Role
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets
from lessen.schemes.at import Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts
from lessen.surgery.taps import as_tap


@settings
class SelfBranches(LabelledScheme):
    """Early exits learn from the labels and from the network's final output. Cast: `student`.

    Args:
        taps: Where the exits leave, from shallow to deep.
        head: Computes an output from a tap.
        knowledge: What an exit learns from those that teach it. A bare objective, and a tap of "", compare outputs.
        neighbours: Whether each exit learns from the next deeper one alone, instead of from the end of the network.
        labels: The weight of the labels at the end and at each exit.
    """

    taps: Annotated[tuple[str, ...], Field(min_length=1)]
    head: Bridge = LinearHead()
    knowledge: tuple[Lesson, ...] = (SoftTargets(temperature=3.0),)
    neighbours: bool = False

    card: ClassVar[Card] = Card(
        row="schemes / self-distillation",
        paper="arXiv:1905.08094",
        says="A network's final output teaches exits from its middle layers.",
        costs="A small head at each exit while training; nothing in the shipped model.",
        fails_when="The network is shallow: an early exit then changes features in ways that harm the later layers.",
        differs="Heads are linear by default, where the paper puts convolutions before them.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        names = [f"exit{number}" for number in range(1, len(self.taps) + 1)]
        nodes: list[Node] = [*self.labels_nodes(), Role(name="student", learns=True)]
        edges = self.labels_edges("student")
        for number, (name, tap) in enumerate(zip(names, self.taps, strict=True)):
            nodes.append(Branch(name=name, of="student", tap=as_tap(tap), head=self.head))
            edges += self.labels_edges(name)
            deeper = names[number + 1] if self.neighbours and number + 1 < len(names) else "student"
            edges += [lesson(what).edge(deeper, name) for what in self.knowledge]
        return [one_stage(self, "self-branches", nodes, edges)]


def self_branches(*taps: str, **settings: Any) -> SelfBranches:
    """Let a network teach its own exits, as `self_branches("layer1", "layer2", epochs=10)`."""
    return SelfBranches(taps=taps, **settings)
