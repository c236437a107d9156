"""The data of the figures, before anything is drawn."""

import json
import math

import numpy as np
import pytest

from lessen.report.entries import entries
from lessen.report.figures import MOST_POINTS, nice_ticks, thin, trade_off, training_curves, validation_curves
from lessen.report.run import read_run


def check_points(make, found) -> None:
    figure = make(found, "latency", "accuracy")
    drawn = {(x, y) for trace in figure["data"] for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert drawn == {(entry.value("latency"), entry.value("accuracy")) for entry in found}
    for trace in figure["data"]:
        for axis, name in (("x", "latency"), ("y", "accuracy")):
            for place, value in enumerate(trace[axis]):
                record = next(entry.get(name) for entry in found if entry.value(name) == value)
                bars = trace[f"error_{axis}"]
                assert value - bars["arrayminus"][place] == pytest.approx(record.low)
                assert value + bars["array"][place] == pytest.approx(record.high)


def test_every_point_and_both_ends_of_its_interval(make_run) -> None:
    check_points(trade_off, entries(read_run(make_run()).records))


def test_a_symmetric_bar_is_found(make_run) -> None:
    def symmetric(*arguments):
        figure = trade_off(*arguments)
        for trace in figure["data"]:
            trace["error_x"]["arrayminus"] = trace["error_x"]["array"]
        return figure

    with pytest.raises(AssertionError):
        check_points(symmetric, entries(read_run(make_run()).records))


def test_all_points_and_intervals_lie_inside_the_axes(make_run) -> None:
    found = entries(read_run(make_run()).records)
    for cost in ("bytes", "latency"):
        layout = trade_off(found, cost, "accuracy")["layout"]
        low, high = layout["xaxis"]["range"]
        assert all(low < math.log10(entry.value(cost)) < high for entry in found)
        assert all(low <= math.log10(tick) <= high for tick in layout["xaxis"]["tickvals"])
        assert 2 <= len(layout["xaxis"]["tickvals"]) <= 6
        bottom, top = layout["yaxis"]["range"]
        assert all(bottom < entry.get("accuracy").low < entry.get("accuracy").high < top for entry in found)


def test_every_step_is_named_and_close_points_share_a_label(make_run) -> None:
    found = entries(read_run(make_run()).records)
    labels = trade_off(found, "bytes", "accuracy")["layout"]["annotations"]
    named = {number for label in labels for number in label["text"][3:-4].split(", ")}
    assert named == {"0", "1", "2", "3"}
    assert len(labels) < len(found)


def test_one_point_alone_is_still_a_figure(make_run) -> None:
    alone = entries(read_run(make_run()).records)[:1]
    layout = trade_off(alone, "bytes", "accuracy")["layout"]
    assert layout["xaxis"]["range"][0] < layout["xaxis"]["range"][1]
    assert trade_off([], "bytes", "accuracy") is None
    assert trade_off(alone, "bytes", "nothing") is None


@pytest.mark.parametrize("base", [10, 1024])
@pytest.mark.parametrize("ratio", [1.01, 1.5, 3, 10, 100, 1e4, 1e7])
def test_ticks_are_few_and_inside(base: int, ratio: float) -> None:
    ticks = nice_ticks(1500, 1500 * ratio, base=base)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 12
    assert 1500 <= ticks[0] <= ticks[-1] <= 1500 * ratio * (1 + 1e-12)
    assert any(1500 * 1.001 < tick < 1500 * ratio / 1.001 for tick in ticks)  # at the ends, rounding loses them


def check_curves(make, run) -> None:
    figure = make(run.log, 0)
    logged = {name for row in run.log if row["stage"] == 0 and row["kind"] == "step" for name in row["edges"]}
    assert {trace["name"] for trace in figure["data"]} == {name.replace("->", " → ") for name in logged}
    for trace in figure["data"]:
        name = trace["name"].replace(" → ", "->")
        losses = [row["edges"][name]["loss"] for row in run.log if row["kind"] == "step" and row["stage"] == 0]
        assert len(trace["y"]) <= MOST_POINTS
        # Means over equal stretches keep the mean of all, but for a shorter last stretch.
        assert np.mean(trace["y"]) == pytest.approx(np.mean(losses), rel=0.01)


def test_training_curves_are_the_logs(make_run) -> None:
    check_curves(training_curves, read_run(make_run()))


def test_the_curves_of_another_stage_are_found(make_run) -> None:
    with pytest.raises(AssertionError):
        check_curves(lambda log, stage: training_curves(log, stage + 1), read_run(make_run()))


def test_validation_marks_the_best(make_run) -> None:
    run = read_run(make_run())
    figure = validation_curves(run.log, 0)
    rows = [row for row in run.log if row["kind"] == "validation" and row["stage"] == 0]
    (trace,) = figure["data"]
    assert trace["y"] == [row["figures"]["student"]["accuracy"] for row in rows]
    assert [symbol == "star" for symbol in trace["marker"]["symbol"]] == [row["best"] for row in rows]


def test_nothing_logged_is_no_figure() -> None:
    assert training_curves([], 0) is None
    assert validation_curves([], 0) is None
    assert validation_curves([{"kind": "validation", "stage": 0, "step": 1, "figures": {"a": {}}}], 0) is None


def test_thin_leaves_short_curves_alone() -> None:
    assert thin([(0, 1.0), (1, 2.0)]) == ([0, 1], [1.0, 2.0])
    assert len(thin([(i, float(i)) for i in range(10_001)])[0]) <= MOST_POINTS


def test_figures_are_json(make_run) -> None:
    run = read_run(make_run())
    found = entries(run.records)
    made = [trade_off(found, "bytes", "accuracy"), training_curves(run.log, 1), validation_curves(run.log, 1)]
    assert json.loads(json.dumps(made, allow_nan=False)) == made
