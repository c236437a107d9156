"""What the training losses of a stage did, in three numbers a node: enough to say why a stage went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Trail:
    """The first, the largest and the last loss that arrived at each node.

    Args:
        seen: What `state` gave, to go on from there.
    """

    def __init__(self, seen: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._nodes: dict[str, dict[str, Any]] = {name: dict(found) for name, found in (seen or {}).items()}

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in the row of a step, as the log writes it."""
        for name, loss in row["loss"].items():
            if loss is None:
                continue
            found = self._nodes.setdefault(name, {"first": loss, "from": row["step"], "worst": -math.inf})
            found |= {"last": loss, "to": row["step"]}
            if loss > found["worst"]:
                found |= {"worst": loss, "at": row["step"]}

    def state(self) -> dict[str, dict[str, Any]]:
        """All of it, as JSON data."""
        return {name: dict(found) for name, found in self._nodes.items()}

    def of(self, node: str) -> Mapping[str, Any] | None:
        """The losses of one node: `first` in step `from`, `worst` in step `at`, `last` in step `to`; None if none."""
        return self._nodes.get(node)

    def rose(self, node: str) -> bool:
        """Whether the loss of a node climbed to more than one and a half times where it began."""
        found = self.of(node)
        return found is not None and found["worst"] > 1.5 * abs(found["first"]) + 1e-12

    def says(self, node: str) -> str:
        """What the loss did, in a clause.

        >>> trail = Trail()
        >>> for step, loss in enumerate([6.6, 47.4, 13.2]):
        ...     trail.see({"step": step, "loss": {"student": loss}})
        >>> trail.says("student")
        'the training loss rose from 6.6 in step 0 to 47.4 in step 1'
        """
        found = self.of(node)
        if found is None:
            return "no training loss was logged"
        if self.rose(node):
            return (
                f"the training loss rose from {found['first']:.4g} in step {found['from']} to {found['worst']:.4g} in "
                f"step {found['at']}"
            )
        return (
            f"the training loss went from {found['first']:.4g} in step {found['from']} to {found['last']:.4g} in step "
            f"{found['to']}"
        )
