"""A target is met, missed, or not judged because nobody knows the time."""

import pytest

from lessen.core.record import Record
from lessen.pipeline.targets import Targets

ASKED = Targets(speedup=2.0, milliseconds=5.0, size=100)


def figures(*, busy: bool, speedup: float = 3.0) -> list[Record]:
    """What is known of a file: its size always, its times only on a free machine."""

    def say(figure: str, value: float | None, unit: str) -> Record:
        detail = {"reason": "the machine was busy: other processes wanted all of it"} if value is None else {}
        return Record(subject="m", figure=figure, value=value, unit=unit, file="m.onnx", detail=detail)

    return [
        say("latency", None if busy else 4.0, "ms"),
        say("speedup", None if busy else speedup, "1"),
        say("bytes", 90, "B"),
    ]


@pytest.mark.parametrize(("speedup", "met"), [(3.0, 1.0), (2.0, 1.0), (1.9, 0.0)])
def test_times_of_a_free_machine_are_judged(speedup: float, met: float) -> None:
    rows = {row.figure: row for row in ASKED.judge(figures(busy=False, speedup=speedup), "m.onnx")}
    assert {name: row.value for name, row in rows.items()} == {
        "target_speedup": met, "target_milliseconds": 1.0, "target_size": 1.0,
    }  # fmt: skip
    assert not any("reason" in row.detail for row in rows.values())


def test_targets_in_time_are_not_judged_on_a_busy_machine_and_the_others_are() -> None:
    rows = {row.figure: row for row in ASKED.judge(figures(busy=True), "m.onnx")}
    assert {name: row.value for name, row in rows.items()} == {
        "target_speedup": None, "target_milliseconds": None, "target_size": 1.0,
    }  # fmt: skip
    for name in ("target_speedup", "target_milliseconds"):
        assert rows[name].detail["reason"].startswith("the machine was busy")
        assert rows[name].detail["found"] is None


def test_without_a_file_every_target_is_missed() -> None:
    assert {row.value for row in ASKED.judge(figures(busy=True), None)} == {0.0}
