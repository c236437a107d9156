"""Records gathered by what they are about: the network after each step, and each file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lessen.core.record import Record

_RUNTIMES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export", ".safetensors": "PyTorch"}
_SPELT = {"pytorch": "PyTorch", "None": "PyTorch"}


@dataclass(frozen=True)
class Entry:
    """One network or file with its figures.

    Args:
        name: What it is called: the subject of its records, or the name of the file.
        step: The step that it comes from; 0 is the original network.
        file: The file, relative to the run folder, or None for a network in PyTorch.
        figures: For each figure its records, smallest batch size first.
    """

    name: str
    step: int
    file: str | None
    figures: dict[str, list[Record]] = field(default_factory=dict)

    def get(self, figure: str) -> Record | None:
        """The record of a figure, at the smallest batch size where there are several."""
        found = self.figures.get(figure)
        return found[0] if found else None

    def value(self, figure: str) -> float | None:
        """The value of a figure, or None."""
        record = self.get(figure)
        return None if record is None else record.value

    @property
    def recommended(self) -> str | None:
        """Why it is the file to use, "fastest" or "smallest"; None if it is not."""
        record = self.get("recommended")
        return None if record is None else str(record.detail.get("because", "fastest"))

    @property
    def busy(self) -> str | None:
        """What kept the machine busy while it was timed; None if its times are known."""
        for record in self.figures.get("latency", []):
            if (said := record.detail.get("conditions", {}).get("busy")) is not None:
                return str(said)
        return None

    @property
    def runtime(self) -> str:
        """What ran it, for people."""
        suffix = "" if self.file is None else "." + self.file.rsplit(".", 1)[-1]
        if suffix in _RUNTIMES:
            return _RUNTIMES[suffix]
        record = self.get("latency")
        return "PyTorch" if record is None else _SPELT.get(name := str(record.settings.get("runtime")), name)

    @property
    def integer(self) -> bool:
        """Whether it is an int8 file: integer kernels were found in it, or it says so in its name."""
        return (self.value("integer_share") or 0) > 0 or "int8" in (self.file or "")

    @property
    def verified(self) -> bool | None:
        """Whether it agrees with PyTorch; None where that was not asked."""
        value = self.value("verified")
        return None if value is None else value > 0


def entries(records: Iterable[Record]) -> list[Entry]:
    """One entry for each step's network and each file, in order of the steps, networks before files.

    A figure that was measured again in the same way replaces the older one.
    """
    found: dict[tuple[int, str | None], Entry] = {}
    for record in records:
        if record.figure.startswith("target_"):
            continue
        key = (_step(record, found), record.file)
        entry = found.setdefault(key, Entry(record.file or record.subject, *key))
        rows = entry.figures.setdefault(record.figure, [])
        rows[:] = [row for row in rows if row.settings.get("batch") != record.settings.get("batch")]
        rows.append(record)
        rows.sort(key=lambda row: row.settings.get("batch") or 0)
    return sorted(found.values(), key=lambda entry: (entry.step, entry.file is not None))


def targets(records: Iterable[Record]) -> list[Record]:
    """The records that say whether a target was met."""
    return [record for record in records if record.figure.startswith("target_")]


def _step(record: Record, found: dict[tuple[int, str | None], Entry]) -> int:
    """A file belongs to one step, whichever of its records says so."""
    if record.file is not None:
        for step, file in found:
            if file == record.file:
                return step
    return record.step
