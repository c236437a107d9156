"""Which processors an int8 network is for: seven bits unless somebody asks for eight, and never decided by accident."""

import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.core.errors import SettingError
from lessen.deploy import OnnxRuntime, OpenVino, export_onnx, export_openvino
from lessen.deploy.runtimes import TARGET
from lessen.operations import Mixed, Quantize, QuantizeDynamic
from lessen.operations.quantize.network import target_of

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
CONTEXT = Context(inputs=X, calibration=[Batch(X, torch.arange(4))])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def pretend(monkeypatch: pytest.MonkeyPatch, *, saturates: bool) -> None:
    """Let this be a processor that adds products in 16 bits, or one that does not."""
    for place in ("lessen.operations.quantize.target", "lessen.deploy.runtimes"):
        monkeypatch.setattr(f"{place}.saturates_int8", lambda: saturates)


@pytest.mark.parametrize("make", [Quantize, QuantizeDynamic])
@pytest.mark.parametrize("saturates", [False, True])
def test_only_this_looks_at_the_machine(make: Any, saturates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, saturates=saturates)
    plans = {target: make(target=target).plan(network(), CONTEXT) for target in ("any", "vnni", "this")}
    assert make().plan(network(), CONTEXT) == plans["any"]
    bits = {target: set(plan.weights.values()) for target, plan in plans.items()}
    assert bits == {"any": {7}, "vnni": {8}, "this": {7 if saturates else 8}}
    assert {target: plan.target for target, plan in plans.items()} == {
        "any": "any",
        "vnni": "vnni",
        "this": "any" if saturates else "vnni",
    }
    for target, plan in plans.items():
        assert plan.describe()[-1]["edit"] == "made for"
        assert ("this processor" in plan.describe()[-1]["before"]) is (target == "this")
        assert target_of(plan.apply(network())) == plan.target


def convolutions() -> tuple[nn.Module, Tensor, Context]:
    """A depthwise convolution between two others; all weights are near the largest, so that sums are as well."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 3)).eval()
    for parameter in (layer.weight for layer in model):
        nn.init.uniform_(parameter, 0.9, 1.0)
    x = 0.9 + 0.1 * torch.rand(2, 32, 6, 6)
    return model, x, Context(inputs=x, calibration=[Batch(x, torch.arange(2))])


RUN = """
import sys, numpy, openvino
core = openvino.Core()
x = numpy.load(sys.argv[1])
for file in sys.argv[2:]:
    numpy.save(file + ".npy", core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0])
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="other processors add in 32 bits")
def test_sums_are_cut_off_without_vnni_and_seven_bits_fit(tmp_path: Path) -> None:
    """OpenVINO's kernels for AVX2, which this process is told to take: the oracle is the network in PyTorch."""
    pytest.importorskip("openvino")
    model, x, context = convolutions()
    files, expected = {}, {}
    for target in ("any", "vnni"):
        plan = Quantize(target=target).plan(model, context)  # type: ignore[arg-type]
        assert plan.weights == ({"0": 7, "1": 8, "2": 7} if target == "any" else dict.fromkeys("012", 8))
        small = plan.apply(model)
        assert target_of(small) == target
        with torch.no_grad():
            expected[target] = small(x).numpy()
        files[target] = export_openvino(export_onnx(small, x, tmp_path / "a.onnx"), tmp_path / f"{target}.xml")
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-c", RUN, str(tmp_path / "x.npy"), *map(str, files.values())]
    subprocess.run(command, check=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"})
    off = {
        target: np.abs(np.load(f"{file}.npy") - expected[target]).max() / np.abs(expected[target]).max()
        for target, file in files.items()
    }
    assert off["any"] < 0.02
    assert off["vnni"] > 0.2


def test_a_plan_says_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, saturates=False)
    plan = Quantize(target="this").plan(network(), CONTEXT)
    here = plan.apply(network())(X)
    pretend(monkeypatch, saturates=True)
    assert torch.equal(plan.apply(network())(X), here)


def test_mixed_bits_stay_within_the_target() -> None:
    mixed = Mixed(average=8.0, options=(8,))
    assert set(Quantize(weight_bits=mixed).plan(network(), CONTEXT).weights.values()) == {7}
    assert set(Quantize(weight_bits=mixed, target="vnni").plan(network(), CONTEXT).weights.values()) == {8}


def test_bits_that_are_given_say_which_processors_they_are_for() -> None:
    plans = {bits: Quantize(weight_bits=bits).plan(network(), CONTEXT) for bits in (4, 7, 8)}
    assert {bits: plan.target for bits, plan in plans.items()} == {4: "any", 7: "any", 8: "vnni"}
    with pytest.raises(SettingError, match="give one of them"):
        Quantize(weight_bits=8, target="vnni")
    with pytest.raises(SettingError, match="give one of them"):
        QuantizeDynamic(weight_bits=4, target="this")


def files(target: Any, folder: Path) -> list[tuple[Any, Path]]:
    small = Quantize(target=target).plan(network(), CONTEXT).apply(network())
    file = export_onnx(small, X, folder / f"{target}.onnx")
    return [(OnnxRuntime(), file), (OpenVino(), export_openvino(file, folder / f"{target}.xml"))]


def test_a_file_says_what_it_is_for_and_warns_where_it_runs_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    for target in ("any", "vnni"):
        for runtime, file in files(target, tmp_path):
            pretend(monkeypatch, saturates=False)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                fine = runtime.load(file, threads=1)(X)
            pretend(monkeypatch, saturates=True)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                again: Tensor = runtime.load(file, threads=1)(X)
            assert torch.equal(again, fine)
            assert [str(each.message).partition(" has ")[0] for each in seen] == (
                [str(file)] if target == "vnni" else []
            )
        model = onnx.load(tmp_path / f"{target}.onnx")
        assert {each.key: each.value for each in model.metadata_props} == {TARGET: target}


def test_a_file_in_floating_point_is_for_no_processor_in_particular(tmp_path: Path) -> None:
    model = onnx.load(export_onnx(network(), X, tmp_path / "plain.onnx"))
    assert not model.metadata_props
    assert target_of(network()) is None
