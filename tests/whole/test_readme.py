"""The lines of the README, run as they stand, on nine networks of others: the result is smaller, and is what it says.

Run as a program, this file is the other process: it rebuilds networks from the folders of their runs.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen.core.errors import WeightsError
from lessen.core.files import read_tensors, write_tensors
from lessen.measure.timing import pinned_threads
from lessen.operations.prune_channels import masked
from lessen.operations.prune_channels.verify import in_double
from lessen.pipeline import known_settings, read_plans
from lessen.pipeline.folder import RunFolder
from lessen.pipeline.plans import decode_plans, replay

README = Path(__file__).parents[2] / "README.md"
# Name -> library and settings; for images of 32 x 32 pixels. In their own depth and width, but for `vit_tiny`, of whose
# twelve equal blocks there are four (`vit_b_16` has all of its own). The longest come first.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg11_bn": ("torchvision", {"init_weights": False}),
    "vit_b_16": ("torchvision", {"image_size": 32}),
    "densenet121": ("torchvision", {}),
    "convnext_tiny": ("torchvision", {}),
    "mobilenet_v2": ("torchvision", {}),
    "mobilenetv3_small_100": ("timm", {}),
    "vit_tiny_patch16_224": ("timm", {"img_size": 32, "depth": 4}),
    "regnetx_002": ("timm", {}),
    "resnet18": ("torchvision", {}),
}


def build(name: str) -> nn.Module:
    """A network for four classes."""
    library, settings = NETWORKS[name]
    if library == "timm":
        import timm

        made: nn.Module = timm.create_model(name, num_classes=4, **settings)
    else:
        import torchvision

        made = torchvision.models.get_model(name, num_classes=4, **settings)
    return made.eval()


@torch.no_grad()
def lived_in(network: nn.Module, images: Tensor) -> nn.Module:
    """As if trained: zeros in a head, layer scales of 1e-6 and signals that fade away would hide what is wrong."""
    for parameter in network.parameters():
        if parameter.ndim < 2 or not parameter.any():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for momentum in (1.0, 0.1):  # the statistics of these images, then the habit of PyTorch
        for norm in norms:
            norm.momentum = momentum
        network.train()(images)
    return network.eval()


def blocks() -> list[str]:
    """The Python of the README; the first block is the whole path, the others run alone."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def block() -> str:
    """The lines that compress a network."""
    return blocks()[0]


def compressed(network: nn.Module, images: Tensor) -> Any:
    """What the lines of the README make of a network: 16 images to learn from, the rest is for choosing and testing."""
    labels = torch.arange(len(images)) % 4
    given = {
        "load_my_network": lambda: network,
        "x": images[:16], "y": labels[:16],
        "x_val": images[16:24], "y_val": labels[16:24],
        "x_test": images[24:], "y_test": labels[24:],
    }  # fmt: skip
    lines = block().replace(
        'run="runs/mine",', 'run="runs/mine", keep_state=True,'
    )  # the networks between the steps, too
    with pinned_threads(1):
        exec(lines, given)
    return given["small"]


@torch.no_grad()
def off(found: nn.Module | Tensor, wanted: nn.Module | Tensor, images: Tensor) -> float:
    """How far outputs are apart, as a share of the largest."""
    a, b = (side(images) if isinstance(side, nn.Module) else side for side in (found, wanted))
    assert a.shape == b.shape == (len(images), 4)
    return float((a - b).abs().max() / b.abs().max())


