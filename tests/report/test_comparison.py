"""Runs next to one another: groups by settings, spread over seeds, differences that are paired."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lessen
from lessen.core.errors import RunError, SettingError
from lessen.deploy import Deploy
from lessen.engine import run
from lessen.graph import SGD, Fit
from lessen.knowledge import LogitMatching, SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import Measuring
from lessen.report import write_report
from lessen.report.comparison import paired
from lessen.schemes import offline
from lessen.testing.tasks import clusters, perceptron


def trained(folder: Path, objective: Any, seed: int, rate: float = 0.05) -> Path:
    scheme = offline(objective, epochs=2, fit=Fit(batch=16, optimizer=SGD(rate=rate)))
    cast = {"teacher": perceptron(8, seed=9), "student": perceptron(6, seed=seed)}
    run(scheme.stages(cast), clusters(), folder=folder, seed=seed, progress=False)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two temperatures and another loss, two seeds each."""
    place = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        trained(place / f"warm-{seed}", SoftTargets(temperature=4.0), seed)
        trained(place / f"cold-{seed}", SoftTargets(temperature=1.0), seed)
        trained(place / f"match-{seed}", LogitMatching(), seed)
    return place


def looks(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "validation"]


def best(folder: Path) -> float:
    return float(max(row["figures"]["student"]["accuracy"] for row in looks(folder)))


def test_seeds_are_one_row_and_differences_are_paired(runs: Path) -> None:
    made = lessen.compare(runs / "cold-0", runs / "cold-1", runs / "warm-0", runs / "warm-1")
    assert made.varied == {"temperature": next(iter(made.varied.values()))}
    assert [row.settings["temperature"] for row in made.rows] == [1.0, 4.0]
    cold, warm = ([best(runs / f"{name}-{seed}") for seed in (0, 1)] for name in ("cold", "warm"))
    figure = "validation accuracy"
    assert made.shown[0] == figure
    assert made.rows[0].figures[figure].mean == pytest.approx(sum(cold) / 2)
    assert made.rows[1].figures[figure].deviation == pytest.approx(abs(warm[0] - warm[1]) / math.sqrt(2))
    difference = made.rows[1].differences[figure]
    assert difference.mean == pytest.approx((warm[0] - cold[0] + warm[1] - cold[1]) / 2)
    assert difference.pairs == 2
    assert not made.rows[0].differences
    assert "±" in str(made)
    assert "baseline" in str(made)


def test_another_loss_is_named_by_its_class_and_its_own_settings_add_nothing(runs: Path) -> None:
    made = lessen.compare(runs)
    assert len(made.rows) == 3
    assert set(made.varied) == {"objective", "temperature"}
    assert {row.settings["objective"] for row in made.rows} == {"SoftTargets", "LogitMatching"}
    one = lessen.compare(runs / "cold-0", runs / "match-0")
    assert set(one.varied) == {"objective"}


def test_the_order_of_the_runs_changes_no_number(runs: Path) -> None:
    names = [runs / f"{name}-{seed}" for name in ("cold", "warm") for seed in (0, 1)]
    one, two = lessen.compare(*names), lessen.compare(*reversed(names), baseline="cold-0")
    assert [row.figures for row in one.rows] == [row.figures for row in reversed(two.rows)]
    assert one.rows[1].differences == two.rows[0].differences
    assert two.baseline == 1


def test_other_seeds_or_other_data_are_not_paired(runs: Path, tmp_path: Path) -> None:
    made = lessen.compare(runs / "cold-0", runs / "warm-1")
    assert not made.rows[1].differences
    assert "no paired differences" in str(made)
    scheme = offline(SoftTargets(temperature=4.0), epochs=2, fit=Fit(batch=16, optimizer=SGD(rate=0.05)))
    cast = {"teacher": perceptron(8, seed=9), "student": perceptron(6, seed=0)}
    run(scheme.stages(cast), clusters(train=96), folder=tmp_path / "other", progress=False)
    other = lessen.compare(runs / "cold-0", tmp_path / "other")
    assert "not all on the same data" in str(other)
    assert not other.rows[1].differences


def test_the_interval_is_students(runs: Path) -> None:
    found = paired([1.0, 2.0, 3.0])
    assert found.low is not None
    assert found.low == pytest.approx(2.0 - 4.30265 / math.sqrt(3), abs=1e-4)


def test_files_and_pictures(runs: Path, lessen_command: Callable[..., Any], tmp_path: Path) -> None:
    made = lessen_command("compare", str(runs), "--out", str(tmp_path / "all.csv"), "--figure", "validation nll")
    assert made.code == 0, made.err
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("run,seed,")
    assert lessen_command("compare", str(runs), "--out", str(tmp_path / "all.svg")).code == 0
    assert (tmp_path / "all.svg").read_text().startswith("<svg")
    assert lessen_command("compare", str(runs), "--out", str(tmp_path / "all.txt")).code == 2
    assert lessen_command("compare", str(runs), "--figure", "validation accuracyy").code == 2
    table = lessen.compare(runs).frame()
    assert len(table) == 6
    assert table["validation accuracy"].max() == max(
        best(runs / f"{n}-{s}") for n in ("cold", "warm", "match") for s in (0, 1)
    )


def test_what_is_wrong_is_said(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nothing to compare"):
        lessen.compare()
    with pytest.raises(SettingError, match="did you mean 'validation nll'"):
        lessen.compare(runs, figures=["validation nlll"])
    with pytest.raises(SettingError, match="is none of the runs: did you mean"):
        lessen.compare(runs, baseline="cold-7")
    with pytest.raises(RunError, match="is not the folder of a run"):
        lessen.compare(tmp_path)


def test_a_training_alone_has_a_report(runs: Path, lessen_command: Callable[..., Any]) -> None:
    assert lessen_command("report", str(runs / "warm-0")).code == 0
    page = write_report(runs / "warm-0").read_text()
    assert f"accuracy {best(runs / 'warm-0'):.2f} % on the validation split" in page
    assert "How to load" not in page


def test_runs_of_compress(tmp_path: Path) -> None:
    for keep in (0.5, 0.2):
        for seed in (0, 1):
            lessen.compress(
                perceptron(8, seed=seed),
                clusters(),
                steps=[PruneWeights(keep=keep)],
                run=tmp_path / f"keep-{keep}-{seed}",
                seed=seed,
                deploy=Deploy(runtimes=()),
                measuring=Measuring(repeats=6, calibration=32),
                progress=False,
            )
    made = lessen.compare(tmp_path)
    assert [row.settings for row in made.rows] == [{"keep": 0.2}, {"keep": 0.5}]
    assert made.shown[0] == "accuracy"
    nonzero = [row.figures["nonzero parameters"].mean for row in made.rows]
    assert nonzero[0] < nonzero[1]
    assert all(row.runs[0].finished for row in made.rows)
