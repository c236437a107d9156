"""Copies of networks that keep more than weights."""

import ast
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lessen
from lessen.core import encode
from lessen.core.errors import NetworkError
from lessen.operations import Half
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.mask import mask_of, mask_parameter
from lessen.surgery.modules import copy_structure, copy_with
from lessen.testing import EXAMPLES
from lessen.testing.catalogue import LITTLE, Little, exported, outputs


class Remembers(nn.Module):
    """Keeps what it computed, deep inside containers too, and draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.generator = torch.Generator().manual_seed(3)
        self.seen: dict[str, list[Tensor]] = {}

    def forward(self, x_NC: Tensor) -> Tensor:
        self.features = self.layer(x_NC)
        self.seen["all"] = [self.features * 2]
        out_NC: Tensor = self.features
        return out_NC


@pytest.mark.parametrize("copied", [copy_network, copy_structure, lambda model: copy_with(model, {})])
def test_what_a_network_remembers_is_copied_without_its_graph(copied: object) -> None:
    model, x_NC = Remembers(), torch.ones(1, 3)
    gave = model(x_NC)
    handle = model.layer.register_forward_hook(lambda module, args, output: output + 1)
    new = copied(model)  # type: ignore[operator]
    assert torch.equal(new(x_NC), gave + 1)
    new = copied(model)  # type: ignore[operator]
    assert torch.equal(new.features, gave)
    assert not new.features.requires_grad
    assert torch.equal(new.seen["all"][0], gave * 2)
    assert model.features is gave
    assert gave.requires_grad
    assert torch.equal(torch.rand(2, generator=new.generator), torch.rand(2, generator=model.generator))
    handle.remove()


class RemembersFeatures(Little):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.features = F.relu(self.conv(F.relu(self.bn(self.stem(x_NCHW)))))
        out = self.blocks(self.features.mean((2, 3)))
        logits_NC: Tensor = self.head(F.relu(self.same(F.relu(self.tied(out)))))
        return logits_NC


@pytest.mark.parametrize("name", exported())
def test_every_operation_works_on_a_network_that_was_just_trained_and_remembers(name: str) -> None:
    network, known = RemembersFeatures().eval(), Little().eval()
    known.load_state_dict(network.state_dict())
    network(LITTLE.inputs(3)).sum().backward()
    features, gradient = network.features, network.stem.weight.grad
    plan = exported()[name].plan(network, LITTLE.context())
    small = plan.apply(network)
    assert network.features is features
    assert network.stem.weight.grad is gradient
    assert features.grad_fn is not None
    assert torch.equal(outputs(small, LITTLE), outputs(plan.apply(known), LITTLE))


class DerivesOnce(Little):
    """Keeps a table that it derives from a weight until its tensors change, as LeViT's of timm do."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.linspace(-1, 1, 8))
        self.derived: dict[str, Tensor] = {}

    def _apply(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.derived = {}
        return super()._apply(*args, **kwargs)

    def table(self) -> Tensor:
        if "table" not in self.derived:
            self.derived["table"] = self.places.detach().flip(0)
        return self.derived["table"]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features = F.relu(self.conv(F.relu(self.bn(self.stem(x_NCHW)))))
        out = self.blocks(features.mean((2, 3)) + self.table())
        logits_NC: Tensor = self.head(F.relu(self.same(F.relu(self.tied(out)))))
        return logits_NC


class DerivesInEval(DerivesOnce):
    """Derives it when it changes to evaluation mode, as the LeViT of its authors does."""

    def _apply(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return nn.Module._apply(self, *args, **kwargs)

    def train(self, mode: bool = True):  # type: ignore[no-untyped-def]
        super().train(mode)
        self.derived = {} if mode else {"table": self.places.detach().flip(0)}
        return self


@pytest.mark.parametrize("kind", [DerivesOnce, DerivesInEval])
def test_what_a_network_derives_from_its_weights_is_derived_anew_from_those_of_the_copy(
    kind: type[DerivesOnce],
) -> None:
    model = kind().eval()
    model(LITTLE.inputs(2))
    model.blocks.train()
    assert model.derived
    doubled = {name: 2 * value.double() for name, value in model.named_parameters() if name != "same.weight"}
    buffers = {name: value.double() for name, value in model.named_buffers() if value.is_floating_point()}
    new = copy_with(model, doubled | buffers)
    assert torch.equal(new.table(), 2 * model.places.detach().double().flip(0))
    assert new(LITTLE.inputs(2).double()).dtype == torch.float64
    assert (new.training, new.blocks.training, new.head.training) == (False, True, False)
    assert model.derived["table"].dtype == torch.float32, "the network that came in keeps its own"


@pytest.mark.parametrize("kind", [DerivesOnce, DerivesInEval])
@pytest.mark.parametrize("name", exported())
def test_every_operation_works_on_a_network_that_keeps_what_it_derived(name: str, kind: type[DerivesOnce]) -> None:
    network, fresh = kind().eval(), kind().eval()
    fresh.load_state_dict(network.state_dict())
    network(LITTLE.inputs(3))
    plan, same = (exported()[name].plan(each, LITTLE.context()) for each in (network, fresh.eval()))
    assert encode(plan) == encode(same)
    small = plan.apply(network)
    if kind is DerivesOnce:  # else the channels of the stem are left out: its forward function does not show the tie
        assert not any("does not run" in reason for reason in getattr(plan, "left_out", {}).values())
    assert torch.equal(outputs(small, LITTLE), outputs(plan.apply(fresh), LITTLE))


def test_what_cannot_be_copied_is_named() -> None:
    model = EXAMPLES["perceptron"].build()
    model.again.lock = threading.Lock()  # type: ignore[union-attr, assignment]
    with pytest.raises(
        NetworkError, match=r"because of the attribute 'again\.lock' \(a _thread\.lock\).*set the attribute"
    ):
        Half().plan(model, EXAMPLES["perceptron"].context()).apply(model)
    model = EXAMPLES["perceptron"].build()
    rows = (row for row in "ab")
    model.first.register_forward_hook(_Hook(rows))  # type: ignore[union-attr]
    with pytest.raises(NetworkError, match="because of a hook of first"):
        copy_network(model)


class _Hook:
    def __init__(self, rows: object) -> None:
        self.rows = rows

    def __call__(self, *given: object) -> None: ...


def test_a_tensor_masked_on_a_copy_is_not_masked_on_the_network_it_came_from() -> None:
    first = nn.Linear(2, 2)
    mask_parameter(first, "weight", torch.tensor([[True, False], [True, True]]))
    second = copy_network(first)
    mask_parameter(second, "bias", torch.tensor([True, False]))
    assert mask_of(first, "bias") is None
    assert first.bias.shape == (2,)
    assert first(torch.ones(1, 2)).shape == (1, 2)
    assert float(second.bias.detach()[1]) == 0


def test_networks_are_copied_and_parametrised_in_one_place_only() -> None:
    """A lint: `copy.deepcopy` fails on networks that remember, and shared classes break the network that came in."""
    alone = {
        "deepcopy": {"surgery/copying.py", "surgery/decay.py", "engine/keeping.py"},  # the last copies numbers
        "register_parametrization": {"surgery/forms/registering.py"},
    }
    root = Path(lessen.__file__).parent
    found: dict[str, set[str]] = {name: set() for name in alone}
    for file in root.rglob("*.py"):
        where = file.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in found and not where.startswith("testing/"):
                found[node.attr].add(where)
    assert found["deepcopy"] <= alone["deepcopy"]
    assert found["register_parametrization"] == alone["register_parametrization"]
