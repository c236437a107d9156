"""The table for the terminal."""

import dataclasses

from lessen.report import summary
from lessen.report.run import read_run


def test_teacher_steps_and_files_with_bytes_milliseconds_and_accuracy(make_run) -> None:
    text = summary(read_run(make_run()).records)
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "4.21 MiB" in rows["teacher"]
    assert "98.90 % (98.34 to 99.27)" in rows["teacher"]
    assert "0.780 ms" in rows["2 Offline"]
    assert "311 KiB" in rows["model.int8.onnx"]
    assert "yes, fastest" in rows["model.int8.onnx"]
    assert text.splitlines()[-2].startswith(("The fastest", "4.58")) or "times smaller" in text


def test_it_keeps_to_its_width_and_has_no_colours(make_run) -> None:
    for width in (80, 100, 140):
        text = summary(read_run(make_run(f"w{width}")).records, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "\x1b" not in text


def test_warnings_are_under_the_table(make_run) -> None:
    text = summary(read_run(make_run(refused=True)).records, width=400)
    assert "! model.int8.onnx did not pass verification" in text


def test_names_in_brackets_are_not_markup(make_run) -> None:
    assert "teacher[bold]" in summary(read_run(make_run(hostile="[bold]")).records)


def test_regression_shows_squared_errors(make_run) -> None:
    text = summary(read_run(make_run(regression=True)).records)
    assert "squared error" in text
    assert "0.0875 (0.0788 to 0.0963)" in text


def test_nothing_measured() -> None:
    assert "Nothing has been measured yet." in summary([])


def test_times_of_other_batch_sizes_are_told_apart(make_run) -> None:
    records = read_run(make_run()).records
    assert "(batch" not in summary(records)
    mixed = [
        dataclasses.replace(row, settings={**row.settings, "batch": 32})
        if row.figure == "latency" and row.file is None
        else row
        for row in records
    ]
    text = summary(mixed, width=140)
    assert "ms (batch 32)" in text
    assert "ms (batch 1)" in text
