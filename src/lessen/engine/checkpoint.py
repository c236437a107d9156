"""Checkpoints: one safetensors file each, written whole or not at all, with its JSON in the header.

A file holds everything that decides how the run goes on: networks, bridges, gates, snapshots, optimizers, the position,
and how good the best was; the best states are stored next to it in files of their own. Random numbers need no state:
they are derived from the seed and the step. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lessen.core.errors import RunError, WeightsError
from lessen.core.files import parse_json, read_described, read_json, read_metadata, write_json, write_tensors
from lessen.core.identity import differences

_VERSION = 3


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Args:
        tensors: Named tensors.
        about: JSON data: position, figures, numbers of optimizers.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder, of which the newest are kept.

    Args:
        folder: Where they are.
        told: What the run is that they belong to, as JSON data (see `lessen.core.identity`). Checkpoints hold a digest
            of it; `identity.json` next to the folder holds it in full, so that an error can say what differs.
        keep: How many checkpoints of each stage are kept; the one to resume from always is.
    """

    def __init__(self, folder: Path, told: Any, keep: Sequence[int] = ()) -> None:
        self.folder, self.told, self._keep = folder, told, keep
        self._needs: dict[str, set[str]] = {}
        self._identity = folder.parent / "identity.json"
        self.fingerprint = _digest(told)

    def begin(self) -> None:
        """Write what the run is.

        Raises:
            RunError: the disk is full or read-only.
        """
        write_json(self._identity, self.told)

    def write(self, stage: int, step: int, saved: Saved) -> None:
        """Write a checkpoint, then remove the older ones and the best states that none needs any more.

        Raises:
            RunError: the disk is full; the older checkpoint is still there.
        """
        about = {**saved.about, "version": _VERSION, "fingerprint": self.fingerprint, "stage": stage, "step": step}
        path = self.folder / f"checkpoint-{stage:03}-{step:08}.safetensors"
        write_tensors(path, saved.tensors, {"about": json.dumps(about, allow_nan=False)})
        self._needs[path.name] = _named_in(saved.about)
        kept = {path.name, *self._spared(path.name)}
        kept |= {needed for name in kept for needed in self._needed_by(name)}
        for other in self.folder.iterdir():
            if other.name not in kept and other.suffix in {".part", ".safetensors"}:
                other.unlink(missing_ok=True)

    def _spared(self, newest: str) -> Iterator[str]:
        """The names of older checkpoints that are kept; what is later than the newest was on a way that led nowhere."""
        names = sorted(path.name for path in self.folder.glob("checkpoint-*.safetensors") if path.name <= newest)
        for stage, count in enumerate(self._keep):
            if count > 1:
                yield from [name for name in names if name.startswith(f"checkpoint-{stage:03}-")][-count:]

    def _needed_by(self, name: str) -> set[str]:
        """The files that a checkpoint names: it cannot be resumed without them."""
        if name not in self._needs:
            about = parse_json(read_metadata(self.folder / name).get("about", "{}"), f"The header of {name}")
            self._needs[name] = _named_in(about if isinstance(about, dict) else {})
        return self._needs[name]

    def write_best(self, stage: int, step: int, node: str, tensors: Mapping[str, Tensor]) -> str:
        """Write the best state of a node; the name of the file."""
        name = f"best-{stage:03}-{step:08}-{node}.safetensors"
        write_tensors(self.folder / name, tensors)
        return name

    def write_good(self, stage: int, step: int, saved: Saved) -> str:
        """Write the state that a stage would be restarted from; the name of the file."""
        name = f"good-{stage:03}-{step:08}.safetensors"
        write_tensors(self.folder / name, saved.tensors, {"about": json.dumps(saved.about, allow_nan=False)})
        return name

    def read_good(self, name: str) -> Saved:
        """The state in a file that `write_good` made."""
        tensors, held = self._get(self.folder / name)
        about = parse_json(held.get("about", "null"), f"The header of {name}")
        if not isinstance(about, dict):
            raise RunError(f"{name} is not a checkpoint of lessen. Move it away, or choose another folder.")
        return Saved(tensors, about)

    def read_best(self, name: str) -> dict[str, Tensor]:
        """The best state in a file that a checkpoint names."""
        return self._get(self.folder / name)[0]

    def newest(self) -> Saved | None:
        """The newest checkpoint, or None where there is none.

        Raises:
            RunError: it belongs to another run, or is not a checkpoint.
        """
        found = sorted(self.folder.glob("checkpoint-*.safetensors")) if self.folder.is_dir() else []
        if not found:
            return None
        path = found[-1]
        tensors, held = self._get(path)
        about = parse_json(held.get("about", "null"), f"The header of {path}")
        if not isinstance(about, dict):
            raise RunError(f"{path} is not a checkpoint of lessen. Move it away, or choose another folder.")
        if about.get("version") != _VERSION:
            raise RunError(f"{path} was written by another version of lessen, which this one cannot continue.")
        if about.get("fingerprint") != self.fingerprint and not self._is_same(about.get("fingerprint")):
            raise RunError(
                f"{path} belongs to a run with other stages, settings, data or seed{self._what_differs()}. Resume with "
                "the same ones, or choose another folder."
            )
        return Saved(tensors, about)

    def _is_same(self, fingerprint: Any) -> bool:
        """Whether a run that was told in other words is the same: earlier versions told where a class lies, too."""
        try:
            before = read_json(self._identity)
        except RunError:
            return False
        return _digest(before) == fingerprint and not any(differences(before, json.loads(json.dumps(self.told))))

    def _what_differs(self, most: int = 3) -> str:
        """The first differences as text, where the file that tells them can be read."""
        try:
            before = read_json(self._identity)
        except RunError:
            return ""
        found = list(differences(before, json.loads(json.dumps(self.told))))
        more = f" and {len(found) - most} more" if len(found) > most else ""
        return f" (before and now: {'; '.join(found[:most])}{more})" if found else ""

    def _get(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        try:
            return read_described(path)
        except WeightsError as error:
            raise RunError(
                f"The checkpoint cannot be read: {error} Or move it away, and resume: the training then begins again."
            ) from error


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _named_in(about: Mapping[str, Any]) -> set[str]:
    return {name for name in (about.get("good_file"), *about.get("best_files", {}).values()) if name}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix and a slash, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
