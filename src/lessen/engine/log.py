"""The log of a run: one JSON line a step or validation, written in blocks, so that a step does not wait for the disk.

A loss that is not finite is found when its block is written, at the latest before the next checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lessen.core.files import append_text, write_text
from lessen.core.lines import read_sound_lines
from lessen.engine.advice import diverged
from lessen.engine.home import Home
from lessen.engine.trail import Trail
from lessen.graph.flow import Flow, Passed

_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


@dataclass(eq=False)
class _Step:
    epoch: int
    step: int
    progress: float
    parts: list[Passed]
    rates: dict[str, float]
    seconds: float


class Log:
    """The log of one stage.

    Args:
        flow: Whose steps are logged.
        stage: The number of the stage.
        home: To take means over processes.
        path: Where the lines go, or None.
    """

    def __init__(self, flow: Flow, stage: int, home: Home, path: Path | None) -> None:
        self._flow, self._stage, self._home, self._path = flow, stage, home, path
        self._pending: list[_Step] = []
        self.last: dict[str, Any] | None = None
        self.trail = Trail()
        self.keep = False
        self._kept: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def step(
        self,
        epoch: int,
        step: int,
        *,
        progress: float,
        parts: list[Passed],
        rates: dict[str, float],
        seconds: float,
    ) -> None:
        """Remember a step; its numbers are read later."""
        self._pending.append(_Step(epoch, step, progress, parts, rates, seconds))

    def drop(self) -> None:
        """Forget the steps that are remembered; they are made again."""
        self._pending = []

    def flush(self) -> None:
        """Read the numbers of all remembered steps and write their lines.

        Raises:
            DivergedError: a loss is not finite; the text names stage, step and edge.
            RunError: the disk is full.
        """
        if not self._pending:
            return
        steps, self._pending = self._pending, []
        values: list[Tensor] = []
        for step in steps:
            for passed in step.parts:
                values += [*passed.losses.values(), *passed.gates.values(), *passed.targets.values()]
        numbers = self._home.mean(torch.stack([value.float() for value in values])).tolist() if values else []
        rows, bad, place = [], None, 0
        for step in steps:
            count = sum(len(p.losses) + len(p.gates) + len(p.targets) for p in step.parts)
            row, wrong = self._row(step, numbers[place : place + count])
            place += count
            rows.append(row)
            if wrong is not None:
                bad = (step.step, *wrong)
                break
            self.trail.see(row)
        self.last = rows[-1]
        self._write(rows)
        if bad is not None:
            raise diverged(self._flow, bad[0], f"the loss of {bad[1]}", bad[2], self.trail)

    def validation(
        self, epoch: int, step: int, figures: dict[str, dict[str, float]], improved: list[str]
    ) -> dict[str, Any]:
        """Write the line of a look at the validation split; `improved` are the networks that were never better."""
        self.flush()
        row = {
            "kind": "validation",
            "stage": self._stage,
            "name": self._flow.stage.name,
            "epoch": epoch,
            "step": step,
            "figures": figures,
            "best": bool(improved),
            "improved": improved,
        }
        self._write([row])
        return row

    def warning(self, epoch: int, step: int, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write the line of something that a person must know; `found` has the text as `says`."""
        row = {
            "kind": "warning",
            "stage": self._stage,
            "name": self._flow.stage.name,
            "epoch": epoch,
            "step": step,
            **found,
        }
        self._write([row])
        return row

    def _row(self, step: _Step, numbers: list[float]) -> tuple[dict[str, Any], tuple[str, str] | None]:
        losses: dict[int, list[float]] = {}
        gates: dict[int, list[float]] = {}
        targets: dict[str, list[float]] = {}
        given = iter(numbers)
        for passed in step.parts:
            for number in passed.losses:
                losses.setdefault(number, []).append(next(given))
            for number in passed.gates:
                gates.setdefault(number, []).append(next(given))
            for name in passed.targets:
                targets.setdefault(name, []).append(next(given))
        edges: dict[str, Any] = {}
        wrong: tuple[str, str] | None = None
        for number, found in losses.items():
            edge, name = self._flow.edges[number], self._flow.names[number]
            loss = sum(found) / len(found)
            if not math.isfinite(loss):
                wrong = wrong or (f"the edge {name}", edge.target)
            weight = edge.weight_at(step.progress)
            gate = gates.get(number)
            open_by = sum(gate) / len(gate) if gate else self._flow.gate_at(number, step.progress)
            edges[name] = {
                "loss": loss if math.isfinite(loss) else None,
                "weight": weight,
                "gate": open_by if math.isfinite(open_by) else None,
            }
        totals = {name: sum(found) / len(found) for name, found in targets.items()}
        for name, total in totals.items():
            if not math.isfinite(total):
                wrong = wrong or (f"the node {name}", name)
        row = {
            "kind": "step",
            "stage": self._stage,
            "name": self._flow.stage.name,
            "epoch": step.epoch,
            "step": step.step,
            "loss": {name: total if math.isfinite(total) else None for name, total in totals.items()},
            "edges": edges,
            "rate": step.rates,
            "seconds": round(step.seconds, 6),
        }
        return row, wrong

    def take(self) -> list[dict[str, Any]]:
        """The lines written since the last call, for trackers; only with `keep`."""
        kept, self._kept = self._kept, []
        return kept

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.keep:
            self._kept += rows
        if (path := self._path) is None:
            return
        text = "".join(f"{_encode(row)}\n" for row in rows)
        self._home.decide(lambda: append_text(path, text))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; damaged ones are left out, since nothing depends on them."""
    return read_sound_lines(path, _is_row)


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Args:
        stage: The number of the stage.
        step: How many of its steps are made.
        begun: Whether the network was looked at before the first step.
        restarts: How often the stage was restarted.
    """

    stage: int
    step: int
    begun: bool = False
    restarts: int = 0

    def behind(self, row: Mapping[str, Any]) -> bool:
        """Whether a line is of what has been done here; all else will be done, and written, again."""
        if row["stage"] != self.stage:
            return bool(row["stage"] < self.stage)
        if "restart" in row:
            return bool(row["restart"] <= self.restarts)
        if row["kind"] == "validation":
            return self.begun and bool(row["step"] <= self.step)
        return bool(row["step"] < self.step)


def cut_log(path: Path, place: Position) -> None:
    """Leave only the lines of what is done at a place."""
    kept = [row for row in read_log(path) if place.behind(row)]
    if path.is_file():
        write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))


def _is_row(row: dict[str, Any]) -> bool:
    whole = all(isinstance(row.get(name), int) and not isinstance(row.get(name), bool) for name in ("stage", "step"))
    return whole and row.get("kind") in {"step", "validation", "warning"}
