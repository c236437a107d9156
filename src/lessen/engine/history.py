"""What a run says when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class History:
    """What happened.

    Args:
        steps: Optimizer steps that were made, over all stages, in this call.
        validations: One entry a look at the validation split, as in the log.
        warnings: What a person must know, as in the log: a stage that ended no better than it began, a restart.
        last: The last logged step, as in the log, or None.
        folder: Where the log and the checkpoints are, or None.
    """

    steps: int = 0
    validations: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] | None = None
    folder: Path | None = None

    def best(self, node: str, figure: str = "accuracy") -> float | None:
        """The best value of a validation figure of a node; the largest accuracy, the smallest of anything else.

        The look before the first step counts as well.
        """
        values = [row["figures"][node][figure] for row in self.validations if figure in row["figures"].get(node, {})]
        if not values:
            return None
        return float(max(values) if figure == "accuracy" else min(values))