def said_by(file: Path, images: Tensor) -> Tensor:
    """What ONNX Runtime makes of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[[str, Path], str]]:
    """A process that has never seen a network; given a name and a folder, it says how its reloading went."""
    command = [sys.executable, "-W", "ignore", __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(name: str, folder: Path) -> str:
            print(json.dumps([name, str(folder)]), file=stdin, flush=True)
            return stdout.readline().strip()

        yield ask
        stdin.close()


def test_it_is_fifteen_lines() -> None:
    assert len([line for line in block().splitlines() if line.strip()]) <= 16


@pytest.mark.parametrize("number", range(1, len(blocks())))
def test_every_other_block_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks()[number], {})


QUICK = {"mobilenetv3_small_100", "vit_tiny_patch16_224", "resnet18"}
EACH = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name in NETWORKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_the_lines_compress_a_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[str, Path], str]
) -> None:
    pytest.importorskip(NETWORKS[name][0])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = torch.randn(32, 3, 32, 32)
    network = lived_in(build(name), images)
    small = compressed(network, images)
    run = RunFolder("runs/mine")

    # It is smaller, and each file in 32 bits says what its network says. Ten steps teach a network nothing that 8 bits
    # must keep, so int8 may have failed its verification; then it is not named.
    assert parameters(small.model) < 0.35 * parameters(network)
    sizes = {file: (run.path / file).stat().st_size for file in ("model.onnx", "model.int8.onnx")}
    whole = (run.path / "reference" / "teacher.onnx").stat().st_size
    assert sizes["model.int8.onnx"] < 0.4 * sizes["model.onnx"] < 0.4 * 0.35 * whole
    verified = {record.file: record.value for record in small.records if record.figure == "verified"}
    assert {value for file, value in verified.items() if "int8" not in file} == {1.0}
    assert verified[small.file.name] == 1.0
    assert small.file.is_file()

    # What was cut equals what was masked; other channels do not.
    plan, exact = read_plans(run.plan)[0], in_double(network)
    group, kept = next(iter(plan.kept.items()))
    others = dataclasses.replace(plan, kept=plan.kept | {group: sorted((i + 1) % plan.sizes[group] for i in kept)})
    reference = masked(exact, plan)
    assert off(plan.apply(exact), reference, images.double()) < 1e-5
    assert off(others.apply(exact), reference, images.double()) > 1e-3

    # The files say what the networks say that they were written from; that after another step does not.
    before_int8 = replay(network, decode_plans(run.read_kept(2).plans), run.read_tensors(2)).eval()
    assert off(said_by(run.path / "model.onnx", images), before_int8, images) < 1e-4
    assert off(said_by(run.path / "reference" / "teacher.onnx", images), network, images) < 1e-4
    assert off(said_by(run.path / "steps" / "1.onnx", images), before_int8, images) > 1e-3

    # Another process rebuilds it strictly from plan.json and the weights, without pickle.
    write_tensors(tmp_path / "images.safetensors", {"images": images})
    assert elsewhere(name, tmp_path) == "rebuilt"
    assert off(read_tensors(tmp_path / "out.safetensors")["out"], small.model, images) < 1e-5
    tensors = read_tensors(run.weights)
    last = next(key for key in reversed(tensors) if tensors[key].ndim > 1)
    write_tensors(run.weights, tensors | {last: -tensors[last]})
    assert off(lessen.load(run.path, network), small.model, images) > 1e-3
    write_tensors(run.weights, {key: value for key, value in tensors.items() if key != last})
    with pytest.raises(WeightsError, match=re.escape(last)):
        lessen.load(run.path, network)
    shutil.rmtree(run.path)  # gigabytes, of the larger ones


def test_known_settings_hold_every_plan() -> None:
    assert {"PrunedChannels", "Quantized", "PrunedWeights", "Factorized"} <= known_settings("operations").keys()


def forbid_pickle(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: nothing that a pickle names is looked up."""
    if event == "pickle.find_class":
        raise PermissionError(f"A pickle asks for {args}.")


@torch.no_grad()
def rebuild(name: str, folder: Path) -> str:
    images = read_tensors(folder / "images.safetensors")["images"]
    network = lessen.load(folder / "runs" / "mine", build(name))
    write_tensors(folder / "out.safetensors", {"out": network(images)})
    try:
        pickle.loads(pickle.dumps(Path()))
    except PermissionError:
        return "rebuilt"
    return "pickles could be loaded"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.addaudithook(forbid_pickle)
    for line in sys.stdin:
        asked, where = json.loads(line)
        print(rebuild(asked, Path(where)), flush=True)
