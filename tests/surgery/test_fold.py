"""Folding a batch normalisation changes nothing but the number of modules."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import NetworkError
from lessen.surgery.digest import digest
from lessen.surgery.fold import fold, fold_batchnorm, foldable, folded
from lessen.surgery.forms.mask import mask_parameter
from lessen.surgery.plain import plain_copy
from lessen.surgery.proof import outputs_of


def used(norm: nn.Module) -> nn.Module:
    """A normalisation as it is after training: nothing is 0 or 1."""
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()
        norm.running_var.uniform_(0.2, 3.0)
    return norm


CASES: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "conv": (lambda: [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)], (2, 3, 6, 6)),
    "conv with bias, strided": (lambda: [nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)], (2, 4, 7, 7)),
    "grouped": (lambda: [nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)], (2, 4, 6, 6)),
    "several in a row": (lambda: [nn.Conv2d(3, 8, 3), *(nn.BatchNorm2d(8) for _ in range(3))], (2, 3, 6, 6)),
    "depthwise": (lambda: [nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)], (2, 4, 6, 6)),
    "conv1d": (lambda: [nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)], (2, 3, 9)),
    "conv3d": (lambda: [nn.Conv3d(2, 5, 3), nn.BatchNorm3d(5)], (2, 2, 5, 5, 5)),
    "transposed": (lambda: [nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "transposed, grouped": (lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "linear": (lambda: [nn.Linear(5, 7), nn.BatchNorm1d(7)], (4, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_folded_network_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    make, shape = CASES[name]
    layer, *norms = make()
    model = nn.Sequential(layer, *map(used, norms), nn.ReLU()).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    before = digest(model)
    new = fold_batchnorm(model, x)
    assert all(isinstance(new[place], nn.Identity) for place in range(1, len(norms) + 1))
    assert torch.allclose(new(x), model(x), rtol=1e-12, atol=1e-12)
    assert digest(model) == before


def test_a_wrong_epsilon_is_seen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), used(nn.BatchNorm2d(8))).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    model[1].eps = 1e-3
    weight, bias = folded(model[0], model[1])
    model[1].eps = 1e-5
    assert not torch.allclose(F.conv2d(x, weight, bias), model(x), rtol=1e-12, atol=1e-12)


class Odd(nn.Module):
    """One convolution that may be folded among five that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(6))
        self.norms = nn.ModuleList(used(nn.BatchNorm2d(3)) for _ in range(5))
        self.norms.append(nn.BatchNorm2d(3, track_running_stats=False))
        self.convs[4].weight = self.convs[3].weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        read_twice = self.convs[0](x)
        x = self.norms[0](read_twice) + read_twice
        called_twice = self.norms[1](self.convs[1](self.convs[1](x)))
        x = F.relu(self.norms[2](self.convs[2](called_twice)))
        tied = self.norms[4](self.convs[4](self.norms[3](self.convs[3](x))))
        given_out = self.convs[5](tied)
        return given_out, self.norms[5](given_out)


def test_only_what_may_be_folded_is() -> None:
    model, x = Odd().double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert foldable(model, x) == [("convs.2", "norms.2")]
    assert torch.allclose(fold_batchnorm(model, x)(x)[1], model(x)[1], atol=1e-10)


class Standardised(nn.Conv2d):
    """Multiplies by its weight made standard: a factor in the weight does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


@dataclasses.dataclass
class Found:
    """What a network gives, in a class of its own."""

    logits: Tensor
    features: Tensor


class Elsewhere(nn.Module):
    """A pair of a convolution and a normalisation that could be folded, and what else happens to it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 3, 1), used(nn.BatchNorm2d(3))
        self.conv = (Standardised if what == "standardised" else nn.Conv2d)(3, 3, 1)
        self.norm = used(nn.BatchNorm2d(3))
        self.what = what

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first_norm(self.first(x)))
        between = self.conv(x)
        out = self.norm(between)
        return USES[self.what](self, x, between, out)


USES: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Any]] = {
    "output": lambda self, x, between, out: (out, between),
    "output first": lambda self, x, between, out: (between, out),
    "output in a dict": lambda self, x, between, out: {"logits": out, "features": between},
    "output in a class": lambda self, x, between, out: Found(out, between),
    "view of it": lambda self, x, between, out: (out, between.flatten(1)),
    "slice of it": lambda self, x, between, out: (out, between[:, :1]),
    "summed": lambda self, x, between, out: out + between,
    "weight read": lambda self, x, between, out: out + F.conv2d(x, self.conv.weight),
    "bias read": lambda self, x, between, out: out + self.conv.bias.sum(),
    "norm twice": lambda self, x, between, out: out + self.norm(x),
    "conv twice": lambda self, x, between, out: out + self.conv(x),
    "standardised": lambda self, x, between, out: out,
    "nothing": lambda self, x, between, out: out,
}


