"""What came of one run, in the words of a table: its settings, its seed, its data and its figures.

A folder of `compress` has figures of the test split, measured; one of `engine.run` has looks at the validation split.
The two never share a name: the latter are called "validation accuracy".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessen.core.documents import Document
from lessen.core.errors import RunError
from lessen.core.files import read_json
from lessen.core.sealed import read_sealed
from lessen.report.entries import entries
from lessen.report.metrics import headline, of_task
from lessen.report.numbers import human
from lessen.report.run import Run, read_run
from lessen.report.verdict import judge

_APART = ("seed", "device", "track", "measuring", "deploy", "progress", "versions")
"""What two runs may differ in without being of different settings: how they are measured changes no network."""
_LIMITS = {"most": 100_000, "deepest": 200}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run.

    Args:
        folder: Where it is.
        settings: What it was set with, by path, as `steps.1.objective.temperature`; without the seed.
        seed: Its seed, or None where the folder does not say.
        data: What tells its data from others, or None.
        figures: What was measured of its last network, by name, the figure that it is judged by first.
        units: The unit of each figure.
        higher: Whether more of a figure is better; figures whose direction is not known are left out.
        finished: Whether the run has come to its end.
    """

    folder: Path
    settings: dict[str, Any]
    seed: int | None
    data: str | None
    figures: dict[str, float]
    units: dict[str, str] = field(default_factory=dict)
    higher: dict[str, bool] = field(default_factory=dict)
    finished: bool = True

    @property
    def name(self) -> str:
        """What the run is called: the name of its folder."""
        return self.folder.resolve().name


def read_outcome(folder: str | Path) -> Outcome:
    """What came of a run of `compress`, `lessen run` or `engine.run`.

    Raises:
        RunError: there is no such folder, it is not a run, or a file in it is damaged.
    """
    run = read_run(folder)
    if run.recipe is not None or run.records:
        return _of_pipeline(run)
    return _of_training(run)


def _of_pipeline(run: Run) -> Outcome:
    state_file = run.folder / "checkpoints" / "state.json"
    state: Any = {}
    if state_file.is_file():
        state = read_sealed(state_file, advice="Restore it from a copy of the run.")
    state = state if isinstance(state, dict) else {}
    text = state.get("asked") if isinstance(state.get("asked"), str) else run.recipe
    asked = {} if text is None else Document(text, run.folder / "recipe.yaml", RunError, **_LIMITS).plain()
    asked = asked if isinstance(asked, dict) else {}
    seed, job = asked.get("seed"), state.get("job")
    told = job.get("data") if isinstance(job, dict) else None
    figures, units, higher = _measured(run)
    looks = validated([row for row in run.log if row.get("pipeline_step") != 0])
    higher |= {name: way for name in looks if (way := _DIRECTIONS.get(name.rpartition(" ")[2])) is not None}
    return Outcome(
        folder=run.folder,
        settings=dict(flat({key: value for key, value in asked.items() if key not in _APART})),
        seed=seed if isinstance(seed, int) else None,
        data=None if told is None else _short(told),
        figures=figures | looks,
        units=units | _percent(looks),
        higher=higher,
        finished=bool(state.get("finished")),
    )


def _measured(run: Run) -> tuple[dict[str, float], dict[str, str], dict[str, bool]]:
    """The figures of the network after the last step, and what the recommended file saves."""
    found = entries(run.records)
    networks = [entry for entry in found if entry.file is None]
    figures: dict[str, float] = {}
    units: dict[str, str] = {}
    higher: dict[str, bool] = {}
    if not networks:
        return figures, units, higher
    last = networks[-1]
    first = headline(found)
    names = [*([first] if first else []), *of_task([last]), "agreement", "parameters", "nonzero_parameters"]
    rows = [(name, record) for name in dict.fromkeys([*names, *last.figures]) if (record := last.get(name)) is not None]
    shipped = judge(run.records).after
    if shipped is not None and shipped.file is not None:
        more = [
            ("file " + name, shipped.get(name)) for name in ("bytes", "latency", "speedup", *([first] if first else []))
        ]
        rows += [(name, record) for name, record in more if record is not None]
    for name, record in rows:
        name = name.replace("_", " ")
        if record.value is None or name in figures:
            continue
        figures[name], units[name] = float(record.value), record.unit
        if "higher_is_better" in record.detail:
            higher[name] = bool(record.detail["higher_is_better"])
        elif record.figure in _DIRECTIONS:
            higher[name] = _DIRECTIONS[record.figure]
    return figures, units, higher


_DIRECTIONS = {
    **dict.fromkeys(("accuracy", "agreement", "speedup", "throughput", "accuracy_change"), True),
    **dict.fromkeys(("bytes", "latency", "parameters", "multiply_adds", "nll", "mean_squared_error", "loss"), False),
}


