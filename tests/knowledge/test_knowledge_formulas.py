"""Objectives against their formulas written out slowly, each with a mistake that the comparison finds."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import SettingError
from lessen.knowledge import (
    AttentionTransfer,
    CrossEntropy,
    EuclideanDistance,
    Hint,
    LogitCosine,
    LogitMatching,
    Regression,
    SoftTargets,
)


def taps(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    both = torch.randn(2, *shape, dtype=torch.float64)
    return both[0], both[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pytorchs(smoothing: float) -> None:
    logits, _ = taps(6, 4)
    labels = torch.tensor([0, 3, 1, 1, 2, 0])
    for target in (labels, logits.flip(0).softmax(1)):
        expected = F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        assert torch.allclose(CrossEntropy(smoothing=smoothing)(logits, target), expected)
    other = CrossEntropy(smoothing=smoothing + 0.05)(logits, labels)
    assert not torch.allclose(other, F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing))


def test_cross_entropy_averages_over_positions() -> None:
    logits, _ = taps(2, 4, 3, 5)
    labels = torch.randint(4, (2, 3, 5))
    expected = F.cross_entropy(logits, labels, reduction="none").mean((1, 2))
    assert torch.allclose(CrossEntropy()(logits, labels), expected)


def test_cross_entropy_at_a_common_logit_is_the_log_of_the_classes() -> None:
    assert torch.allclose(CrossEntropy()(torch.zeros(3, 8), torch.tensor([0, 5, 7])), torch.tensor(math.log(8)))


def test_regression_does_not_broadcast_columns_against_rows() -> None:
    outputs, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0])
    assert torch.equal(Regression()(outputs, labels), torch.tensor([1.0, 4.0]))
    assert not torch.equal((outputs - labels).square().mean(1), torch.tensor([1.0, 4.0]))  # what broadcasting gives
    assert torch.equal(Regression()(outputs, torch.tensor([0, 4])), torch.tensor([1.0, 4.0]))


def test_logit_matching_sums_over_classes_and_halves() -> None:
    student, teacher = taps(5, 10)
    expected = torch.stack([0.5 * torch.dot(d, d) for d in student - teacher])
    assert torch.allclose(LogitMatching()(student, teacher), expected)
    assert not torch.allclose((student - teacher).square().mean(1), expected)


def test_logit_cosine_does_not_see_the_length() -> None:
    student, teacher = taps(5, 10)
    expected = 1 - F.cosine_similarity(student, teacher)
    assert torch.allclose(LogitCosine()(7 * student, teacher / 3), expected)
    assert not torch.allclose(LogitCosine()(student + 7, teacher), expected)


def test_hint_does_not_depend_on_the_size_of_the_map() -> None:
    student, teacher = taps(2, 3, 4, 4)
    larger = [tap.repeat(1, 2, 3, 1) for tap in (student, teacher)]
    assert torch.allclose(Hint()(student, teacher), Hint()(*larger))
    summed = [(a - b).square().flatten(1).sum(1) for a, b in ((student, teacher), larger)]
    assert not torch.allclose(summed[0], summed[1])


def slow_attention(features: Tensor, power: float) -> np.ndarray:  # type: ignore[type-arg]
    channels, height, width = features.shape
    energy = np.zeros(height * width)
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                energy[row * width + column] += abs(float(features[channel, row, column])) ** power
    return energy / np.sqrt((energy**2).sum())


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_transfer_in_both_published_forms(power: float) -> None:
    student, teacher = taps(3, 5, 2, 4)
    for number in range(3):
        difference = slow_attention(student[number], power) - slow_attention(teacher[number], power)
        one = slice(number, number + 1)
        code = AttentionTransfer(power=power)(student[one], teacher[one])
        paper = AttentionTransfer(power=power, distance=EuclideanDistance())(student[one], teacher[one])
        assert float(code) == pytest.approx((difference**2).mean())
        assert float(paper) == pytest.approx(np.sqrt((difference**2).sum()))
        assert float(code) != pytest.approx(float(paper), rel=1e-2)


def test_attention_transfer_does_not_see_channels_or_scale() -> None:
    student, teacher = taps(3, 5, 2, 4)
    expected = AttentionTransfer()(student, teacher)
    assert torch.allclose(AttentionTransfer()(0.1 * student[:, [2, 0, 4, 1, 3]], 9 * teacher), expected)
    assert not torch.allclose(AttentionTransfer()(student.flip(3), teacher), expected)


def test_a_map_of_zeros_has_no_attention_and_a_finite_gradient() -> None:
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = AttentionTransfer()(student, torch.randn(2, 3, 2, 2))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())


def test_settings_are_checked() -> None:
    for make in (
        lambda: SoftTargets(temperature=0.0),
        lambda: SoftTargets(temperature=math.inf),
        lambda: SoftTargets(divergence="kl"),  # type: ignore[arg-type]
        lambda: CrossEntropy(smoothing=1.0),
        lambda: AttentionTransfer(power=-1.0),
        lambda: Hint(distance=3),  # type: ignore[arg-type]
    ):
        with pytest.raises(SettingError):
            make()
    assert Hint(distance=EuclideanDistance) == Hint(distance=EuclideanDistance())  # type: ignore[arg-type]
