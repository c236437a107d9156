"""Patterns against counting by hand, on matrices and on convolutions."""

import pytest
import torch
from torch import nn

from lessen.core import Context
from lessen.core.errors import SettingError
from lessen.operations import NM, PerRow, PruneWeights
from lessen.operations.parts.pattern import pattern_mask
from lessen.testing import EXAMPLES


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 1)])
def test_exactly_n_of_every_m_inputs(n: int, m: int) -> None:
    torch.manual_seed(0)
    score = torch.randint(3, (6, 16)).float()  # with many equal scores
    mask = pattern_mask(NM(n=n, m=m), score, 0)
    for row in range(6):
        for start in range(0, 16, m):
            part, kept = score[row, start : start + m], mask[row, start : start + m]
            assert int(kept.sum()) == n
            assert n == m or part[kept].min() >= part[~kept].max()


def test_in_a_convolution_the_m_are_channels_at_one_place_of_the_kernel() -> None:
    score = torch.rand(5, 8, 3, 3)
    mask = pattern_mask(NM(n=2, m=4), score, 0)
    assert bool((mask.view(5, 2, 4, 3, 3).sum(2) == 2).all())
    # The planted error: m consecutive numbers in memory, which run over the kernel and not over the channels.
    flat = NM(n=2, m=4).mask(score.flatten(1), 0).view(score.shape)
    assert not bool((flat.view(5, 2, 4, 3, 3).sum(2) == 2).all())


def test_each_row_keeps_as_many() -> None:
    score = torch.rand(6, 10) * torch.arange(1, 7).view(-1, 1) ** 4
    mask = pattern_mask(PerRow(), score, 18)
    assert mask.sum(1).tolist() == [3] * 6
    for row in range(6):
        assert score[row][mask[row]].min() > score[row][~mask[row]].max()


def test_layers_that_cannot_are_left_alone_with_the_reason() -> None:
    example = EXAMPLES["convolutions"]
    made = PruneWeights(pattern=NM(n=2, m=4)).plan(example.build(), example.context())
    assert made.left == {
        "stem.weight": "its 3 inputs cannot be cut into groups of 4",
        "depthwise.weight": "its 1 inputs cannot be cut into groups of 4",
    }
    small = made.apply(example.build())
    assert int((small.head.weight != 0).sum()) == small.head.weight.numel() // 2  # type: ignore[union-attr,operator,arg-type]
    layer = nn.Sequential(nn.ConvTranspose2d(4, 4, 2))
    made = PruneWeights(pattern=NM(n=2, m=4)).plan(layer, Context(inputs=torch.randn(1, 4, 3, 3)))
    assert "transposed" in made.left["0.weight"]


def test_the_share_must_agree_with_the_pattern() -> None:
    with pytest.raises(SettingError, match=r"write keep=0\.25"):
        PruneWeights(keep=0.5, pattern=NM(n=1, m=4))
    with pytest.raises(SettingError, match="more than"):
        NM(n=5, m=4)
