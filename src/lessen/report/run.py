"""What a run folder holds, read and nothing more: no network, no data and no other part of lessen is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessen.core.errors import RunError
from lessen.core.files import check_regular, read_json, read_lines
from lessen.core.lines import read_sound_lines
from lessen.core.record import Record

LONGEST_RECIPE = 1 << 20
"""Bytes of a recipe that are shown."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The files of one run.

    Args:
        folder: Where they are.
        recipe: The recipe as it was written, or None.
        plans: Encoded plans, in order.
        layers: For each operation, what it did to each layer.
        records: Every measurement.
        log: One row a training step or validation.
        graphs: One transfer graph a stage.
    """

    folder: Path
    recipe: str | None
    plans: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    records: list[Record]
    log: list[dict[str, Any]]
    graphs: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """What the run is called: the name of its folder."""
        return self.folder.resolve().name


def read_run(folder: str | Path) -> Run:
    """Read a run folder; what is not there yet is empty.

    Raises:
        RunError: there is no such folder, it is not a run, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Give the folder of a run, as runs/mine.")
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        check_regular(recipe, expected="a YAML file")
    if not recipe.is_file() and not any((folder / name).is_file() for name in ("records.jsonl", "log.jsonl")):
        raise RunError(
            f"{folder} is not the folder of a run: it has no recipe.yaml, records.jsonl or log.jsonl. Runs are made by "
            "`lessen run`, lessen.compress(..., run=...) or lessen.engine.run(..., folder=...)."
        )
    return Run(
        folder=folder,
        recipe=_text(recipe) if recipe.is_file() else None,
        plans=_list(folder / "plan.json"),
        layers=_list(folder / "layers.json"),
        records=_records(folder / "records.jsonl"),
        log=read_sound_lines(folder / "log.jsonl", _is_logged),
        graphs=_list(folder / "graph.json"),
    )


def _text(path: Path) -> str:
    with path.open("rb") as stream:  # shown, not read: damage in it is no error
        return stream.read(LONGEST_RECIPE).decode("utf-8", "replace")


def _is_logged(row: dict[str, Any]) -> bool:
    return isinstance(row.get("stage"), int) and isinstance(row.get("kind"), str)


def _records(path: Path) -> list[Record]:
    try:
        return [Record.from_json(row) for row in read_lines(path)]
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{path} contains a line that is not a record ({error}). It was written by something else."
        ) from error


def _list(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise RunError(f"{path} is not a list of objects. It was written by something else.")
    return found
