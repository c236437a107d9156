"""Divergences against SciPy, against theorems, and each with a mistake that is common in released code."""

import math

import pytest
import scipy.spatial.distance
import scipy.special
import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import SettingError
from lessen.functional import (
    forward_kl,
    hellinger,
    jensen_shannon,
    pearson,
    probability_correlation,
    probability_cosine,
    renyi,
    reverse_kl,
    skewed_kl,
    top_classes,
    total_variation,
)
from lessen.knowledge import ForwardKL, JensenShannon, Renyi, SkewedForwardKL, SkewedReverseKL, SoftTargets, TopClasses


def logs(count: int = 5, classes: int = 7, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    both = spread * torch.randn(2, count, classes, dtype=torch.float64)
    return both[0].log_softmax(1), both[1].log_softmax(1)


def test_kl_is_scipys_relative_entropy() -> None:
    student, teacher = logs()
    expected = torch.from_numpy(scipy.special.rel_entr(teacher.exp().numpy(), student.exp().numpy()).sum(1))
    assert torch.allclose(forward_kl(student, teacher), expected, rtol=1e-10)
    assert torch.allclose(reverse_kl(teacher, student), expected, rtol=1e-10)
    # Planted: the roles changed, and PyTorch's default reduction, which divides by the number of classes too.
    assert not torch.allclose(reverse_kl(student, teacher), expected, rtol=1e-2)
    with pytest.warns(UserWarning, match="reduction"):
        default = F.kl_div(student, teacher, log_target=True)
    assert not torch.allclose(default, expected.mean(), rtol=0.5)


def test_jensen_shannon_is_scipys() -> None:
    student, teacher = logs()
    distance = scipy.spatial.distance.jensenshannon(teacher.exp().numpy(), student.exp().numpy(), axis=1)
    expected = torch.from_numpy(distance**2)
    assert torch.allclose(jensen_shannon(student, teacher, share=0.5), expected, rtol=1e-9)
    # Planted: the mixture of logarithms, which is geometric.
    mixed = (student + teacher) / 2
    wrong = (forward_kl(mixed, teacher) + forward_kl(mixed, student)) / 2
    assert not torch.allclose(wrong, expected, rtol=1e-2)


def test_jensen_shannon_with_a_share_is_the_definition() -> None:
    student, teacher = logs()
    for share in (0.1, 0.7):
        mixed = (share * teacher.exp() + (1 - share) * student.exp()).log()
        expected = share * forward_kl(mixed, teacher) + (1 - share) * forward_kl(mixed, student)
        assert torch.allclose(jensen_shannon(student, teacher, share=share), expected, rtol=1e-10)
        # Planted: the weights of the two terms changed over.
        wrong = (1 - share) * forward_kl(mixed, teacher) + share * forward_kl(mixed, student)
        assert not torch.allclose(wrong, expected, rtol=1e-2)


def test_jensen_shannon_over_its_share_goes_to_kl_at_both_ends() -> None:
    student, teacher = logs()
    near = 1e-6
    low, high = (jensen_shannon(student, teacher, share=share) for share in (near, 1 - near))
    assert torch.allclose(low / near, forward_kl(student, teacher), rtol=2e-2)
    assert torch.allclose(high / near, reverse_kl(student, teacher), rtol=2e-2)
    for share, end in ((0.0, forward_kl), (1.0, reverse_kl)):
        assert torch.equal(jensen_shannon(student, teacher, share=share, normalize=True), end(student, teacher))
        assert torch.equal(jensen_shannon(student, teacher, share=share), torch.zeros(5, dtype=torch.float64))


def test_jensen_shannon_is_symmetric_and_bounded_by_log_2() -> None:
    student, teacher = logs(spread=30.0)
    value = jensen_shannon(student, teacher, share=0.5)
    assert torch.allclose(value, jensen_shannon(teacher, student, share=0.5))
    assert bool((value <= math.log(2) + 1e-12).all())
    assert bool((value > 0.5 * math.log(2)).any())


def test_the_ends_of_jensen_shannon_are_refused_where_nothing_would_be_learned() -> None:
    with pytest.raises(SettingError, match="normalize=True"):
        JensenShannon(share=0.0)
    assert JensenShannon(share=0.0, normalize=True).share == 0.0


def test_total_variation_is_the_largest_difference_of_any_event() -> None:
    student, teacher = logs(classes=6)
    events = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
    largest = ((teacher.exp() - student.exp()) @ events.T).max(1).values
    assert torch.allclose(total_variation(student, teacher), largest, rtol=1e-10)
    assert not torch.allclose(2 * total_variation(student, teacher), largest, rtol=1e-2)


def test_jensen_shannon_is_made_of_skewed_divergences() -> None:
    student, teacher = logs()
    for share in (0.1, 0.7):
        forward, reverse = skewed_kl(student, teacher, share=share), skewed_kl(teacher, student, share=1 - share)
        expected = jensen_shannon(student, teacher, share=share)
        assert torch.allclose(share * forward + (1 - share) * reverse, expected, rtol=1e-10)
        assert bool((forward <= -math.log(share)).all())
        # Planted: the share given to the student.
        wrong = share * skewed_kl(student, teacher, share=1 - share) + (1 - share) * reverse
        assert not torch.allclose(wrong, expected, rtol=1e-2)
    assert torch.equal(SkewedForwardKL(share=0.0)(student, teacher), forward_kl(student, teacher))
    assert torch.equal(SkewedReverseKL(share=0.0)(student, teacher), reverse_kl(student, teacher))
    assert torch.equal(skewed_kl(student, teacher, share=1.0), torch.zeros(5, dtype=torch.float64))


def test_renyi_is_the_definition_and_goes_to_kl_at_both_ends() -> None:
    student, teacher = logs()
    for order in (0.3, 2.0, 5.0):
        terms = [a**order * b ** (1 - order) for a, b in zip(teacher.exp().T, student.exp().T, strict=True)]
        expected = torch.stack(terms).sum(0).log() / (order - 1)
        assert torch.allclose(renyi(student, teacher, order=order), expected, rtol=1e-10)
        assert not torch.allclose(renyi(teacher, student, order=order), expected, rtol=1e-2)  # planted: roles changed
    near = 1e-6
    for order in (1 - near, 1 + near):
        assert torch.allclose(renyi(student, teacher, order=order), forward_kl(student, teacher), rtol=1e-4)
    low = renyi(student, teacher, order=near)
    assert torch.allclose(low / near, reverse_kl(student, teacher), rtol=1e-4)
    assert torch.equal(renyi(student, teacher, order=0.0, normalize=True), reverse_kl(student, teacher))
    assert torch.equal(renyi(student, teacher, order=1.0), forward_kl(student, teacher))
    # It never falls with the order.
    values = torch.stack([renyi(student, teacher, order=order) for order in (0.1, 0.5, 0.9, 1.0, 1.5, 4.0)])
    assert bool((values.diff(dim=0) >= 0).all())
    with pytest.raises(SettingError, match="normalize=True"):
        Renyi(order=0.0)


def test_hellinger_is_what_renyi_of_order_a_half_says() -> None:
    student, teacher = logs()
    value = hellinger(student, teacher)
    assert torch.allclose(renyi(student, teacher, order=0.5), -2 * torch.log1p(-value), rtol=1e-10)
    # Le Cam's inequalities.
    variation = total_variation(student, teacher)
    assert bool((value <= variation).all())
    assert bool((variation <= (value * (2 - value)).sqrt() + 1e-12).all())
    assert not torch.allclose(renyi(student, teacher, order=0.5), -torch.log1p(-value), rtol=1e-2)  # planted: no 2


def test_cosine_and_correlation_are_scipys() -> None:
    student, teacher = logs()
    for number in range(5):
        one = slice(number, number + 1)
        s, t = student[number].exp().numpy(), teacher[number].exp().numpy()
        cosine, correlation = scipy.spatial.distance.cosine(s, t), scipy.spatial.distance.correlation(s, t)
        assert float(probability_cosine(student[one], teacher[one])) == pytest.approx(cosine)
        assert float(probability_correlation(student[one], teacher[one])) == pytest.approx(correlation)
        # Planted: the other one, and a sum where the mean over classes belongs.
        assert correlation != pytest.approx(cosine, rel=1e-2)
        assert scipy.spatial.distance.cosine(s - s.sum(), t - t.sum()) != pytest.approx(correlation, rel=0.1)


def test_correlation_does_not_see_scale_and_offset_of_either() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 4, 10, dtype=torch.float64)
    rows, columns = pearson(first, second, dim=1), pearson(first, second, dim=0)
    by_row, by_column = torch.rand(4, 1) + 0.1, torch.rand(1, 10) + 0.1
    assert torch.allclose(pearson(by_row * first + by_row, second, dim=1), rows)
    assert torch.allclose(pearson(first, by_column * second - by_column, dim=0), columns)
    assert not torch.allclose(pearson(by_column * first, second, dim=1), rows)
    assert torch.allclose(
        rows, torch.stack([torch.corrcoef(torch.stack(p))[0, 1] for p in zip(first, second, strict=True)])
    )


