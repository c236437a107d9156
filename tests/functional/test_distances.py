"""Distances against NumPy and SciPy, one example at a time."""

import numpy as np
import pytest
import scipy.spatial.distance
import torch

from lessen.functional import cosine, euclidean, mean_absolute, mean_squared


def test_they_are_what_their_names_say() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for number in range(5):
        a, b = student[number].numpy().ravel(), teacher[number].numpy().ravel()
        one = slice(number, number + 1)
        assert float(mean_squared(student[one], teacher[one])) == pytest.approx(np.mean((a - b) ** 2))
        assert float(mean_absolute(student[one], teacher[one])) == pytest.approx(np.mean(np.abs(a - b)))
        assert float(euclidean(student[one], teacher[one])) == pytest.approx(np.linalg.norm(a - b))
        assert float(cosine(student[one], teacher[one])) == pytest.approx(scipy.spatial.distance.cosine(a, b))
        # Planted: sums where means are, a squared length where a length is.
        assert np.sum((a - b) ** 2) != pytest.approx(np.mean((a - b) ** 2))
        assert float(euclidean(student[one], teacher[one])) != pytest.approx(np.sum((a - b) ** 2))


def test_the_gradient_at_zero_distance_is_zero_not_nan() -> None:
    point = torch.zeros(2, 3, requires_grad=True)
    for distance in (mean_squared, mean_absolute, euclidean, cosine):
        (gradient,) = torch.autograd.grad(distance(point, torch.zeros(2, 3)).sum(), point)
        assert torch.equal(gradient, torch.zeros(2, 3)), distance.__name__


def test_numbers_are_examples_of_one() -> None:
    assert torch.equal(mean_squared(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])), torch.tensor([1.0, 4.0]))
