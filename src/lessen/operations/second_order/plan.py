"""What pruning with reconstruction decided: masks, and the weights that were moved."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import nn

from lessen.core import settings
from lessen.operations.parts.values import Values, put_values
from lessen.operations.prune_weights import PrunedWeights


@settings
class Reconstructed:
    """The plan of `PruneByReconstruction`.

    Args:
        pruned: The masks.
        errors: The squared error of each layer's outputs on the calibration examples, as a share of their square.
        values: The weights on the masks; None if they are stored in a file next to the plan.
    """

    pruned: PrunedWeights
    errors: dict[str, float] = Field(default_factory=dict)
    values: Values | None = None

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network with masks on its parameters, and the reconstructed weights in them.

        Raises:
            PlanError: a parameter is missing, or of another shape, or the values were left out of the plan.
        """
        network = self.pruned.apply(model)
        if values:
            put_values(network, self.values)
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each parameter."""
        rows = self.pruned.describe()
        for row in rows:
            if row["module"] in self.errors:
                row["edit"] = "prune and reconstruct"
                row["after"] += f", error {100 * self.errors[row['module']]:.3g} % on calibration examples"
        return rows