def test_top_classes_with_a_rest_never_say_more_than_all_classes_and_all_say_all() -> None:
    student, teacher = logs(classes=7)
    dense = forward_kl(student, teacher)
    values = torch.stack([TopClasses(count=count)(student, teacher) for count in range(1, 8)])
    assert bool((values.diff(dim=0) >= -1e-12).all())  # the data-processing inequality
    assert torch.equal(values[-1], dense)
    assert torch.equal(TopClasses(count=7, rest=False)(student, teacher), dense)
    order = teacher.argsort(1, descending=True)
    coarse = [log.exp().gather(1, order) for log in (student, teacher)]
    coarse = [torch.cat([p[:, :3], p[:, 3:].sum(1, keepdim=True)], 1).log() for p in coarse]
    assert torch.allclose(values[2], forward_kl(*coarse))
    kept = [log.gather(1, order[:, :3]).log_softmax(1) for log in (student, teacher)]
    assert torch.allclose(TopClasses(count=3, rest=False)(student, teacher), forward_kl(*kept))
    # Planted: the student's own top classes; the kept ones not made to sum to one.
    own = student.argsort(1, descending=True)[:, :3]
    wrong = forward_kl(student.gather(1, own), teacher.gather(1, own))
    assert not torch.allclose(wrong, values[2], rtol=1e-2)
    assert not torch.allclose(
        TopClasses(count=3, rest=False)(student, teacher),
        forward_kl(*(log.gather(1, order[:, :3]) for log in (student, teacher))),
        rtol=1e-2,
    )
    for restricted in top_classes(student, teacher, count=3):
        assert torch.allclose(restricted.exp().sum(1), torch.ones(5, dtype=torch.float64))


