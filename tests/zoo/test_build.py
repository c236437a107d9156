"""Networks by name, weights from files, and everything that can be wrong with either."""

import importlib
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lessen.core import ArrayExamples, Data
from lessen.core.errors import DataError, MissingExtraError, NetworkError, SettingError, WeightsError
from lessen.zoo import build, check_classes, load_weights, mlp, read_weights, residual, teacher, teachers

SMALL = {"width": 4, "depth": 8}


class Planted:
    """Unpickling this touches a file: the mark that a pickle was executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def test_the_seed_draws_the_weights() -> None:
    before = torch.get_rng_state()
    one, again, other = (build("zoo:residual", seed=s, **SMALL).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["stem.weight"], other["stem.weight"])


@pytest.mark.parametrize("wrap", ["safetensors", "state", "wrapped", "parallel"])
def test_weights_come_back(tmp_path: Path, wrap: str) -> None:
    state = build("zoo:residual", seed=5, **SMALL).state_dict()
    path = tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pt")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "state":
        torch.save(state, path)
    elif wrap == "wrapped":
        torch.save({"epoch": 3, "state_dict": state, "best": 91.5}, path)
    else:
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path)
    made = build("zoo:residual", weights=path, **SMALL).state_dict()
    assert all(torch.equal(made[name], state[name]) for name in state)


def test_weights_of_another_network_list_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(residual(width=8, depth=8).state_dict(), path)
    with pytest.raises(WeightsError, match=r"of another shape \(stem\.weight is \(8, 1, 3, 3\), not \(4, 1, 3, 3\)"):
        build("zoo:residual", weights=path, **SMALL)
    with pytest.raises(WeightsError, match=r"4 missing \(layer1\.weight, .*…\); 54 unexpected \("):
        load_weights(mlp(), path)


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle", "named safetensors"])
def test_a_pickle_is_never_executed(tmp_path: Path, form: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / ("w.safetensors" if "safe" in form else "w.pt")
    content = {"state_dict": {"weight": torch.zeros(2)}, "hook": Planted(mark)}
    if form in {"torch", "legacy"}:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    else:
        path.write_bytes(pickle.dumps({"hook": Planted(mark)}))
    with pytest.raises(WeightsError, match="safetensors"):
        read_weights(path)
    assert not mark.exists()
    if form == "pickle":  # the twin: the planted code does run when it is unpickled
        pickle.loads(path.read_bytes())
        assert mark.is_dir()


def test_a_checkpoint_that_is_larger_than_it_looks_is_refused(tmp_path: Path) -> None:
    """`torch.load` unpacks compressed members: 10 MB of zeros become 10 GB."""
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "plain.pt")
    read_weights(tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert torch.load(tmp_path / "w.pt", weights_only=True)["a"].shape == (100_000,)
    with pytest.raises(WeightsError, match="it is compressed"):
        read_weights(tmp_path / "w.pt")


def test_a_pickled_network_says_how_to_convert(tmp_path: Path) -> None:
    torch.save(mlp(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"save_file\(network\.state_dict\(\)"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"nonsense", "list", "numbers"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save([torch.zeros(1)] if content == "list" else {"epoch": 3}, path)
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_weights(path)
    torch.save(mlp().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("resnet18", {}, "does not tell where"),
        ("zoo:", {}, "does not tell where"),
        ("zoo:residul", {}, "did you mean 'residual'"),
        ("zoo:residual", {"widht": 3}, "did you mean 'width'"),
        ("torchvison:resnet18", {}, "did you mean 'torchvision'"),
        ("torchvision:resnet81", {}, "did you mean 'resnet18'"),
        ("torchvision:resnet18", {"num_clases": 3}, "cannot be built"),
        ("timm:vit_tiny_patch16_244", {}, "'vit_tiny_patch16_224'"),
        ("timm:resnet18", {"pretrained": True}, "does not download"),
        ("transformers:brt", {}, "did you mean 'bert'"),
        ("lessen.zoo:residul", {}, "did you mean 'residual'"),
        ("math:pi", {}, "is a float"),
        ("builtins:dict", {}, "returned an object of type dict"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(NetworkError, match=match):
        build(name, **arguments)


def test_errors_of_our_own_factories_stay_as_they_are() -> None:
    with pytest.raises(SettingError, match="6 n"):
        build("zoo:residual", depth=9)


def test_a_file_that_is_not_there_is_found_before_anything_is_built() -> None:
    with pytest.raises(WeightsError, match=r"no file nowhere\.safetensors"):
        build("zoo:residul", weights="nowhere.safetensors")


def test_networks_of_others() -> None:
    assert build("torchvision:resnet18", num_classes=7).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert build("timm:mobilenetv3_small_050", num_classes=7).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert isinstance(build("torch.nn:Linear", in_features=3, out_features=2), nn.Linear)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = build("transformers:vit", image_size=8, patch_size=4, num_channels=1, num_labels=5, **sizes)
    assert network.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    words = build("transformers:bert", vocab_size=30, num_labels=3, **sizes)
    assert words.eval()(input_ids=torch.ones(2, 4, dtype=torch.int64)).shape == (2, 3)


def test_transformers_from_a_folder_and_its_weights(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = build("transformers:vit", image_size=8, patch_size=4, num_channels=1, num_labels=5, **sizes)
    made.network.config.save_pretrained(tmp_path)
    save_file(made.network.state_dict(), tmp_path / "w.safetensors")
    again = build(f"transformers:{tmp_path}", weights=tmp_path / "w.safetensors", seed=9)
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(again.eval()(inputs), made.eval()(inputs))


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    "asked",
    [
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel"},
        {"_experts_implementation": "somebody/kernel"},
        {"text_config": {"deep": [{"attn_implementation": {"": "somebody/kernel"}}]}},
    ],
)
def test_a_configuration_that_names_kernels_of_the_hub_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    """transformers fetches and imports what is written there."""
    with pytest.raises(NetworkError, match="nothing is fetched or executed"):
        build("transformers:bert", **asked)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES, **asked}))
    for place in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(NetworkError, match=r"config.json: .*nothing is fetched or executed"):
            build(f"transformers:{place}")


def test_a_network_of_transformers_is_built_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = importlib.import_module("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    kind = importlib.import_module("transformers").AutoModelForImageClassification
    make, offline = kind.from_config, []
    monkeypatch.setattr(kind, "from_config", lambda *a, **k: (offline.append(hub.is_offline_mode()), make(*a, **k))[1])
    build("transformers:vit", image_size=8, patch_size=4, num_channels=1, attn_implementation="eager", **SIZES)
    assert offline == [True]
    assert not hub.is_offline_mode()


def test_a_module_of_the_readers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\nimport nowhere_to_be_found\n"
        if False
        else "from torch import nn\n\n\ndef small(n=2):\n    return nn.Linear(4, n)\n"
    )
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build("mynets:small", n=3)(torch.zeros(1, 4)).shape == (1, 3)
    with pytest.raises(NetworkError, match="did you mean 'n'"):
        build("mynets:small", nn=3)
    with pytest.raises(NetworkError, match="nowhere_to_be_found"):
        build("broken:small")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"lessen\[zoo\]"):
        build("timm:resnet18")


def task(classes: int, shape: tuple[int, ...] = (1, 8, 8)) -> Data:
    examples = ArrayExamples(torch.zeros(4, *shape), torch.arange(4) % classes)
    names = tuple(str(i) for i in range(classes))
    return Data(train=examples, validation=examples, test=examples, classes=names, name="toy")


def test_classes_unlike_the_labels() -> None:
    network = residual(classes=10, **SMALL).train()
    check_classes(network, task(10))
    assert all(module.training for module in network.modules())
    assert int(network.norm.num_batches_tracked) == 0
    with pytest.raises(DataError, match=r"\(2, 10\).*toy has 7 classes"):
        check_classes(network, task(7))
    with pytest.raises(NetworkError, match=r"\(2, 3, 8, 8\) float32"):
        check_classes(network, task(10, (3, 8, 8)), what="The teacher")


def test_an_answer_that_is_no_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, x

    with pytest.raises(NetworkError, match=r"The network returned a tuple with several outputs.*0 .*output='0'"):
        check_classes(Pair(), task(2))


def test_trained_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessen.zoo.trained.files", lambda package: tmp_path)
    assert teachers() == {}
    network = residual(**SMALL)
    (tmp_path / "weights").mkdir()
    about = {"build": "zoo:residual", "arguments": SMALL, "recipe": "recipes/toy.yaml"}
    (tmp_path / "weights" / "toy.json").write_text(json.dumps(about))
    with pytest.raises(WeightsError, match=r"toy\.safetensors is missing.*recipes/toy\.yaml"):
        teacher("toy")
    save_file(network.state_dict(), tmp_path / "weights" / "toy.safetensors")
    assert teachers() == {"toy": "recipes/toy.yaml"}
    inputs = torch.randn(2, 1, 8, 8)
    for made in (teacher("toy"), build("trained:toy")):
        assert not made.training
        assert torch.equal(made(inputs), network.eval()(inputs))
    with pytest.raises(NetworkError, match="no trained network 'toi': did you mean 'toy'"):
        build("trained:toi")


def test_networks_that_are_shipped_trained_load() -> None:
    for name, recipe in teachers().items():
        assert isinstance(teacher(name), nn.Module)
        assert Path(recipe).suffix == ".yaml"
