"""Peak memory against sums done by hand and, where there is a GPU, against its allocator."""

import pytest
import torch
from torch import Tensor, nn

from lessen.measure import peak_memory


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def chain() -> nn.Module:
    """Widths 8 -> 100 -> 4: the worst moment is when the ReLU has made its output."""
    return nn.Sequential(nn.Linear(8, 100, bias=False), nn.ReLU(), nn.Linear(100, 4, bias=False))


CASES = {
    "chain": (chain, (5, 8), 4 * (800 + 400) + 4 * 5 * (8 + 100 + 100)),
    "in place": (
        lambda: nn.Sequential(nn.Linear(8, 100, bias=False), nn.ReLU(inplace=True), nn.Linear(100, 4, bias=False)),
        (5, 8),
        4 * (800 + 400) + 4 * 5 * (8 + 100 + 4),
    ),
    "a view is no memory": (lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 8))), (5, 4, 4), 4 * 5 * 16),
    # While the sum is made: x, what the second layer made, and the sum. The first layer's output is dead by then, but
    # it was alive beside the second's: the same three.
    "residual": (lambda: Residual(16), (3, 16), 4 * 2 * 256 + 4 * 3 * 3 * 16),
}


def check(function, name: str) -> None:
    build, shape, expected = CASES[name]
    assert function(build(), torch.zeros(shape)) == expected


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    check(peak_memory, name)


def test_adding_up_everything_ever_made_is_found() -> None:
    def everything(model: nn.Module, inputs: Tensor) -> int:
        total = sum(value.nbytes for value in model.parameters()) + inputs.nbytes
        for layer in model:
            inputs = layer(inputs)
            total += inputs.nbytes
        return total

    with pytest.raises(AssertionError):
        check(everything, "chain")


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    one, two, three = (peak_memory(chain(), torch.zeros(count, 8)) for count in (1, 2, 3))
    assert two - one == three - two == 4 * 208


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(50, 50, bias=False)
    assert peak_memory(nn.Sequential(layer, layer), torch.zeros(1, 50)) == 4 * (2500 + 3 * 50)


def test_it_repeats_exactly() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    inputs = torch.randn(2, 6, 16)
    assert len({peak_memory(model, inputs) for _ in range(5)}) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_allocator_of_a_gpu_says_the_same() -> None:
    # Tensors of whole multiples of 512 bytes, the allocator's grain, and no scratch space: elementwise only.
    model = nn.Sequential(nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.Flatten(), nn.ReLU())
    inputs = torch.randn(64, 128, 32, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated() - inputs.nbytes
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(inputs)
    assert _on_gpu(model, inputs) == torch.cuda.max_memory_allocated() - before


def _on_gpu(model: nn.Module, inputs: Tensor) -> int:
    model.register_buffer("here", torch.zeros(0, device="cuda"))
    return peak_memory(model, inputs)
