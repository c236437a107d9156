"""The warnings of a training as records, so that whoever reads the records of a run reads them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lessen.core.record import Record

_PLACE = {"kind", "stage", "epoch", "step"}
"""What says where a line of a log belongs; the record has its own step."""


def warning_records(said: Sequence[Mapping[str, Any]], subject: str, step: int) -> list[Record]:
    """One record a warning, without a value: `detail.says` is the sentence, next to the figures that it names.

    Args:
        said: The warnings, as in the log.
        subject: The network that was trained.
        step: Of the pipeline.
    """
    details = ({key: value for key, value in row.items() if key not in _PLACE} for row in said)
    return [
        Record(subject=subject, figure="training_warning", value=None, unit="1", step=step, detail=detail)
        for detail in details
    ]
