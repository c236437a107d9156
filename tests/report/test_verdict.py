"""The sentence at the top says what the records say, good news or bad."""

from dataclasses import replace
from typing import Any

from lessen.core.record import Record
from lessen.report.entries import entries
from lessen.report.run import read_run
from lessen.report.summary import summary
from lessen.report.tiles import tiles
from lessen.report.verdict import judge


def record(figure: str, value: float | None, *, step: int = 0, file: str | None = None, **more: Any) -> Record:
    subject = more.pop("subject", file or ("teacher" if step == 0 else f"{step} Prune"))
    return Record(subject=subject, figure=figure, value=value, unit=more.pop("unit", "1"), step=step, file=file, **more)


def pair(**now: float) -> list[Record]:
    """The teacher, and the network after one step."""
    was = {"bytes": 1000.0, "latency": 2.0, "accuracy": 90.0}
    return [record(name, value) for name, value in was.items()] + [record(k, v, step=1) for k, v in now.items()]


def test_smaller_faster_and_worse(make_run) -> None:
    verdict = judge(read_run(make_run()).records)
    assert verdict.before.name == "reference/teacher.onnx"
    assert verdict.after.name == "model.int8.onnx"
    assert "13.9 times smaller and 4.42 times faster (4.21 to 4.58) than the teacher's own file" in verdict.sentence
    assert "0.65 points less accurate (change −1.15 to −0.15)." in verdict.sentence
    assert "margin of error" not in verdict.sentence


def test_a_run_without_steps_compares_the_network_with_nothing() -> None:
    rows = [record("bytes", 1000.0), record("accuracy", 90.0)]
    rows += [record(name, value, file="model.onnx") for name, value in (("bytes", 990.0), ("recommended", 1.0))]
    said = judge(rows)
    assert said.after is not None
    assert said.sentence == "No step has made the network smaller; the fastest verified file of it is model.onnx."


def test_larger_slower_and_better_is_said_as_it_is() -> None:
    said = judge(pair(bytes=2000.0, latency=4.0, accuracy=91.5)).sentence
    assert "2.00 times larger and 2.00 times slower than the teacher, and 1.50 points more accurate" in said


def test_a_ratio_whose_interval_holds_one_is_not_faster() -> None:
    rows = [*pair(bytes=500.0, latency=1.9), record("speedup", 1.05, step=1, low=0.97, high=1.12)]
    assert "not measurably faster (0.970 to 1.12 times)" in judge(rows).sentence
    clear = [*pair(bytes=500.0, latency=1.9), record("speedup", 1.05, step=1, low=1.01, high=1.12)]
    assert "1.05 times faster (1.01 to 1.12)" in judge(clear).sentence


def test_a_change_within_chance_is_said_to_be() -> None:
    rows = [*pair(bytes=500.0), record("accuracy_change", -0.4, step=1, low=-1.0, high=0.2, unit="points")]
    assert (
        "0.40 points less accurate (change −1.00 to 0.20), which is within the margin of error." in judge(rows).sentence
    )


def busy_file(name: str, **more: Any) -> list[Record]:
    """What is known of a file that was timed on a busy machine."""
    why = "other processes wanted 400% of its cores"
    said = {"conditions": {"busy": why}, "reason": f"the machine was busy: {why}"}
    rows = [record("latency", None, unit="ms"), record("speedup", None, settings={"reference": "t.onnx"})]
    rows = [replace(row, subject=name, file=name, step=2, detail=said) for row in rows]
    return [*rows, *(record(key, value, file=name, step=2) for key, value in more.items())]


def test_on_a_busy_machine_there_is_no_headline_in_time() -> None:
    smallest = replace(record("recommended", 1.0, file="m.int8.onnx", step=2), detail={"because": "smallest"})
    target = replace(
        record("target_speedup", None, file="m.int8.onnx"),
        detail={"asked": 2.0, "found": None, "unit": "1", "reason": "the machine was busy: other processes"},
    )
    teacher = [record("bytes", 1000.0, file="t.onnx"), record("latency", 2.0, file="t.onnx", unit="ms")]
    rows = [*teacher, *busy_file("m.int8.onnx", bytes=100.0), *busy_file("m.onnx", bytes=300.0), smallest, target]
    verdict = judge(rows)
    assert verdict.sentence == (
        "The smallest verified file, m.int8.onnx, is 10.0 times smaller than the teacher's own file, t.onnx."
    )
    assert verdict.warnings[0] == (
        "The machine was too busy to time m.int8.onnx, m.onnx: other processes wanted 400% of its cores. "
        "Measure again when nothing else runs on it."
    )
    assert (
        "A target could not be checked: speedup: 2 required, but the machine was busy: other processes."
        in verdict.warnings
    )
    assert not any("missed" in text or "int8 does not pay" in text or "slower" in text for text in verdict.warnings)
    table = summary(rows)
    row = next(line for line in table.splitlines() if line.strip().startswith("m.int8.onnx"))
    assert "busy" in row
    assert "smallest" in row
    tile = str(tiles(verdict, None))
    assert "not known" in tile
    assert "the machine was busy" in tile
    assert "faster" not in tile
    everything = judge([*busy_file("m.int8.onnx", bytes=100.0), smallest])
    assert everything.warnings[0].startswith("The machine was too busy to time anything: ")


