"""What networks said to examples, kept: a pass over held-out data is made once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from lessen.core.data import Examples
from lessen.core.task import Task
from lessen.measure.evaluate import Outputs, Runnable, evaluate

MOST_BYTES = 256 * 2**20
"""Outputs of a classifier are small; those of a network that labels every pixel are larger than its inputs."""


@dataclass
class KeptOutputs:
    """The outputs of networks that do not change any more, each on each split computed once.

    A network is known by its identity, so whoever changes one must not ask for it again. Where all outputs together
    grow beyond `most_bytes` the oldest go, and are computed again when they are asked for.

    Args:
        most_bytes: How much is kept.
    """

    most_bytes: int = MOST_BYTES
    _found: OrderedDict[tuple[Any, ...], tuple[Outputs, Any]] = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def of(
        self,
        network: Runnable,
        examples: Examples,
        *,
        batch_size: int = 256,
        most: int | None = None,
        output: str | None = None,
        whole: bool = False,
        task: Task | None = None,
    ) -> Outputs:
        """What `evaluate` returns for these; settings and errors as there."""
        how: dict[str, Any] = {"batch_size": batch_size, "most": most, "output": output, "whole": whole}
        key = id(network), id(examples), *how.values(), task is not None
        if key in self._found:
            return self._found[key][0]
        said = evaluate(network, examples, task=task, **how)
        self._found[key] = said, (network, examples)  # held, so that nothing else gets their identity
        while sum(_bytes(kept) for kept, _ in self._found.values()) > self.most_bytes:
            self._found.popitem(last=False)
        return said


def _bytes(outputs: Outputs) -> int:
    rest = sum(value.nbytes for batch in outputs.parts for value in batch.values())
    return rest + outputs.values.nbytes + (0 if outputs.labels is None else outputs.labels.nbytes)
