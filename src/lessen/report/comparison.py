"""Several runs in one table: what differs in their settings, their figures over seeds, and paired differences.

Runs that differ in nothing but the seed are one row. A difference pairs runs of one seed on the same data, so that what
the seed does to both cancels out; its interval is Student's t over the pairs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from lessen.core.errors import SettingError, did_you_mean, need
from lessen.core.files import write_json, write_text
from lessen.report.numbers import NOTHING, digits, human
from lessen.report.outcome import Outcome, read_outcome
from lessen.report.svg import intervals, table

_ONCE = ("%", "nat", "points")
"""Units that stand in the head of a column; the others are scaled, and stand in each cell."""

MOST_FIGURES = 5
"""Columns of figures in the table, where none are asked for."""


@dataclass(frozen=True)
class Spread:
    """A figure over the runs of a row.

    Args:
        mean: Over the runs.
        deviation: The standard deviation over the runs; None for one run.
        count: Of the runs that have it.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A figure minus that of the baseline, over pairs of runs with one seed and the same data.

    Args:
        mean: Over the pairs.
        low: Lower end of the 95 % interval; None for one pair.
        high: Upper end of it.
        pairs: How many there are.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """The runs that differ in nothing but their seed.

    Args:
        runs: They.
        settings: What differs between rows, by its short name.
        figures: Over the runs.
        differences: To the first row, or the baseline; empty for that row itself.
    """

    runs: tuple[Outcome, ...]
    settings: dict[str, Any]
    figures: dict[str, Spread]
    differences: dict[str, Difference] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.runs[0].name if len(self.runs) == 1 else f"{len(self.runs)} runs"


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Runs next to one another.

    Args:
        rows: One for each combination of settings, in the order of the runs that were given.
        varied: The short names of the settings that differ, and the full path of each.
        shown: The figures in the table.
        units: The unit of each figure.
        baseline: The place of the row that the others are compared with.
        notes: What a reader must know.
    """

    rows: tuple[Row, ...]
    varied: dict[str, str]
    shown: tuple[str, ...]
    units: dict[str, str]
    baseline: int
    notes: tuple[str, ...]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The head and the rows of the table, as text."""
        named = len({row.name for row in self.rows}) == len(self.rows) or not self.varied
        heads = [name + (f" ({unit})" if (unit := self.units.get(name)) in _ONCE else "") for name in self.shown]
        head = [*(["run"] if named else []), *self.varied, "seeds", *heads]
        compared = len(self.rows) > 1 and any(row.differences for row in self.rows)
        head += ["difference"] if compared else []
        body = []
        for row in self.rows:
            line = [row.name] if named else []
            line += [_value(row.settings.get(name)) for name in self.varied]
            line += [
                _seeds(row.runs),
                *(_spread(row.figures.get(name), self.units.get(name, "1")) for name in self.shown),
            ]
            if compared:
                line.append(self._difference(row))
            body.append(line)
        return head, body

    def _difference(self, row: Row) -> str:
        if row is self.rows[self.baseline]:
            return "baseline"
        found = row.differences.get(self.shown[0]) if self.shown else None
        if found is None:
            return NOTHING
        unit = self.units.get(self.shown[0], "1")
        unit = "points" if unit == "%" else unit
        sign = "+" if found.mean > 0 else ""
        said = f"{sign}{_bare(found.mean, unit)}"
        return (
            said
            if found.low is None or found.high is None
            else f"{said} ({_bare(found.low, unit)} to {_bare(found.high, unit)})"
        )

    def __str__(self) -> str:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        head, body = self.cells()
        shown = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in head:
            shown.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
        for line in body:
            shown.add_row(*map(Text, line))
        stream = io.StringIO()
        console = Console(file=stream, width=max(100, 14 * len(head)), color_system=None, force_terminal=False)
        console.print(shown)
        for note in self.notes:
            console.print(Text(note), soft_wrap=True)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip()

    def __repr__(self) -> str:
        return f"Comparison({len(self.rows)} rows of {sum(len(row.runs) for row in self.rows)} runs)"

    def frame(self) -> Any:
        """One line a run: its folder, its seed, the settings that differ, and all its figures; a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return need("pandas", "frames").DataFrame(self.lines())

    def lines(self) -> list[dict[str, Any]]:
        """One line a run, as `frame` has them."""
        return [
            {"run": str(run.folder), "seed": run.seed, **row.settings, **run.figures}
            for row in self.rows
            for run in row.runs
        ]

    def csv(self) -> str:
        """The same as CSV."""
        lines = self.lines()
        names = list(dict.fromkeys(name for line in lines for name in line))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return stream.getvalue()

    def draw(self, figure: str | None = None) -> str:
        """A figure of every row with its spread over seeds, as SVG text.

        Args:
            figure: Which; None: the first of the table.
        """
        name = figure if figure is not None else next(iter(self.shown), "")
        lines = [
            (
                self.label(row),
                found.mean,
                found.deviation or 0.0,
                [run.figures[name] for run in row.runs if name in run.figures],
            )
            for row in self.rows
            if (found := row.figures.get(name)) is not None
        ]
        unit = self.units.get(name, "1")
        return intervals(lines, x=name + ("" if unit == "1" else f" ({unit})"))

    def label(self, row: Row) -> str:
        """A row in a few words: the settings that differ, or its name."""
        said = ", ".join(f"{name.rpartition('.')[2]} {_value(value)}" for name, value in row.settings.items())
        return said or row.name

    def _repr_html_(self) -> str:
        head, body = self.cells()
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<div>{table(head, body)}{self.draw()}{notes}</div>"

    def to_json(self) -> dict[str, Any]:
        """The table as JSON data."""
        return {
            "varied": self.varied,
            "shown": list(self.shown),
            "units": self.units,
            "rows": [
                {
                    "runs": [str(run.folder) for run in row.runs],
                    "seeds": [run.seed for run in row.runs],
                    "settings": row.settings,
                    "figures": {name: vars(found) for name, found in row.figures.items()},
                    "differences": {name: vars(found) for name, found in row.differences.items()},
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
        }


def write_comparison(made: Comparison, path: Path) -> None:
    """Write a comparison to a file: every run and figure as `.csv`, the table as `.json`, or a picture as `.svg`.

    Raises:
        SettingError: the file has another extension.
        RunError: it cannot be written.
    """
    if path.suffix == ".csv":
        write_text(path, made.csv())
    elif path.suffix == ".json":
        write_json(path, made.to_json())
    elif path.suffix == ".svg":
        write_text(path, made.draw() + "\n")
    else:
        raise SettingError(f"A comparison cannot be written to {path}; supported extensions are .csv, .json and .svg.")


def compare(*runs: str | Path, figures: Sequence[str] | None = None, baseline: str | Path | None = None) -> Comparison:
    """Runs next to one another: what differs in their settings, their figures over seeds, and paired differences.

    Args:
        runs: Folders of `compress`, `lessen run`, `lessen sweep` or `engine.run`; or one folder that holds them.
        figures: Which figures the table shows; None: the first few of the first run.
        baseline: The run whose row the others are compared with; None: the first.

    Raises:
        RunError: a folder is not a run, or is damaged.
        SettingError: no run has such a figure, or the baseline is none of the runs.
    """
    folders = list(_folders(runs))
    if not folders:
        raise SettingError("There is nothing to compare. Give the folders of runs, as runs/one runs/two.")
    found = [read_outcome(folder) for folder in folders]
    varied = _varied(found)
    groups: dict[str, list[Outcome]] = {}
    for one in found:
        groups.setdefault(repr([one.settings.get(path) for path in varied.values()]), []).append(one)
    rows = [_row(group, varied) for group in groups.values()]
    start = _baseline(rows, baseline)
    rows = [row if row is rows[start] else _against(row, rows[start]) for row in rows]
    known = list(dict.fromkeys(name for one in found for name in one.figures))
    for name in figures or ():
        if name not in known:
            raise SettingError(f"No run has a figure {name!r}: {did_you_mean(name, known)}")
    return Comparison(
        rows=tuple(rows),
        varied=varied,
        shown=tuple(figures) if figures is not None else tuple(_first(known)),
        units={name: unit for one in found for name, unit in one.units.items()},
        baseline=start,
        notes=tuple(_notes(found, rows, rows[start])),
    )


def _first(known: Sequence[str]) -> list[str]:
    """The figures that are shown where none are asked for."""
    ends = [name for name in known if not name.startswith("last ")]
    return ends[:MOST_FIGURES]


def _folders(runs: Iterable[str | Path]) -> Iterable[Path]:
    """The folders given, each once; in place of a folder that holds runs and is none, those."""
    seen: set[Path] = set()
    for run in map(Path, runs):
        inside = [run]
        if run.is_dir() and not _is_run(run):
            inside = sorted(path for path in run.iterdir() if path.is_dir() and _is_run(path)) or [run]
        for path in inside:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _is_run(path: Path) -> bool:
    return (
        any((path / name).is_file() for name in ("recipe.yaml", "records.jsonl", "log.jsonl"))
        and not (path / "sweep.json").is_file()
    )


def _varied(found: Sequence[Outcome]) -> dict[str, str]:
    """The paths of the settings that differ, by the shortest name that tells them apart.

    Where runs differ in the class of an object, its settings count only if they differ among runs of one class.
    """
    paths = list(dict.fromkeys(path for one in found for path in one.settings))
    differs = [path for path in paths if len({repr(one.settings.get(path)) for one in found}) > 1]

    def told_by_class(path: str) -> bool:
        parts = path.split(".")
        above = [each for each in (".".join(parts[:end]) for end in range(1, len(parts))) if each in differs]
        groups: dict[str, set[str]] = {}
        for one in found:
            key = repr([one.settings.get(each) for each in above])
            groups.setdefault(key, set()).add(repr(one.settings.get(path)))
        return bool(above) and all(len(values) == 1 for values in groups.values())

    kept = [path for path in differs if not told_by_class(path)]
    return {short_name(path, kept): path for path in kept}


def short_name(path: str, paths: Sequence[str]) -> str:
    """The shortest end of a path that no other of the paths has.

    >>> short_name("steps.1.fit.batch", ["steps.1.fit.batch", "steps.1.epochs"])
    'batch'
    """
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        end = parts[-count:]
        if end[0].isdigit():
            continue
        if sum(other.split(".")[-count:] == end for other in paths) == 1:
            return ".".join(end)
    return path


def _row(group: Sequence[Outcome], varied: Mapping[str, str]) -> Row:
    names = list(dict.fromkeys(name for one in group for name in one.figures))
    figures = {name: _over([one.figures[name] for one in group if name in one.figures]) for name in names}
    settings = {name: group[0].settings[path] for name, path in varied.items() if path in group[0].settings}
    return Row(runs=tuple(group), settings=settings, figures=figures)


def _over(values: Sequence[float]) -> Spread:
    mean = math.fsum(values) / len(values)
    spread = None
    if len(values) > 1:
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Spread(mean, spread, len(values))


def _baseline(rows: Sequence[Row], baseline: str | Path | None) -> int:
    if baseline is None:
        return 0
    for number, row in enumerate(rows):
        if any(run.name == str(baseline) or run.folder.resolve() == Path(baseline).resolve() for run in row.runs):
            return number
    names = [run.name for row in rows for run in row.runs]
    raise SettingError(f"The baseline {str(baseline)!r} is none of the runs: {did_you_mean(str(baseline), names)}")


def _against(row: Row, base: Row) -> Row:
    found = {}
    for name in row.figures:
        mine, theirs = _by_seed(row, name), _by_seed(base, name)
        pairs = [mine[key] - theirs[key] for key in mine if key in theirs]
        if pairs:
            found[name] = paired(pairs)
    return Row(runs=row.runs, settings=row.settings, figures=row.figures, differences=found)


def _by_seed(row: Row, figure: str) -> dict[tuple[int, str | None], float]:
    """A figure by what a pair must share; the mean over runs that share it among themselves."""
    found: dict[tuple[int, str | None], list[float]] = {}
    for run in row.runs:
        if figure in run.figures and run.seed is not None:
            found.setdefault((run.seed, run.data), []).append(run.figures[figure])
    return {key: math.fsum(values) / len(values) for key, values in found.items()}


def paired(differences: Sequence[float]) -> Difference:
    """The mean of differences of pairs with Student's 95 % interval, none for one pair.

    >>> paired([1.0, 3.0]).mean, paired([1.0]).low
    (2.0, None)
    """
    over = _over(differences)
    if over.deviation is None:
        return Difference(over.mean, None, None, over.count)
    from scipy.stats import t

    half = float(t.ppf(0.975, over.count - 1)) * over.deviation / math.sqrt(over.count)
    return Difference(over.mean, over.mean - half, over.mean + half, over.count)


def _notes(found: Sequence[Outcome], rows: Sequence[Row], base: Row) -> Iterable[str]:
    if any(len(row.runs) > 1 for row in rows):
        yield "±: standard deviation over seeds."
    if len(rows) > 1:
        pairs = [found.pairs for row in rows for found in row.differences.values()]
        if pairs:
            first = "the first row" if base is rows[0] else f"the row of {base.runs[0].name}"
            what = "with Student's 95 % interval" if max(pairs) > 1 else "of one pair, so without an interval"
            yield f"Differences are of the first figure to {first}, paired by seed and data, {what}."
        else:
            yield "No two runs of different settings share a seed and data, so there are no paired differences."
    if len({one.data for one in found}) > 1:
        yield "The runs are not all on the same data: their figures cannot be compared."
    open_ = [one.name for one in found if not one.finished]
    if open_:
        yield f"Not finished, with the figures so far: {', '.join(open_)}."


def _seeds(runs: Sequence[Outcome]) -> str:
    seeds = sorted(run.seed for run in runs if run.seed is not None)
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or NOTHING


def _spread(found: Spread | None, unit: str) -> str:
    if found is None:
        return NOTHING
    mean = _bare(found.mean, unit)
    return f"{mean} ± {_bare(found.deviation, unit)}" if found.deviation else mean


def _bare(value: float, unit: str) -> str:
    """A value, without its unit where that stands in the head of its column."""
    if unit in {"%", "points"}:
        return f"{value:.2f}".replace("-", "−")
    if unit in _ONCE or (unit == "1" and abs(value) < 1000):
        return human(value, "").strip()
    return human(value, unit)


def _value(value: Any) -> str:
    if value is None:
        return ""
    return digits(value) if isinstance(value, float) and not value.is_integer() and abs(value) < 1 else f"{value}"
