"""Half the channels of nine networks: smaller, equal to masking, replayable, trainable, exported."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context, encode
from lessen.core.files import read_tensors, write_json, write_tensors
from lessen.deploy import export_onnx
from lessen.operations import PruneChannels, PrunedChannels
from lessen.operations.prune_channels import masked

pytest.importorskip("torchvision")
pytest.importorskip("timm")
spec = importlib.util.spec_from_file_location("architectures", Path(__file__).parent / "architectures.py")
assert spec is not None
assert spec.loader is not None
architectures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architectures)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]


class Case(NamedTuple):
    name: str
    network: nn.Module
    plan: PrunedChannels
    small: nn.Module
    folder: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


QUICK = {"resnet18", "mobilenetv3_small_100", "regnetx_002", "vit_tiny_patch16_224", "vgg11_bn"}
EACH = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name in architectures.NETWORKS]


@pytest.fixture(scope="module", params=EACH)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    torch.manual_seed(0)
    network = architectures.build(request.param)
    with torch.no_grad():
        for parameter in network.parameters():  # heads of zeros and layer scales of 1e-6 would hide what is wrong
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.1)
    plan = PruneChannels(keep=0.5).plan(network, Context(inputs=architectures.images(request.param)))
    small = plan.apply(network)
    write_json(folder / f"{request.param}.plan.json", encode(plan))
    write_tensors(folder / f"{request.param}.safetensors", small.state_dict())
    with torch.no_grad():
        write_tensors(folder / f"{request.param}.expected", {"outputs": small(architectures.images(request.param))})
    return Case(request.param, network, plan, small, folder)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_it_is_smaller_and_nothing_was_left_alone(case: Case) -> None:
    before, after = (sum(p.numel() for p in m.parameters()) for m in (case.network, case.small))
    assert (before, after) == case.plan.parameters
    assert after < 0.5 * before
    assert case.plan.multiply_adds[1] < 0.5 * case.plan.multiply_adds[0]
    assert case.plan.left_out == {}
    assert set(case.plan.pinned.values()) == {"an output of the network"}


def test_it_equals_the_masked_original(case: Case) -> None:
    x = architectures.images(case.name).double()
    try:
        network = case.network.double()
        with torch.no_grad():
            whole, wanted = network(x), masked(network, case.plan)(x)
            assert relative(case.plan.apply(network)(x), wanted) < 1e-10
            assert relative(whole, wanted) > 1e-3  # something was removed
    finally:
        case.network.float()


def test_it_trains(case: Case) -> None:
    small = case.plan.apply(case.network).train()
    small(architectures.images(case.name)).square().sum().backward()
    assert [name for name, p in small.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_its_onnx_file_agrees(case: Case) -> None:
    import onnxruntime

    x = architectures.images(case.name)
    file = export_onnx(case.small, x, case.folder / f"{case.name}.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        assert (torch.from_numpy(found) - case.small(x)).abs().max() < 1e-4
    file.unlink()


def test_plans_and_weights_rebuild_them_in_a_new_process(folder: Path) -> None:
    names = [file.name.removesuffix(".plan.json") for file in folder.glob("*.plan.json")]
    if not names:
        pytest.skip("run together with the tests above, which write the plans")
    script = Path(architectures.__file__)
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=300)
    for name in names:
        found, wanted = (read_tensors(folder / f"{name}.{kind}")["outputs"] for kind in ("outputs", "expected"))
        assert relative(found, wanted) < 1e-5, name
        assert "kept" in json.loads((folder / f"{name}.plan.json").read_text())["PrunedChannels"]


@pytest.mark.parametrize("name", ["ResNet18", "MobileNet_V2", "DenseNet121"])
def test_multiply_adds_are_those_that_torchvision_publishes(name: str) -> None:
    import torchvision

    published = getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.meta["_ops"]
    context = Context(inputs=torch.rand(2, 3, 224, 224))
    plan = PruneChannels.neutral().plan(torchvision.models.get_model(name.lower()), context)
    assert plan.multiply_adds[0] / 1e9 == pytest.approx(published, abs=6e-4)
