"""The labels of the batch as a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from lessen.core.data import IGNORED
from lessen.core.settings import added, named_fields
from lessen.graph.nodes.node import WHOLE, Node, find
from lessen.graph.nodes.unit import Making, Now, Unit


@named_fields
class Labels(Node):
    """The labels of the batch, as they are.

    Args:
        name: What edges call it.
        of: The node of `OtherData` whose labels they are. None: those of the stage's data.
    """

    name: str = "labels"
    of: str | None = added()

    has_layers: ClassVar[bool] = False
    has_output: ClassVar[bool] = False

    @property
    def made_of(self) -> Sequence[str]:
        return () if self.of is None else (self.of,)

    def check(self, nodes: Mapping[str, Node]) -> None:
        if self.of is not None:
            find(self.of, nodes, f"the node {self.name!r}", lambda node: node.gives_batch, "a node of OtherData")

    def unit(self, making: Making) -> Unit:
        return LabelsUnit(self)

    def drawn(self, short: Callable[[object], str]) -> dict[str, Any]:
        return {} if self.of is None else {"of": [self.of]}


class LabelsUnit(Unit):
    """The labels of the batch."""

    kind = "labels"
    draws = False

    def __init__(self, node: Labels) -> None:
        self.name, self.of = node.name, node.of

    def compute(self, now: Now) -> None:
        labels = (now.batch if self.of is None else now.others[self.of]).labels
        if self.of is None and now.written is not None and labels is not None:
            labels = labels.masked_fill(now.written[:, None], IGNORED)
        now.values[self.name] = {WHOLE: labels}