def test_an_int8_file_slower_than_the_plain_one_is_owned_up_to(make_run) -> None:
    slow = judge(read_run(make_run("slow", slow_int8=True)).records)
    assert slow.after.name == "model.xml"
    assert any(
        "model.int8.onnx is slower than model.onnx in 32 bits, 0.360 ms against 0.310 ms" in text
        for text in slow.warnings
    )
    fast = judge(read_run(make_run("fast")).records)
    assert not any("model.int8.onnx" in text for text in fast.warnings)


def test_int8_within_the_noise_of_the_plain_file_is_not_called_faster() -> None:
    def warnings(low: float, high: float) -> tuple[str, ...]:
        plain = record("latency", 1.0, step=1, file="m.onnx", low=0.95, high=1.05)
        int8 = record("latency", (low + high) / 2, step=1, file="m.int8.onnx", low=low, high=high)
        return judge([*pair(), plain, int8]).warnings

    assert any("m.int8.onnx is not measurably faster than m.onnx" in text for text in warnings(0.90, 0.98))
    assert any("m.int8.onnx is slower than m.onnx" in text for text in warnings(1.2, 1.3))
    assert not any("int8 does not pay" in text for text in warnings(0.5, 0.6))


def test_a_refused_file_is_named_with_the_reason(make_run) -> None:
    verdict = judge(read_run(make_run(refused=True)).records)
    assert verdict.after.name == "model.xml"
    assert "model.int8.onnx did not pass verification and must not be used: agreement 71.20 %; allowed 98.00 %" in (
        verdict.warnings
    )


def test_int8_in_name_only_is_found_out() -> None:
    rows = [*pair(bytes=500.0), record("integer_share", 12.0, step=1, file="model.int8.onnx", unit="%")]
    assert any("only 12 % of the multiply-adds" in text for text in judge(rows).warnings)
    rows[-1] = record("integer_share", 98.0, step=1, file="model.int8.onnx", unit="%")
    assert not any("multiply-adds" in text for text in judge(rows).warnings)


def test_a_missed_target_is_a_warning_and_a_met_one_is_not() -> None:
    detail = {"asked": 3.0, "found": 2.5, "unit": "1"}
    missed = [*pair(bytes=500.0), record("target_speedup", 0.0, detail=detail)]
    assert "A target was missed: speedup: 3 required, 2.50 measured." in judge(missed).warnings
    met = [*pair(bytes=500.0), record("target_speedup", 1.0, detail=detail)]
    assert not any("target" in text for text in judge(met).warnings)


def test_a_file_slower_than_its_reference_is_a_warning() -> None:
    def rows(low: float, high: float) -> list[Record]:
        ratio = record("speedup", 0.8, step=1, file="m.onnx", low=low, high=high, settings={"reference": "t.onnx"})
        return [*pair(), ratio, record("latency", 2.0, file="t.onnx")]

    assert any("m.onnx is slower than t.onnx: 0.800 times" in text for text in judge(rows(0.7, 0.9)).warnings)
    assert not any("slower" in text for text in judge(rows(0.7, 1.1)).warnings)


def test_without_files_or_without_anything() -> None:
    verdict = judge(pair(bytes=500.0))
    assert verdict.sentence.startswith("The network after the last step is 2.00 times smaller")
    assert verdict.warnings == ("No file was exported: these values are those of the network in PyTorch.",)
    assert judge([]).sentence == "Nothing has been measured yet."
    assert judge([record("bytes", 3.0)]).sentence == "Only the teacher has been measured so far."


def test_regression_compares_squared_errors(make_run) -> None:
    said = judge(read_run(make_run(regression=True)).records).sentence
    assert "with a mean squared error of 0.0875 where the teacher has 0.0550." in said


def test_a_figure_that_was_measured_again_replaces_the_older_one() -> None:
    rows = [record("latency", 5.0, settings={"batch": 8}), record("latency", 2.0, settings={"batch": 1}),
            record("latency", 3.0, settings={"batch": 1})]  # fmt: skip
    (entry,) = entries(rows)
    assert [row.value for row in entry.figures["latency"]] == [3.0, 5.0]
    assert entry.value("latency") == 3.0


def test_runtimes_by_the_file() -> None:
    rows = [record("bytes", 1.0, file=name, step=1) for name in ("a.onnx", "a.xml", "a.pt2")]
    assert [entry.runtime for entry in entries(rows)] == ["ONNX Runtime", "OpenVINO", "torch.export"]
    assert entries([record("latency", 1.0, settings={"runtime": "pytorch"})])[0].runtime == "PyTorch"
