"""Figures of quality against scikit-learn, scipy and counting by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import rel_entr, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss
from sklearn.metrics import mean_squared_error as sklearn_mse
from torch import Tensor

from lessen.core.errors import DataError, ShapeError
from lessen.measure import (
    accuracy,
    accuracy_change,
    agreement,
    calibration_error,
    kl_to_teacher,
    mean_squared_error,
    nll,
)


@pytest.fixture(scope="module")
def case() -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels of 400 examples and 6 classes."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (400,), generator=source)
    truth = torch.nn.functional.one_hot(labels, 6).float()
    teacher = 4 * truth + 1.5 * torch.randn(400, 6, generator=source)
    return teacher + torch.randn(400, 6, generator=source), teacher, labels


def check_accuracy(function, case) -> None:
    logits, _, labels = case
    found = function(logits, labels)
    share = accuracy_score(labels, logits.argmax(1))
    assert found.value == pytest.approx(100 * share)
    assert found.low < 100 * share < found.high
    oracle = stats.binomtest(round(share * 400), 400).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((100 * oracle.low, 100 * oracle.high))


def check_nll(function, case) -> None:
    logits, _, labels = case
    assert function(logits, labels).value == pytest.approx(
        log_loss(labels, softmax(logits.double().numpy(), 1)), rel=1e-9
    )


def sklearn_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """From scikit-learn's reliability curve and the bins' counts."""
    probability = softmax(logits.double().numpy(), 1)
    confidence, right = probability.max(1), (probability.argmax(1) == labels.numpy()).astype(float)
    true, predicted = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    counts = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    return 100 * float(np.sum(np.abs(true - predicted) * counts[counts > 0]) / counts.sum())


def check_calibration(function, case) -> None:
    logits, _, labels = case
    found = function(logits, labels)
    assert found.value == pytest.approx(sklearn_calibration_error(logits, labels), rel=1e-9)
    assert 0 <= found.low <= found.value <= found.high


def check_kl(function, case) -> None:
    student, teacher, _ = (part.double().numpy() for part in case)
    assert function(*case[:2]).value == pytest.approx(rel_entr(softmax(teacher, 1), softmax(student, 1)).sum(1).mean())


def check_agreement(function, case) -> None:
    student, teacher, _ = case
    assert function(student, teacher).value == pytest.approx(100 * accuracy_score(teacher.argmax(1), student.argmax(1)))


CHECKS = {
    "accuracy": (check_accuracy, accuracy),
    "nll": (check_nll, nll),
    "calibration_error": (check_calibration, calibration_error),
    "kl_to_teacher": (check_kl, kl_to_teacher),
    "agreement": (check_agreement, agreement),
}
PLANTED = {
    "accuracy": lambda logits, labels: accuracy(-logits, labels),
    "nll": lambda logits, labels: nll(logits / 1.01, labels),
    "calibration_error": lambda logits, labels: calibration_error(logits, labels, bins=10),
    "kl_to_teacher": lambda student, teacher: kl_to_teacher(teacher, student),
    "agreement": lambda student, teacher: agreement(student.roll(1, 0), teacher),
}


@pytest.mark.parametrize("name", CHECKS)
def test_figure_is_the_oracles(name: str, case) -> None:
    check, function = CHECKS[name]
    check(function, case)


@pytest.mark.parametrize("name", CHECKS)
def test_a_planted_error_is_found(name: str, case) -> None:
    with pytest.raises(AssertionError):
        CHECKS[name][0](PLANTED[name], case)


def test_sure_and_wrong_is_a_calibration_error_of_one_hundred() -> None:
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert calibration_error(logits, torch.tensor([1, 1])).value == pytest.approx(100)
    assert calibration_error(logits, torch.tensor([0, 0])).value == pytest.approx(0, abs=1e-9)


def test_calibration_interval_holds_a_known_error() -> None:
    # Confidence is always 0.9, right 70 times in 100: the error is 20 points by construction.
    logits = torch.tensor([[math.log(9.0), 0.0]]).repeat(300, 1)
    source = torch.Generator().manual_seed(0)
    held = []
    for _ in range(100):
        labels = (torch.rand(300, generator=source) > 0.7).long()
        found = calibration_error(logits, labels, draws=100)
        held.append(found.low <= 20 <= found.high)
    assert sum(held) >= 88


def test_kl_of_a_ruled_out_class_is_finite_and_of_equals_is_zero() -> None:
    teacher = torch.tensor([[0.0, 0.0, -math.inf], [1e4, 0.0, 0.0]])
    assert kl_to_teacher(teacher, teacher).value == 0
    assert kl_to_teacher(torch.zeros(2, 3), teacher).value == pytest.approx((math.log(1.5) + math.log(3)) / 2)


def by_hand_change(case) -> tuple[float, float, float]:
    """Agresti & Min's interval from the two-by-two table with half an example more in each cell."""
    student, teacher = (logits.argmax(1) == case[2] for logits in case[:2])
    table = np.array([[(student & teacher).sum(), (student & ~teacher).sum()],
                      [(~student & teacher).sum(), (~student & ~teacher).sum()]]) + 0.5  # fmt: skip
    share = table / table.sum()
    b, c = share[0, 1], share[1, 0]
    half = stats.norm.ppf(0.975) * math.sqrt((b + c - (b - c) ** 2) / table.sum())
    return 100 * float(student.float().mean() - teacher.float().mean()), 100 * (b - c - half), 100 * (b - c + half)


