"""A file that says something else than its network does not pass."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from lessen.deploy import OnnxRuntime, Verification, verify
from lessen.deploy.verify import compare
from lessen.tasks import Quantities, SingleLabel


def planted(file: Path, into: Path, *, by: float) -> Path:
    """The file with one weight changed, by that share of the largest."""
    model = onnx.load(str(file))
    tensor = max(model.graph.initializer, key=lambda value: int(np.prod(value.dims)))
    value = onnx.numpy_helper.to_array(tensor).copy()
    largest = np.abs(value.astype(float)).max()
    place = np.unravel_index(np.abs(value.astype(float)).argmax(), value.shape)
    value[place] = value[place] - np.sign(value[place]) * by * largest
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, str(into))
    return into


def test_a_faithful_file_passes_and_a_changed_weight_is_caught(case: Any, tmp_path: Path) -> None:
    good = verify(OnnxRuntime().load(case.file, threads=1), case.model, case.data.validation, task=SingleLabel())
    assert good.passed
    assert good.agreement == 100
    assert good.examples == len(case.data.validation)
    assert good.metric == "accuracy"
    assert good.file_metric == good.network_metric > 80
    bad = OnnxRuntime().load(planted(case.file, tmp_path / "bad.onnx", by=0.5), threads=1)
    caught = verify(bad, case.model, case.data.validation, task=SingleLabel())
    assert not caught.passed
    assert "largest difference" in caught.reason


def test_an_int8_file_is_judged_by_what_it_decides(case: Any) -> None:
    program = OnnxRuntime().load(case.int8_file, threads=1)
    assert verify(program, case.int8, case.data.validation, task=SingleLabel(), int8=True).passed
    assert not verify(program, case.int8, case.data.validation, task=SingleLabel(), int8=False).passed

    def shifted(x: Any) -> Any:
        return program(x).roll(1, 1)

    caught = verify(shifted, case.int8, case.data.validation, task=SingleLabel(), int8=True)
    assert not caught.passed
    assert caught.agreement is not None
    assert caught.agreement < 50


def said(**changes: Any) -> Any:
    torch.manual_seed(0)
    network = torch.randn(100, 4)
    given: dict[str, Any] = {"file": network.clone(), "labels": network.argmax(1), "task": SingleLabel(), "int8": False}
    given |= changes
    return compare(given.pop("file"), network, given.pop("labels"), limits=Verification(), **given)


def test_limits_are_exact() -> None:
    torch.manual_seed(0)
    network = torch.randn(100, 4)
    scale = float(network.abs().max())
    near, far = network.clone(), network.clone()
    near[0, 0] += 0.9e-4 * scale
    far[0, 0] += 1.1e-4 * scale
    assert said(file=near).passed
    assert not said(file=far).passed
    assert said(file=far).max_difference == pytest.approx(1.1e-4 * scale, rel=1e-2)
    wrong = network.clone()
    wrong[:2] = -wrong[:2]
    assert not said(file=wrong, int8=True).passed  # 98 % agreement, but two points of accuracy lower
    assert said(file=wrong, int8=True, labels=None).passed


def test_regression_is_judged_by_the_mean_difference() -> None:
    torch.manual_seed(0)
    network, labels = torch.randn(100, 4), torch.randn(100, 4)
    close = said(file=network + 0.02, labels=labels, task=Quantities(), int8=True)
    assert close.passed
    assert close.metric == "rmse"
    assert not said(file=network + 0.5, labels=labels, task=Quantities(), int8=True).passed


def test_other_shapes_and_numbers_that_are_not_finite_do_not_pass() -> None:
    assert "shape" in said(file=torch.zeros(100, 3)).reason
    broken = torch.zeros(100, 4)
    broken[3, 1] = float("nan")
    assert "not finite" in said(file=broken).reason
