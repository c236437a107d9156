"""`measure` as a whole, and the one pass that its figures share."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen.core import ArrayExamples, Data, Record
from lessen.core.errors import DataError, NetworkError, SettingError
from lessen.measure import evaluate, measure


def data(*, classes: bool = True, count: int = 60) -> Data:
    source = torch.Generator().manual_seed(0)

    def split(size: int) -> ArrayExamples:
        inputs = torch.randn(size, 8, generator=source)
        if classes:
            return ArrayExamples(inputs, inputs[:, :3].argmax(1))
        return ArrayExamples(inputs, inputs[:, :1] * 2)

    names = ("a", "b", "c") if classes else None
    return Data(train=split(20), validation=split(30), test=split(count), classes=names, name="toy")


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, outputs))


def by_figure(records: list[Record]) -> dict[str, Record]:
    return {record.figure: record for record in records}


UNITS = {
    "bytes": "B",
    "parameters": "1",
    "nonzero_parameters": "1",
    "multiply_adds": "1",
    "peak_memory": "B",
    "latency": "ms",
    "throughput": "examples/s",
    "speedup": "1",
    "cpu_time": "ms",
    "accuracy": "%",
    "nll": "nat",
    "calibration_error": "%",
    "agreement": "%",
    "accuracy_change": "points",
    "kl_to_teacher": "nat",
}


def test_a_classifier_with_a_teacher_has_every_figure() -> None:
    records = measure(network(), data(), teacher=network(), threads=1, repeats=8, subject="student", step=2)
    assert {record.figure: record.unit for record in records} == UNITS
    for record in records:
        assert record.subject == "student"
        assert record.step == 2
        assert record.file is None
        assert record.value is not None
        assert record.low is None or record.low <= record.value <= record.high
        assert Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record
    found = by_figure(records)
    assert found["multiply_adds"].value == 8 * 16 + 16 * 3
    assert found["agreement"].value == 100
    assert found["kl_to_teacher"].value == 0
    assert found["accuracy_change"].value == 0
    assert found["latency"].settings == {"batch": 1, "threads": 1, "runtime": "pytorch", "repeats": 8}
    assert found["speedup"].settings["reference"] == "teacher"
    assert found["accuracy"].settings == {"split": "test", "examples": 60, "data": "toy", "task": "single_label"}


def test_regression_has_a_squared_error_and_no_classes() -> None:
    found = by_figure(measure(network(1), data(classes=False), teacher=network(1), repeats=6))
    assert "rmse" in found
    assert not {"accuracy", "nll", "calibration_error", "agreement"} & set(found)
    labelled = data(classes=False).test
    told = evaluate(network(1), labelled).values
    assert found["rmse"].value == pytest.approx(float((told - labelled.labels).square().mean().sqrt()), rel=1e-5)


def test_the_split_is_the_one_that_was_asked_for() -> None:
    found = by_figure(measure(network(), data(), split="validation", repeats=6))
    assert found["accuracy"].settings["examples"] == 30
    labels = data().validation.labels
    right = (evaluate(network(), data().validation).values.argmax(1) == labels).float().mean()
    assert found["accuracy"].value == pytest.approx(100 * float(right), rel=1e-6)


def test_batch_sizes_even_larger_than_the_split() -> None:
    records = measure(network(), data(count=5), batch_sizes=(1, 4, 16), repeats=6)
    for figure in ("latency", "throughput", "peak_memory"):
        assert [record.settings["batch"] for record in records if record.figure == figure] == [1, 4, 16]


def test_without_data_only_what_needs_none() -> None:
    assert set(by_figure(measure(network()))) == {"bytes", "parameters", "nonzero_parameters"}


def test_a_file_alone_and_a_file_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"\0" * 123)
    (alone,) = measure(path)
    assert (alone.figure, alone.value, alone.file, alone.subject) == ("bytes", 123, "model.pt2", "model.pt2")
    model = network().eval()
    found = by_figure(measure(str(path), data(), run=model, runtime="exported", teacher=network(), repeats=6))
    assert found["latency"].settings["runtime"] == "exported"
    assert found["agreement"].value == 100
    assert "parameters" not in found
    assert all(record.file == "model.pt2" for record in found.values())


def test_the_package_is_the_function_too() -> None:
    assert lessen.measure(nn.Linear(2, 2))[1].value == 6
    assert lessen.measure(nn.Linear(2, 2))[1].figure == "parameters"
    assert callable(lessen.measure.accuracy)


def test_nothing_about_the_network_changes() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    measure(model, data(), threads=threads + 1, repeats=6)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.get_num_threads() == threads


def test_quality_repeats_exactly() -> None:
    def quality() -> list[tuple[str, float | None, float | None, float | None]]:
        records = measure(network(), data(), repeats=6)
        return [(r.figure, r.value, r.low, r.high) for r in records if r.unit in {"%", "nat"}]

    assert quality() == quality()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"split": "train"}, "split='train'"),
        ({"repeats": 3}, "repeats=3"),
        ({"batch_sizes": ()}, "batch_sizes=()"),
        ({"batch_sizes": (0,)}, r"batch_sizes=\(0,\)"),
        ({"threads": 0}, "0 threads"),
    ],
)
def test_settings_out_of_range(change: dict[str, object], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        measure(network(), data(), **change)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no file"):
        measure(tmp_path / "nothing.onnx")
    with pytest.raises(NetworkError, match="is a int; a"):
        measure(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="test split of toy has no examples"):
        measure(network(), data(count=0), repeats=6)
    with pytest.raises(DataError, match="2 outputs"):
        measure(network(2), data(), repeats=6)
    with pytest.raises(DataError, match="4 outputs"):
        measure(network(), data(), teacher=network(4), repeats=6)


def test_one_pass_in_order_whatever_the_batch_size() -> None:
    whole = evaluate(network(), data().test, batch_size=1000)
    parts = evaluate(network(), data().test, batch_size=7)
    assert torch.allclose(whole.values, parts.values, atol=1e-6)
    assert torch.equal(whole.labels, data().test.labels)
    assert len(evaluate(network(), data().test, batch_size=7, most=10).values) == 10


def test_outputs_that_hold_logits() -> None:
    two = ArrayExamples(torch.zeros(2, 1))
    assert torch.equal(evaluate(lambda _: SimpleNamespace(logits=torch.ones(2, 3)), two).values, torch.ones(2, 3))
    several = evaluate(lambda x: [x, {"logits": x + 1}], two, output="1.logits", whole=True)
    assert torch.equal(several.values, torch.ones(2, 1))
    assert [list(batch) for batch in several.parts] == [["0", "1.logits"]]
    with pytest.raises(NetworkError, match="returned a list with several outputs"):
        evaluate(lambda x: [x, x], two)


def test_several_inputs_by_name() -> None:
    class Sum(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left + right

    examples = ArrayExamples({"right": torch.ones(4, 2), "left": torch.zeros(4, 2)})
    told = evaluate(Sum(), examples)
    assert torch.equal(told.values, torch.ones(4, 2))
    assert told.labels is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_says_nothing_finite_has_no_quality(value: float) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(torch.arange(len(x))[:, None] == 3, value, x[:, :3])

    with pytest.raises(NetworkError, match=r"NaN or infinity for 1 of \d+ examples of the test split.*example 3"):
        measure(Broken(), data(), teacher=network(), repeats=6)
