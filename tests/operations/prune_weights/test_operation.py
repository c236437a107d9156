"""Pruned weights are exactly so many, and nothing brings them back."""

import base64
import copy
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.core.errors import PlanError, SettingError
from lessen.core.files import read_tensors, write_tensors
from lessen.operations import Global, Magnitude, PruneWeights, Taylor
from lessen.operations.parts.packed import pack, unpack
from lessen.surgery.forms.mask import bake_masks, mask_of, masked_parameters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def context() -> Context:
    batch = Batch(torch.randn(8, 3, 8, 8), torch.arange(8), torch.arange(8) % 5)
    loss = lambda out, labels: F.cross_entropy(out, labels, reduction="none")  # noqa: E731
    return Context(inputs=batch.inputs, calibration=[batch], loss=loss)


def pruned(keep: float = 0.3) -> nn.Sequential:
    model = network()
    small = PruneWeights(keep=keep).plan(model, context()).apply(model)
    assert isinstance(small, nn.Sequential)
    return small


@pytest.mark.parametrize("keep", [0.15, 1 / 3, 0.5, 0.999])
def test_exactly_the_asked_number_is_kept(keep: float) -> None:
    model = network()
    for module, count in ((model[0], 216), (model[3], 1440)):
        small = PruneWeights(keep=keep).plan(model, context()).apply(model)
        index = list(model).index(module)
        assert int((small[index].weight != 0).sum()) == round(keep * count)  # type: ignore[index]
    everywhere = PruneWeights(keep=keep, allocation=Global()).plan(model, context()).apply(model)
    assert sum(int((everywhere[i].weight != 0).sum()) for i in (0, 3)) == round(keep * 1656)  # type: ignore[index]


def test_equal_weights_are_cut_at_the_number_not_at_a_threshold() -> None:
    model = nn.Sequential(nn.Linear(10, 10))
    nn.init.ones_(model[0].weight)
    small = PruneWeights(keep=0.25).plan(model, Context(inputs=torch.randn(2, 10))).apply(model)
    assert int((small[0].weight != 0).sum()) == 25  # type: ignore[index]


def test_the_largest_stay_as_they_were() -> None:
    model, small = network(), pruned()
    before, after = model[3].weight, small[3].weight
    assert torch.equal(after[after != 0], before[after != 0])
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert torch.equal(small[3].bias, model[3].bias)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
    ],
)
def test_training_does_not_revive(make) -> None:  # type: ignore[no-untyped-def]
    model = pruned()
    gone = [m.weight == 0 for m in (model[0], model[3])]
    before = model[3].weight.clone()
    optimizer = make(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.arange(8) % 5).backward()
        optimizer.step()
    assert not torch.equal(model[3].weight, before)
    for layer, zero in zip((model[0], model[3]), gone, strict=True):
        assert bool((layer.weight[zero] == 0).all())
        assert bool((layer.weight[~zero] != 0).all())


def test_a_plain_zero_would_be_revived() -> None:
    """The planted error: zeros without a mask, which is what much released code does after its first step."""
    model = bake_masks(pruned())
    zero = model[3].weight == 0  # type: ignore[index]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(8, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert bool((model[3].weight[zero] != 0).any())  # type: ignore[index]


def test_averaging_and_writing_do_not_revive() -> None:
    model = pruned()
    zero = model[3].weight == 0
    with torch.no_grad():
        # An average with weights from before the pruning, over parameters, as averages are kept.
        for own, other in zip(model.parameters(), network().parameters(), strict=True):
            own.add_(torch.randn_like(own) if own.shape != other.shape else 0.5 * other)
        assert bool((model[3].weight[zero] == 0).all())
        model[3].weight = torch.ones_like(zero, dtype=torch.float32)
    assert bool((model[3].weight[zero] == 0).all())
    assert bool((model.state_dict()["3.weight"][zero] == 0).all())
    model.load_state_dict(network().state_dict())
    assert bool((model[3].weight[zero] == 0).all())


def test_what_is_saved_is_a_plain_state_with_zeros(tmp_path: Path) -> None:
    model = pruned()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    write_tensors(tmp_path / "weights.safetensors", model.state_dict())
    saved = read_tensors(tmp_path / "weights.safetensors")
    assert saved.keys() == network().state_dict().keys()
    assert int((saved["3.weight"] != 0).sum()) == round(0.3 * 1440)
    x = torch.randn(2, 3, 8, 8)
    plain = network()
    plain.load_state_dict(saved, strict=True)
    assert torch.equal(plain(x), model(x))
    again = pruned()
    again.load_state_dict(saved, strict=True)
    assert torch.equal(again(x), model(x))


def test_copies_are_independent() -> None:
    model = pruned()
    other = copy.deepcopy(model)
    assert other[3].weight.data_ptr() != model[3].weight.data_ptr()
    bake_masks(other)
    assert not list(masked_parameters(other))
    assert type(other[3]) is nn.Linear
    assert type(other[0]) is nn.Conv2d
    # Undoing it in the copy must not take the property from the class that both share.
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x), other(x))
    assert len(list(masked_parameters(model))) == 2
    other[3].weight.data.fill_(1.0)
    assert int((model[3].weight == 1).sum()) == 0