def check_change(function, case) -> None:
    found = function(*case)
    assert (found.value, found.low, found.high) == pytest.approx(by_hand_change(case), rel=1e-5)


def test_accuracy_change_is_paired(case) -> None:
    check_change(accuracy_change, case)
    alone = accuracy(case[0], case[2])
    found = accuracy_change(*case)
    assert found.high - found.low < 1.42 * (alone.high - alone.low)


def test_the_wrong_sign_of_change_is_found(case) -> None:
    with pytest.raises(AssertionError):
        check_change(lambda student, teacher, labels: accuracy_change(teacher, student, labels), case)


def test_no_difference_still_has_an_interval(case) -> None:
    found = accuracy_change(case[1], case[1], case[2])
    assert found.value == 0
    assert found.low < 0 < found.high


def check_mse(function) -> None:
    values, labels = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(50, 3)
    assert function(values, labels).value == pytest.approx(sklearn_mse(labels, values), rel=1e-6)


def test_mean_squared_error_is_sklearns() -> None:
    check_mse(mean_squared_error)
    assert mean_squared_error(torch.ones(4, 1), torch.zeros(4)).value == 1


def test_a_sum_instead_of_a_mean_is_found() -> None:
    with pytest.raises(AssertionError):
        check_mse(lambda values, labels: mean_squared_error(values * 3**0.5, labels * 3**0.5))


@pytest.mark.parametrize(
    ("values", "labels"), [((4, 3), (4,)), ((4,), (4, 4)), ((3, 4), (4, 3)), ((6, 2), (4, 3)), ((4, 2, 6), (4, 3, 4))]
)
def test_predictions_of_another_shape_are_refused(values, labels) -> None:
    with pytest.raises(ShapeError, match=r"expected the same shape") as error:
        mean_squared_error(torch.zeros(values), torch.zeros(labels))
    assert str(values) in str(error.value)
    assert str(labels) in str(error.value)


@pytest.mark.parametrize("function", [accuracy, nll, calibration_error])
def test_labels_that_do_not_fit_are_refused(function) -> None:
    with pytest.raises(ShapeError, match=r"\(3, 2\).*\(4,\)"):
        function(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(DataError, match="from 0 to 2, but the network has 2 classes"):
        function(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(DataError, match="integers"):
        function(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(DataError, match="no examples"):
        function(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("function", [agreement, kl_to_teacher])
def test_logits_of_two_shapes_are_refused(function) -> None:
    with pytest.raises(ShapeError, match=r"\(3, 2\).*\(3, 4\)"):
        function(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(DataError, match="no examples"):
        function(torch.zeros(0, 2), torch.zeros(0, 2))
