"""What weights are multiplied with: X X^T by hand, for every kind of layer, and never more than counts."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Inputs
from lessen.core.errors import PlanError
from lessen.operations import PruneWeights
from lessen.operations.parts import hessian as module
from lessen.operations.parts.hessian import Gram, gram_of, layers_of, rows_of
from lessen.testing import EXAMPLES

CPU = torch.device("cpu")


def batches(*inputs: Inputs) -> list[Batch]:
    found = []
    for one in inputs:
        first = one if isinstance(one, Tensor) else next(iter(one.values() if isinstance(one, dict) else one))
        found.append(Batch(one, torch.arange(len(first))))
    return found


def gram(model: nn.Module, name: str, *inputs: Inputs) -> Gram:
    return gram_of(model, list(layers_of(model, inputs[0], [name]).values()), batches(*inputs), device=CPU)[name]


def test_a_linear_layer_on_vectors_and_on_tokens() -> None:
    layer = nn.Sequential(nn.ReLU(), nn.Linear(5, 3)).double()
    one, two = torch.randn(4, 5).double(), torch.randn(3, 5).double()
    x_PI = torch.cat([one, two]).relu()
    found = gram(layer, "1.weight", one, two)
    assert torch.allclose(found.gram, x_PI.T @ x_PI)
    assert torch.allclose(found.sum, x_PI.sum(0))
    assert found.count.tolist() == [7]
    tokens = torch.randn(2, 6, 5).double()
    x_PI = tokens.relu().flatten(0, 1)
    assert torch.allclose(gram(layer, "1.weight", tokens).gram[0], x_PI.T @ x_PI)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2, padding_mode="reflect"),
        nn.Conv1d(4, 8, 2),
    ],
    ids=str,
)
def test_the_error_of_a_layer_is_a_quadratic_form_in_h(layer: nn.Module) -> None:
    """The oracle: change the weights, run the layer, and compare the squared change of its outputs with D H D^T."""
    layer = layer.double()
    axes = layer.weight.ndim - 2  # type: ignore[operator,union-attr]
    x = torch.randn(5, 4, *(8, 7)[:axes]).double()
    found = gram(nn.Sequential(layer), "0.weight", x)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.add_(torch.randn_like(other.weight))  # type: ignore[operator,arg-type,union-attr]
        change = (other(x) - layer(x)).square().sum()
    change_GRI = rows_of(other.weight - layer.weight, layer.groups)  # type: ignore[operator,arg-type]
    assert torch.allclose((change_GRI @ found.gram * change_GRI).sum(), change)


def test_memory_is_bounded_and_the_sum_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    x = torch.randn(6, 3, 8, 8).double()
    layers = list(layers_of(model, x, ["0.weight", "2.weight"]).values())
    whole = gram_of(model, layers, batches(x), device=CPU)
    monkeypatch.setattr(module, "_LARGEST", 2000)
    sizes: list[int] = []
    with module.InputsOfLayers(model, [layer.name for layer in layers], [x], device=CPU) as walk:
        walk.see_all(lambda _, piece: sizes.append(piece.inputs.numel()))
    assert len(sizes) > 2
    assert max(sizes) <= 2000
    parts = gram_of(model, layers, batches(x), device=CPU)
    assert all(torch.allclose(whole[name].gram, parts[name].gram) for name in whole)


def test_shared_modules_and_tied_weights_see_all_their_inputs() -> None:
    model = EXAMPLES["shared"].build().double()
    x = EXAMPLES["shared"].inputs(dtype=torch.float64)
    layers = layers_of(model, x, ["first.weight", "tied.weight"])
    assert [(layer.name, layer.calls) for layer in layers.values()] == [("first.weight", 2), ("tied.weight", 2)]
    found = gram(model, "tied.weight", x)
    with torch.no_grad():
        before = F.relu(model.same(F.relu(model.first(F.relu(model.enter(x))))))  # type: ignore[operator]
        then = F.relu(model.tied(before))  # type: ignore[operator]
    assert torch.allclose(found.gram[0], before.T @ before + then.T @ then)


def test_attention_is_seen_where_it_reads_its_weights() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    query, key, value = (torch.randn(2, size, 4).double() for size in (3, 5, 5))
    found = gram(attention, "in_proj_weight", (query, key, value))
    assert found.gram.shape == (3, 4, 4)
    for block, x in enumerate((query, key, value)):
        flat_PI = x.flatten(0, 1)
        assert torch.allclose(found.gram[block], flat_PI.T @ flat_PI)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0).double().eval()
    names = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    assert list(layers_of(layer, query, names)) == names
    assert gram(layer, names[0], query).gram.shape == (1, 4, 4)
    assert gram(layer, names[1], query).count.tolist() == [6]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        del attention_mask
        out: Tensor = self.head(self.embed(input_ids))
        return out


def test_padding_does_not_count() -> None:
    model = Tokens().double()
    ids, mask = torch.randint(9, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = gram(model, "head.weight", {"input_ids": ids, "attention_mask": mask})
    real_PI = model.embed(ids)[mask.bool()].detach()
    assert torch.allclose(found.gram[0], real_PI.T @ real_PI)
    assert found.count.tolist() == [8]
    # The planted error: with padding, H is of inputs that nobody ever asks about.
    all_PI = model.embed(ids).flatten(0, 1).detach()
    assert not torch.allclose(found.gram[0], all_PI.T @ all_PI)


def test_float32_would_lose_what_float64_keeps() -> None:
    """The planted error: H in the type of the network is singular where the inputs are not."""
    torch.manual_seed(0)
    x = 1.0 + 1e-4 * torch.randn(64, 6)
    found = gram(nn.Sequential(nn.Linear(6, 2)), "0.weight", x)
    assert found.gram.dtype == torch.float64
    exact = torch.linalg.eigvalsh(x.double().T @ x.double())
    assert torch.allclose(torch.linalg.eigvalsh(found.gram[0]), exact, rtol=1e-3)
    lost = torch.linalg.eigvalsh((x.T @ x).double())
    assert not torch.allclose(lost, exact, rtol=1e-1)


def test_the_network_and_its_masks_are_left_alone_and_a_pass_ends_early() -> None:
    example = EXAMPLES["convolutions"]
    model = PruneWeights(keep=0.5).plan(example.build(), example.context()).apply(example.build()).train()
    before = copy.deepcopy(model.state_dict())
    layers = layers_of(model, example.inputs(), ["inner.weight"])
    calls: list[int] = []
    handle = model.head.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    found = gram_of(model, list(layers.values()), batches(example.inputs()), device=CPU)
    handle.remove()
    assert found["inner.weight"].gram.shape == (1, 144, 144)
    assert not calls, "the layers behind the last one were computed"
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_missing_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    layers = list(layers_of(model, torch.randn(2, 3), ["0.weight"]).values())
    with pytest.raises(PlanError, match="calibration"):
        gram_of(model, layers, [], device=CPU)
