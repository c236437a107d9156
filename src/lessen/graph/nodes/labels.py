"""The labels of the batch as a node."""

from __future__ import annotations

from typing import ClassVar

from lessen.core.data import IGNORED
from lessen.core.settings import named_fields
from lessen.graph.nodes.node import WHOLE, Node
from lessen.graph.nodes.unit import Making, Now, Unit


@named_fields
class Labels(Node):
    """The labels of the batch, as they are."""

    name: str = "labels"

    has_layers: ClassVar[bool] = False
    has_output: ClassVar[bool] = False

    def unit(self, making: Making) -> Unit:
        return LabelsUnit(self)


class LabelsUnit(Unit):
    """The labels of the batch."""

    kind = "labels"
    draws = False

    def __init__(self, node: Labels) -> None:
        self.name = node.name

    def compute(self, now: Now) -> None:
        labels = now.batch.labels
        if now.written is not None and labels is not None:
            labels = labels.masked_fill(now.written[:, None], IGNORED)
        now.values[self.name] = {WHOLE: labels}
