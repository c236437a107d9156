"""How many examples a step sees: known before anything is made ready."""

from __future__ import annotations

from lessen.core.errors import SettingError
from lessen.graph.stage import Fit


def batch_size(fit: Fit, examples: int, *, processes: int = 1) -> int:
    """The examples of one optimizer step: those of `fit`, or as many as there are.

    Args:
        fit: How a stage is trained.
        examples: How many training examples there are.
        processes: How many processes share a step.

    Raises:
        SettingError: they cannot be cut into equal parts, one for each process and each part of an accumulation.

    >>> batch_size(Fit(batch=64), 1000), batch_size(Fit(batch=64, accumulate=4), 30)
    (64, 28)
    """
    parts = processes * fit.accumulate
    batch = min(fit.batch, examples)
    if fit.batch <= examples and batch % parts:
        raise SettingError(
            f"Fit: batch: a batch of {batch} cannot be cut into {processes} processes times {fit.accumulate} parts. "
            f"Make it a multiple of {parts}."
        )
    if batch < parts:
        raise SettingError(f"Fit: {examples} training examples are too few for {parts} parts of a batch.")
    return batch - batch % parts