def test_at_a_high_temperature_soft_targets_match_logits() -> None:
    """T^2 KL goes to the variance of the difference of logits over 2: the second identity of Hinton et al."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 10, dtype=torch.float64)
    difference = student - teacher
    expected = (difference - difference.mean(1, keepdim=True)).square().sum(1) / (2 * 10)
    student.requires_grad_()
    loss = SoftTargets(temperature=1e3)(student, teacher)
    assert torch.allclose(loss, expected, rtol=1e-2)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    centred = difference - difference.mean(1, keepdim=True)
    assert torch.allclose(gradient, centred / 10, rtol=1e-2, atol=1e-4)
    # Planted: without T^2 nothing is left, and with it twice nothing else matters.
    assert SoftTargets(temperature=1e3, scale_by_temperature=False)(student, teacher).max() < 1e-4


def test_soft_targets_are_the_divergence_of_the_softened_softmax() -> None:
    torch.manual_seed(0)
    student, teacher = 5 * torch.randn(2, 4, 10, dtype=torch.float64)
    expected = 9 * F.kl_div(
        (student / 3).log_softmax(1), (teacher / 3).log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    assert torch.allclose(SoftTargets(temperature=3.0, divergence=ForwardKL())(student, teacher), expected)
    # Planted: the softmax of probabilities instead of logits.
    wrong = SoftTargets(temperature=3.0)(student.softmax(1), teacher.softmax(1))
    assert not torch.allclose(wrong, expected, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_wide(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student, teacher = (25 * torch.randn(2, 64, 100)).to(dtype)
    exact = SoftTargets()(student.double(), teacher.double())
    loss = SoftTargets()(student, teacher)
    assert loss.dtype == dtype
    assert torch.allclose(loss.double(), exact, rtol=float(torch.finfo(dtype).eps), atol=0)
