"""A convolution is a product with unfolded patches, whatever its settings."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.functional.unfold import unfold

LAYERS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
    nn.Conv2d(4, 6, 3, groups=2, padding="same", dilation=2),
    nn.Conv2d(4, 4, (2, 4), groups=4, padding="same"),
    nn.Conv2d(4, 6, 1, padding="valid"),
    nn.Conv3d(2, 4, 2, groups=2, dilation=(1, 2, 1)),
]


def product(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer computes, and what its rows times the patches give, both (G, R, P)."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    patches_GPI = unfold(
        inputs,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    weight_GRI = layer.weight.view(layer.groups, layer.out_channels // layer.groups, -1)
    out = layer(inputs) - layer.bias.view(-1, *(1,) * (inputs.ndim - 2))  # type: ignore[union-attr]
    return out.transpose(0, 1).reshape(layer.groups, -1, len(inputs) * out[0, 0].numel()), (
        weight_GRI @ patches_GPI.transpose(1, 2)
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_product_with_patches_is_the_convolution(layer: nn.Module) -> None:
    axes = layer.weight.ndim - 2  # type: ignore[operator,union-attr]
    channels = layer.in_channels
    out, made = product(layer.double(), torch.randn(3, channels, *(6, 7, 5)[:axes], dtype=torch.float64))
    assert torch.allclose(out, made, atol=1e-12)


def test_patches_of_two_dimensions_are_those_of_torch() -> None:
    x = torch.randn(2, 4, 7, 6)
    ours = unfold(x, [3, 2], stride=[2, 1], padding=[1, 0], dilation=[1, 2])
    theirs = F.unfold(x, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    assert torch.equal(ours[0], theirs.transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize("wrong", [{"groups": 2}, {"dilation": [1, 1]}, {"stride": [2, 2]}])
def test_a_setting_that_is_not_honoured_would_be_caught(wrong: dict[str, object]) -> None:
    """The planted errors: released code unfolds as if every convolution were dense, without stride and dilation."""
    x = torch.randn(2, 4, 9, 9)
    right: dict[str, object] = {"stride": [1, 1], "padding": [0, 0], "dilation": [2, 2], "groups": 1}
    theirs = F.unfold(x, 3, dilation=2).transpose(1, 2).flatten(0, 1)
    assert torch.equal(unfold(x, [3, 3], **right)[0], theirs)  # type: ignore[arg-type]
    ours = unfold(x, [3, 3], **right | wrong)[0]  # type: ignore[arg-type]
    assert ours.shape != theirs.shape or not torch.equal(ours, theirs)