def test_pruning_again_only_takes_more() -> None:
    model = pruned(0.5)
    zero = model[3].weight == 0
    less = PruneWeights(keep=0.2).plan(model, context()).apply(model)
    assert int((less[3].weight != 0).sum()) == round(0.2 * 1440)  # type: ignore[index]
    assert bool((less[3].weight[zero] == 0).all())  # type: ignore[index]
    same = PruneWeights(keep=0.9).plan(model, context()).apply(model)
    assert torch.equal(same[3].weight, model[3].weight)  # type: ignore[index]


def test_taylor_agrees_with_taking_each_weight_away() -> None:
    """The oracle: a linear loss changes by exactly weight times gradient, so each weight can be tried."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    x, direction = torch.randn(1, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    loss = lambda out, labels: (out * direction).sum(1)  # noqa: E731
    batch = Batch(x, torch.arange(1), torch.zeros(1))
    made = PruneWeights(keep=0.5, score=Taylor()).plan(model, Context(inputs=x, calibration=[batch], loss=loss))
    changes = torch.empty(24, dtype=torch.float64)
    for number in range(24):
        other = copy.deepcopy(model)
        other[0].weight.data.view(-1)[number] = 0  # type: ignore[union-attr]
        changes[number] = (loss(other(x), None) - loss(model(x), None)).abs().item()
    best = changes.argsort(descending=True)[:12].sort().values
    found = unpack(made.masks["0.weight"], (4, 6)).view(-1).nonzero().view(-1)
    assert torch.equal(found, best)
    by_size = unpack(PruneWeights(keep=0.5).plan(model, Context(inputs=x)).masks["0.weight"], (4, 6)).view(-1)
    assert not torch.equal(by_size.nonzero().view(-1), best)


def test_gradients_leave_the_network_as_it_was() -> None:
    model = network().train()
    model[0].requires_grad_(False)
    PruneWeights(score=Taylor()).plan(model, context())
    assert model.training
    assert all(module.training for module in model.modules())
    assert not model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_is_pruned_where_it_reads_its_weights() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    x = torch.randn(2, 5, 16)
    small = PruneWeights(keep=0.3).plan(layer, Context(inputs=x)).apply(layer)
    names = {f"{path}.{name}" for path, _, name in masked_parameters(small)}
    assert names == {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"}
    with torch.no_grad():
        fast, baked = small(x), bake_masks(copy.deepcopy(small))(x)
    assert torch.allclose(fast, baked, atol=1e-6)
    assert torch.allclose(fast, small(x), atol=1e-5)
    assert not torch.allclose(fast, layer(x), atol=1e-3)


class Tied(nn.Module):
    def __init__(self, *, embedding: bool) -> None:
        super().__init__()
        self.first = nn.Embedding(12, 12) if embedding else nn.Linear(12, 12, bias=False)
        self.last = nn.Linear(12, 12, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x))
        return out


def test_tied_weights_are_masked_everywhere_or_left_alone() -> None:
    model = Tied(embedding=False)
    x = torch.randn(2, 12)
    small = PruneWeights(keep=0.5).plan(model, Context(inputs=x)).apply(model)
    assert isinstance(small, Tied)
    assert len(list(small.parameters())) == 1
    assert torch.equal(small.first.weight, small.last.weight)
    assert int((small.first.weight != 0).sum()) == 72
    made = PruneWeights(keep=0.5).plan(Tied(embedding=True), Context(inputs=torch.zeros(2, dtype=torch.long)))
    assert not made.masks
    assert "tied to first, a Embedding" in made.left["last.weight"]


def test_where_and_exclude() -> None:
    ctx = context()
    assert list(PruneWeights(where="0").plan(network(), ctx).masks) == ["0.weight"]
    assert list(PruneWeights(where=nn.Linear).plan(network(), ctx).masks) == ["3.weight"]
    assert list(PruneWeights(exclude=("3", nn.LSTM)).plan(network(), ctx).masks) == ["0.weight"]


def test_where_must_mean_something() -> None:
    with pytest.raises(PlanError, match="did you mean 'first'"):
        PruneWeights(where="firsd").plan(Tied(embedding=False), Context(inputs=torch.randn(2, 12)))


def test_a_layer_is_never_emptied_in_silence() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.constant_(model[0].weight, 1e-3)
    with pytest.raises(PlanError, match=r"none in 0\.weight"):
        PruneWeights(keep=0.3, allocation=Global()).plan(model, Context(inputs=torch.randn(2, 4)))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(PlanError, match="a loss"):
        PruneWeights(score=Taylor()).plan(network(), Context(inputs=torch.randn(2, 3, 8, 8)))
    with pytest.raises(SettingError, match="keep"):
        PruneWeights(keep=0.0)
    made = PruneWeights().plan(network(), context())
    with pytest.raises(PlanError, match="does not belong"):
        made.apply(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(PlanError, match="does not belong"):
        made.apply(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_packed_masks_are_one_bit_a_weight_and_damage_is_found() -> None:
    mask = torch.rand(64, 65) > 0.5
    text = pack(mask)
    assert len(text) < 64 * 65 / 8 * 1.4
    assert torch.equal(unpack(text, (64, 65)), mask)
    for bad in ("###", text[:-8], base64.b64encode(zlib.compress(b"\0" * 10**6)).decode()):
        with pytest.raises(PlanError, match="mask"):
            unpack(bad, (64, 65))


def test_describe_counts() -> None:
    rows = PruneWeights(keep=0.25, score=Magnitude()).plan(network(), context()).describe()
    assert rows[1]["after"] == "360 weights (25.0 %)"
    assert mask_of(network()[0], "weight") is None
