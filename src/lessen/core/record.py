"""One measurement: a figure, its unit, its spread, and all that is needed to judge it."""

from __future__ import annotations

import datetime
import functools
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from lessen.core.machine import machine, versions


@dataclass(frozen=True, kw_only=True)
class Record:
    """A figure that was measured.

    Args:
        subject: What was measured, for people: "teacher", "1 PruneChannels", "model.int8.onnx".
        figure: Which figure: "bytes", "latency", "accuracy", ... (the names are in `lessen.measure`).
        value: The figure, or None where the thing has none (`detail` then says why).
        unit: "B", "ms", "%", "1" ...
        low: Lower end of the 95 % interval, or None.
        high: Upper end of the 95 % interval, or None.
        step: Which step of the pipeline it belongs to; 0 is the original network.
        file: The file it was measured on, relative to the run folder, or None for a network in PyTorch.
        settings: How it was measured: batch size, threads, split, number of repeats.
        detail: Whatever else belongs to it: counts of kernels, per-class figures, a reason.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    subject: str
    figure: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    step: int = 0
    file: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    at: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    def to_json(self) -> dict[str, Any]:
        """The record as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The record that `to_json` wrote.

        Raises:
            ValueError: these are not the fields of a record.
        """
        return _reader().validate_python(data)


@functools.cache
def _reader() -> TypeAdapter[Record]:
    return TypeAdapter(Record)