def _of_training(run: Run) -> Outcome:
    file = run.folder / "identity.json"
    told = read_json(file) if file.is_file() else {}
    told = told if isinstance(told, dict) else {}
    seed = told.get("seed")
    figures = validated(run.log)
    stages = [row["stage"] for row in run.log]
    return Outcome(
        folder=run.folder,
        settings=dict(flat({"stages": told.get("stages", [])})),
        seed=seed if isinstance(seed, int) else None,
        data=_short(told["data"]) if "data" in told else None,
        figures=figures,
        units=_percent(figures),
        higher={name: way for name in figures if (way := _DIRECTIONS.get(name.rpartition(" ")[2])) is not None},
        finished=not stages
        or (run.folder / "checkpoints" / f"checkpoint-{_count(told):03}-00000000.safetensors").is_file(),
    )


def _percent(figures: Mapping[str, float]) -> dict[str, str]:
    """The units of looks at the validation split, which have only names."""
    return {name: "%" for name in figures if name.rpartition(" ")[2] in {"accuracy", "agreement"}}


def _count(told: Mapping[str, Any]) -> int:
    stages = told.get("stages")
    return len(stages) if isinstance(stages, list) else 0


def validated(log: list[dict[str, Any]]) -> dict[str, float]:
    """The figures that the networks of the last stage end with, and the last look at them where that is another.

    Args:
        log: The rows of a log.
    """
    looks = [row for row in log if row.get("kind") == "validation" and isinstance(row.get("figures"), dict)]
    if not looks:
        return {}
    looks = [row for row in looks if row.get("stage") == looks[-1].get("stage")]
    nodes = list(looks[-1]["figures"])
    found: dict[str, float] = {}
    for node in nodes:
        mine = [row for row in looks if node in row["figures"]]
        best = [row for row in mine if node in row.get("improved", [node] if row.get("best") else [])]
        what = "validation" if len(nodes) == 1 else f"{node} validation"
        for start, rows in ((what, best or mine), (f"last {what}", mine)):
            found |= {
                f"{start} {name.replace('_', ' ')}": float(value) for name, value in rows[-1]["figures"][node].items()
            }
    first = next(iter(found), None)
    return dict(sorted(found.items(), key=lambda item: (item[0] != first, item[0].startswith("last"))))


def trained(log: list[dict[str, Any]]) -> str:
    """How a training went, in one sentence: what the networks end with on the validation split, and began with."""
    figures = validated(log)
    steps = sum(row.get("kind") == "step" for row in log)
    name = next(iter(figures), None)
    if name is None:
        return f"{steps} steps of training, and no look at the validation split yet."
    unit = "%" if name.endswith(("accuracy", "agreement")) else "1"
    node, what = name.split(" validation ") if " validation " in name else ("", name.removeprefix("validation "))
    start: dict[str, Any] = next((row["figures"] for row in log if row.get("kind") == "validation"), {})
    began = next((float(row[key]) for row in start.values() for key in row if key.replace("_", " ") == what), None)
    ended = f"{f'{node}, ' if node else ''}{what} {human(figures[name], unit).strip()}"
    said = f"{steps} steps of training: {ended} on the validation split"
    return said + ("." if began is None else f", {human(began, unit).strip()} before the first step.")


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of a path and a plain value. The class of an object is the value at its own path.

    >>> dict(flat({"objective": {"SoftTargets": {"temperature": 4.0}}}))
    {'objective': 'SoftTargets', 'objective.temperature': 4.0}
    >>> dict(flat({"objective": {"class": "lessen.knowledge.SoftTargets", "temperature": 4.0}}))
    {'objective': 'SoftTargets', 'objective.temperature': 4.0}
    """
    start = f"{path}." if path else ""
    if isinstance(value, Mapping):
        if len(value) == 1 and (name := next(iter(value)))[:1].isupper() and path:
            yield path, name
            yield from _inside(value[name], path)
            return
        if isinstance(value.get("class"), str):
            yield path, value["class"].rpartition(".")[2]
        for key, item in value.items():
            if key == "class":
                continue
            if key == "weights" and isinstance(item, Mapping):
                yield f"{start}weights", _short(item)
            else:
                yield from flat(item, f"{start}{key}")
    elif isinstance(value, list):
        if all(not isinstance(item, Mapping | list) for item in value):
            yield path, ", ".join(map(str, value))
            return
        for number, item in enumerate(value):
            yield from flat(item, f"{start}{number}")
    else:
        yield path, value


def _inside(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The fields of an object, whose class has been told."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}")
    elif value is not None:
        yield from flat(value, f"{path}.value")


def _short(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
