"""What schemes in which labels teach have in common."""

from __future__ import annotations

from lessen.core.settings import shared_settings
from lessen.graph import Edge, Labels
from lessen.knowledge import TaskLoss
from lessen.schemes.at import LabelsObjective
from lessen.schemes.scheme import TrainedScheme


@shared_settings
class LabelledScheme(TrainedScheme):
    """A scheme in which the labels teach as well.

    Args:
        labels: The weight of the labels; 0 where there are none.
        labels_objective: Between an output and the labels.
    """

    labels: float = 1.0
    labels_objective: LabelsObjective = TaskLoss()

    def labels_nodes(self) -> list[Labels]:
        """The node of the labels, unless their weight is 0."""
        return [Labels()] if self.labels else []

    def labels_edges(self, target: str) -> list[Edge]:
        """The edge from the labels to a node, unless its weight is 0."""
        if not self.labels:
            return []
        return [Edge(source="labels", target=target, objective=self.labels_objective, weight=self.labels)]
