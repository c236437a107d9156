"""The warnings of a training reach whoever reads the records: the page and the terminal."""

from lessen.core.record import Record
from lessen.pipeline.notes import warning_records
from lessen.report import summary
from lessen.report.verdict import judge

SAID = {
    "kind": "warning",
    "stage": 0,
    "name": "offline",
    "epoch": 6,
    "step": 54,
    "node": "student",
    "figure": "accuracy",
    "start": {"accuracy": 55.9},
    "end": {"accuracy": 50.1},
    "last": {"accuracy": 50.1},
    "says": "Stage 'offline' ended worse than it began: the accuracy of 'student' was 55.90 % and is 50.10 %.",
}


def records(*said: dict[str, object]) -> list[Record]:
    plain = [
        Record(subject=name, figure="accuracy", value=value, unit="%", step=step)
        for step, (name, value) in enumerate([("teacher", 98.6), ("1 PruneChannels", 55.9), ("2 Offline", 50.1)])
    ]
    return [*plain, *warning_records(said, "2 Offline", 2)]


def test_a_warning_is_a_record_and_stands_in_the_box_and_on_the_terminal() -> None:
    found = [Record.from_json(row.to_json()) for row in records(SAID)]
    assert found[-1].detail["start"] == {"accuracy": 55.9}
    assert "step" not in found[-1].detail
    warnings = judge(found).warnings
    assert f"Step 2: {SAID['says']}" in warnings
    assert "! Step 2: Stage 'offline' ended worse" in " ".join(summary(found).split())
    assert not any("ended worse" in text for text in judge(records()).warnings)


def test_a_warning_takes_no_figure_from_the_network_that_it_is_about() -> None:
    assert judge(records(SAID)).sentence == judge(records()).sentence