@pytest.mark.parametrize("what", [use for use in USES if use != "nothing"])
def test_a_convolution_that_is_also_used_elsewhere_is_not_folded(what: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    assert foldable(Elsewhere("nothing").eval(), x) == [("first", "first_norm"), ("conv", "norm")]
    model = Elsewhere(what).eval()
    assert foldable(model, x) == [("first", "first_norm")]
    gave, gives = model(x), fold_batchnorm(model, x)(x)
    each = [vars(one) if isinstance(one, Found) else one for one in (gave, gives)]
    for before, after in zip(*(torch.utils._pytree.tree_leaves(one) for one in each), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("what", [use for use in USES if use != "nothing"])
def test_inputs_of_zeros_prove_no_more_than_others(what: str) -> None:
    """At zeros both sides of this normalisation are zeros, and a standardised weight is not seen."""
    torch.manual_seed(0)
    model = Elsewhere(what).eval()
    for zero in (model.first.bias, model.conv.bias, model.first_norm.running_mean, model.first_norm.bias,
                 model.norm.running_mean, model.norm.bias):  # fmt: skip
        torch.nn.init.zeros_(zero)  # type: ignore[arg-type]
    x, zeros = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    assert all(not value.any() for value in outputs_of(model, zeros))
    # Without biases, one that is read adds nothing, and after folding it is zero as well.
    assert foldable(model, zeros) == [("first", "first_norm"), *([("conv", "norm")] if what == "bias read" else [])]
    for before, after in zip(outputs_of(model, x), outputs_of(fold_batchnorm(model, zeros), x), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("what", [use for use in USES if use != "standardised"])
def test_weight_norm_changes_nothing_about_what_is_folded(what: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    model = Elsewhere(what).eval()
    expected = [("first", "first_norm"), *([("conv", "norm")] if what == "nothing" else [])]
    for conv in (model.first, model.conv):
        nn.utils.parametrizations.weight_norm(conv)
    plain = plain_copy(model)
    assert foldable(plain, x) == expected
    for before, after in zip(outputs_of(model, x), outputs_of(fold_batchnorm(plain, x), x), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


class WholeNumbers(nn.Module):
    """Takes whole numbers only, so that random inputs prove nothing; gives the convolution as well, or not."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.both = nn.Conv2d(3, 3, 1, bias=False), used(nn.BatchNorm2d(3)), both
        nn.init.zeros_(self.norm.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Any:
        if not torch.equal(x, x.round()):
            raise ValueError("whole numbers were expected")
        between = self.conv(x)
        return (between, self.norm(between)) if self.both else self.norm(between)


@pytest.mark.parametrize("both", [False, True])
def test_what_is_seen_of_outputs_decides_where_nothing_can_be_proven(both: bool) -> None:
    zeros = torch.zeros(2, 3, 4, 4)
    assert foldable(WholeNumbers(both=both).eval(), zeros) == ([] if both else [("conv", "norm")])


def test_zeros_behind_a_mask_stay_zeros() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3), used(nn.BatchNorm2d(8))).double().eval(),
        torch.randn(2, 3, 6, 6).double(),
    )
    kept = torch.rand(8, 3, 3, 3) > 0.5
    mask_parameter(model[0], "weight", kept)
    new = fold_batchnorm(model, x)
    assert isinstance(new[1], nn.Identity)
    assert torch.allclose(new(x), model(x), rtol=1e-12, atol=1e-12)
    assert bool((new[0].weight[~kept] == 0).all())


def test_the_activation_that_a_normalisation_carries_stays() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    norm = timm.layers.BatchNormAct2d(8)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), used(norm)).eval(), torch.randn(2, 3, 6, 6)
    new = fold_batchnorm(model, x)
    assert "BatchNorm" not in repr(new)
    assert torch.allclose(new(x), model(x), atol=1e-5)
    assert bool((new(x) >= 0).all())


def test_structure_alone_takes_folded_weights() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), used(nn.BatchNorm2d(8))).eval(), torch.randn(2, 3, 6, 6)
    whole = fold_batchnorm(model, x)
    empty = fold(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).eval(), [("0", "1")], values=False)
    empty.load_state_dict(whole.state_dict(), strict=True)
    assert torch.equal(empty(x), whole(x))


def test_a_pair_of_another_network_is_an_error() -> None:
    with pytest.raises(NetworkError, match="of another network"):
        fold(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), [("0", "1")])
