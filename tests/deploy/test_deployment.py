"""One call: files, proofs, kernels, times, and the name of the one to use."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lessen.core.errors import ExportError, NetworkError, SettingError
from lessen.deploy import (
    Deploy,
    OnnxRuntime,
    StepNetwork,
    TorchProgram,
    deploy,
    deploy_steps,
    export_onnx,
    export_pt2,
    installed,
    time_files,
)
from lessen.deploy import deployment as module
from lessen.deploy import export as exporting
from lessen.measure.timing import pinned_threads
from lessen.zoo import residual

FIGURES = {
    *("verified", "bytes", "max_difference", "mean_difference", "agreement_with_pytorch", "integer_share"),
    *("latency", "throughput", "cpu_time", "accuracy"),
}
QUICK = Deploy(runtimes=(OnnxRuntime(),), threads=1, rounds=8, batch_sizes=(1, 4))


def test_times_have_sane_intervals(case: Any) -> None:
    programs = {path.name: OnnxRuntime().load(path, threads=1) for path in (case.file, case.int8_file)}
    times = time_files(programs, case.data.validation, batch_sizes=(1, 200), rounds=8)
    assert list(times) == [1, 200]
    for taken in times.values():
        for name in programs:
            estimate = taken.estimate(name)
            assert 0 < estimate.low <= estimate.value <= estimate.high
        assert taken.ratio("model.onnx", "model.onnx") == pytest.approx((1, 0.97, 1.03))
    with pytest.raises(SettingError, match="rounds"):
        time_files(programs, case.data.validation, rounds=3)


@pytest.fixture(scope="module")
def shipped(case: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    networks = [
        StepNetwork(name="teacher", step=0, network=residual(width=12, depth=8).eval()),
        StepNetwork(name="1 narrower", step=1, network=residual(width=4, depth=8).eval()),
        StepNetwork(name="2 trained", step=2, network=case.model),
        StepNetwork(name="3 Quantize", step=3, network=case.int8),
    ]
    return deploy_steps(networks, case.data, folder, settings=QUICK), folder


def test_every_file_is_there_with_every_figure(shipped: tuple[Any, Path]) -> None:
    found, folder = shipped
    steps = {file.name: file.step for file in found.files}
    assert steps == {"model.int8.onnx": 3, "model.onnx": 2, "steps/1.onnx": 1, "reference/teacher.onnx": 0}
    for file in found.files:
        assert file.verified.passed, file.verified.reason
        assert (folder / file.name).stat().st_size == file.bytes
        own = [record for record in found.records if record.file == file.name]
        figures = {record.figure for record in own}
        assert figures >= FIGURES
        assert {record.step for record in own} == {file.step}
        assert [record.settings["batch"] for record in own if record.figure == "latency"] == [1, 4]
        if file.reference:
            assert not {"speedup", "agreement", "recommended"} & figures
        else:
            ratios = [record for record in own if record.figure == "speedup"]
            assert {record.settings["reference"] for record in ratios} == {"reference/teacher.onnx"}
            assert all(record.low <= record.value <= record.high for record in ratios)
    json.dumps([record.to_json() for record in found.records], allow_nan=False)


def test_one_that_passed_is_named_and_a_slower_int8_file_is_said_to_be(shipped: tuple[Any, Path]) -> None:
    found, _ = shipped
    by_name = {file.name: file for file in found.files}
    may = [by_name["model.int8.onnx"], by_name["model.onnx"]]
    assert found.recommended in {file.name for file in may}
    assert [record.file for record in found.records if record.figure == "recommended"] == [found.recommended]
    times = [file.speed[1].latency for file in may]
    assert all(time is not None for time in times)
    slower = times[0].value > times[1].value
    assert any("is slower than model.onnx" in note for note in found.notes) == slower


def test_a_file_that_fails_is_reported_and_never_named(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: Any, inputs: Any, path: Path, **_: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.file.read_bytes())
        return path

    monkeypatch.setattr(module, "export_onnx", other)  # writes another network than the one that was given
    found = deploy(residual(width=4, depth=8).eval(), case.data, tmp_path, settings=QUICK)
    assert found.recommended is None
    assert "No file passed verification." in found.notes
    (row,) = [record for record in found.records if record.figure == "verified"]
    assert row.value == 0
    assert "largest difference" in row.detail["reason"]

    def unable(*_: Any, **__: Any) -> None:
        raise ExportError("It has an operator that ONNX lacks.")

    monkeypatch.setattr(module, "export_onnx", unable)
    found = deploy(case.model, case.data, tmp_path, settings=QUICK)
    assert found.recommended is None
    assert [record.figure for record in found.records] == ["verified"]
    assert "operator that ONNX lacks" in found.notes[0]


def test_a_network_is_traced_once_for_all_its_files_and_they_are_what_they_would_be_alone(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, trace = [], exporting.trace

    def seen(network: nn.Module, inputs: Any, *, free: bool = True) -> Any:
        traced.append((id(network), free))  # again with fixed sizes where a file does not take others
        return trace(network, inputs, free=free)

    monkeypatch.setattr(exporting, "trace", seen)
    monkeypatch.setattr(module, "trace", seen)
    settings = Deploy(runtimes=(OnnxRuntime(), TorchProgram()), threads=1, rounds=6)
    teacher = residual(width=4, depth=8).eval()
    networks = [StepNetwork(name="teacher", step=0, network=teacher), StepNetwork(name="1", step=1, network=case.model)]
    found = deploy_steps(networks, case.data, tmp_path, settings=settings)
    assert len(found.files) == 4
    assert len(traced) == len(set(traced))
    assert {network for network, _ in traced} == {id(teacher), id(case.model)}
    alone = export_pt2(case.model, case.data.example(), tmp_path / "alone.pt2")
    assert (
        export_onnx(case.model, case.data.example(), tmp_path / "alone.onnx").read_bytes()
        == (tmp_path / "model.onnx").read_bytes()
    )
    one, two = (TorchProgram().load(file, threads=1)(case.x) for file in (alone, tmp_path / "model.pt2"))
    assert torch.equal(one, two)


@pytest.mark.slow
def test_every_runtime_that_is_installed(case: Any, tmp_path: Path) -> None:
    found = deploy(case.model, case.data, tmp_path, int8=case.int8, settings=Deploy(threads=1, rounds=6))
    names = {f"model{runtime.suffix}" for runtime in installed()}
    names |= {f"model.int8{runtime.suffix}" for runtime in installed() if runtime.suffix != ".pt2"}
    assert {file.name for file in found.files} == names
    assert all(file.verified.passed for file in found.files), found.notes
    assert found.recommended in names


def test_a_network_that_nothing_was_done_to_is_shipped_itself(case: Any, tmp_path: Path) -> None:
    teacher = StepNetwork(name="teacher", step=0, network=case.model)
    found = deploy_steps([teacher], case.data, tmp_path, settings=QUICK)
    assert [(file.name, file.shipped, file.reference) for file in found.files] == [("model.onnx", True, False)]
    assert found.recommended == "model.onnx"
    assert not any(record.figure == "speedup" for record in found.records)


@pytest.mark.parametrize(("asked", "used"), [(None, 3), (1, 1)])
def test_files_get_as_many_threads_as_pytorch_takes_unless_told_otherwise(
    case: Any, tmp_path: Path, asked: int | None, used: int
) -> None:
    with pinned_threads(3):  # more than the cores of small machines: it is not their number that counts
        settings = Deploy(runtimes=(OnnxRuntime(),), rounds=6, threads=asked)
        found = deploy(case.model, case.data, tmp_path, settings=settings)
    assert {row.settings["threads"] for row in found.records if row.figure == "latency"} == {used}


def test_nothing_to_deploy_is_an_error(case: Any, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no networks to deploy"):
        deploy_steps([], case.data, tmp_path)
    with pytest.raises(SettingError, match="rounds"):
        Deploy(rounds=2)
