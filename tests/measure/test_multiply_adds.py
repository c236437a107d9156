"""Multiply-adds against sums done by hand and against PyTorch's own counter of operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from lessen.measure import count_multiply_adds, multiply_adds_by_operator


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scaled_dot_product_attention(x, x, x)


class Weights(nn.Module):
    """Products that no layer stands for: a matrix with a vector, batched, and one written as an einsum."""

    def forward(self, x: Tensor) -> Tensor:
        vector = x[0] @ x[0, 0]
        return torch.einsum("nij,njk->nik", x, torch.baddbmm(x, x, x)).sum() + vector.sum()


HAND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(7, 5), (1, 7), 35),
    "linear of three axes": (lambda: nn.Linear(7, 5), (2, 3, 7), 6 * 35),
    "convolution": (lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), (1, 3, 16, 16), 8 * 8 * 8 * 3 * 9),
    "grouped": (lambda: nn.Conv2d(8, 16, 3, groups=4, bias=False), (1, 8, 6, 6), 16 * 4 * 4 * 2 * 9),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, dilation=2), (1, 8, 9, 9), 8 * 5 * 5 * 9),
    "one axis": (lambda: nn.Conv1d(4, 6, 5), (1, 4, 20), 6 * 16 * 4 * 5),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 5, 5), 4 * 25 * 6 * 9),
    "transposed in groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5), 4 * 25 * 3 * 9),
    "attention": (Attention, (1, 2, 10, 16), 2 * (10 * 10 * 16 + 10 * 10 * 16)),
    "products": (Weights, (2, 4, 4), 16 + 2 * 64 + 2 * 64),
    "nothing": (nn.ReLU, (1, 9), 0),
}


def check_by_hand(function, name: str) -> None:
    build, shape, expected = HAND[name]
    assert function(build(), torch.ones(shape)) == expected


@pytest.mark.parametrize("name", HAND)
def test_by_hand(name: str) -> None:
    check_by_hand(count_multiply_adds, name)


@pytest.mark.parametrize("name", sorted(set(HAND) - {"nothing"}))
def test_counting_additions_too_is_found(name: str) -> None:
    with pytest.raises(AssertionError):
        check_by_hand(lambda model, inputs: 2 * count_multiply_adds(model, inputs), name)


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    layer.eval().requires_grad_(False)  # frozen and in eval mode it would run as one fused operator
    convolutional = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=2),
        nn.Flatten(),
        nn.Linear(2304, 4),
    )
    return {"transformer": (layer, torch.randn(1, 12, 32)), "convolutional": (convolutional, torch.randn(1, 3, 16, 16))}


@pytest.mark.parametrize("name", ["transformer", "convolutional"])
def test_twice_the_count_is_pytorchs_flops(name: str) -> None:
    model, inputs = networks()[name]
    model.eval()
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # PyTorch's counter does not know the processor's attention kernel; attention as plain products it does.
        with FlopCounterMode(display=False) as oracle, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    assert 2 * count_multiply_adds(model, inputs) == oracle.get_total_flops()


def test_the_transformer_layer_by_hand() -> None:
    model, inputs = networks()["transformer"]
    length, width, inner = 12, 32, 64
    projections = length * width * 4 * width
    attention = 2 * length * length * width
    feed_forward = 2 * length * width * inner
    assert count_multiply_adds(model, inputs) == projections + attention + feed_forward


def test_a_batch_of_four_is_four_times_one() -> None:
    model, inputs = networks()["convolutional"]
    assert count_multiply_adds(model, inputs.repeat(4, 1, 1, 1)) == 4 * count_multiply_adds(model, inputs)


def test_by_operator_and_under_inference_mode() -> None:
    model, inputs = networks()["convolutional"]
    plain = multiply_adds_by_operator(model, inputs)
    assert set(plain) == {"convolution", "addmm"}
    with torch.inference_mode():
        assert sum(multiply_adds_by_operator(model, inputs).values()) == sum(plain.values())


def test_the_network_is_left_as_it_was() -> None:
    model, inputs = networks()["convolutional"]
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_multiply_adds(model, inputs)
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "regnet_x_400mf"])
def test_published_counts_of_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    published = models.get_model_weights(name).DEFAULT.meta["_ops"]  # in billions, to three places
    found = count_multiply_adds(models.get_model(name, weights=None), torch.zeros(1, 3, 224, 224))
    assert found / 1e9 == pytest.approx(published, abs=0.0006)
