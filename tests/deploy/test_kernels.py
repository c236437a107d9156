"""Both runtimes do the same multiply-adds, however they fuse what does them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lessen.core.errors import SettingError
from lessen.deploy import OnnxRuntime, OpenVino, export_onnx, export_openvino, read_kernels


class Bag(nn.Module):
    """Tokens (N, L) to logits: OpenVINO fuses its perceptron into one kernel where the processor has no AVX-512."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(50, 16), nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.words(tokens).mean(1)).relu())
        return logits


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "a bag of words": (Bag, torch.randint(0, 50, (3, 7)), 16 * 24 + 24 * 5),
    "a perceptron": (
        lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)),
        torch.rand(3, 8),
        8 * 64 + 64 * 64 + 64 * 4,
    ),
    # Projections to queries, keys and values, two products with positions, the projection back, two of the perceptron.
    "attention": (attention, torch.rand(3, 5, 16), 5 * 3 * 16 * 16 + 2 * 5 * 5 * 16 + 5 * 16 * 16 + 2 * 5 * 16 * 32),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()),
        torch.rand(3, 3, 6, 6),
        36 * 8 * 27 + 16 * 8 * 9,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_runtimes_do_the_multiply_adds_of_the_network(name: str, tmp_path: Path) -> None:
    make, x, wanted = NETWORKS[name]
    path = export_onnx(make().eval(), x, tmp_path / "n.onnx")
    assert sum(read_kernels(OnnxRuntime(), path, x).multiply_adds.values()) == wanted
    assert sum(read_kernels(OpenVino(), export_openvino(path, tmp_path / "n.xml"), x).multiply_adds.values()) == wanted


def test_too_many_arguments_for_what_has_no_others(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"takes 2 arguments by position .*It has no others"):
        export_openvino(tmp_path / "n.onnx", tmp_path / "n.xml", 3)  # type: ignore[call-arg]
