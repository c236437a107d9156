"""MNIST-1D: the transformations against a slow reading of the paper, and how hard the data is."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import RidgeClassifier

from lessen.core.errors import DataError
from lessen.data import Mnist1d, load
from lessen.data.mnist1d import BLUR, PADDING, POINTS, SAMPLES, SHIFTS, signals, templates


def slowly(shape: np.ndarray, drawn: dict[str, np.ndarray], number: int) -> np.ndarray:
    """One example, step by step: pad, stretch, size, shift, noise, shear, sample."""
    zeros, size, shift, slope, around, everywhere = (value[number] for value in drawn.values())
    padded = np.concatenate([shape + 1e-9, np.zeros(zeros)])
    whole = len(around)
    x = np.interp(np.linspace(0, 1, whole), np.linspace(0, 1, len(padded)), padded) * size
    x = np.roll(x, shift)
    x = np.where(x != 0, x, gaussian_filter(around, BLUR)) + everywhere
    x = x - slope * np.linspace(-0.5, 0.5, whole)
    return np.interp(np.linspace(0, 1, SAMPLES), np.linspace(0, 1, whole), x)


def test_all_examples_at_once_are_those_made_one_by_one() -> None:
    rng = np.random.default_rng(0)
    count, points = 60, POINTS + PADDING[1]
    drawn = {
        "zeros_N": np.resize(np.arange(PADDING[0], PADDING[1] + 1), count),
        "sizes_N": rng.uniform(0.8, 1.2, count),
        "shifts_N": np.resize(np.arange(SHIFTS), count),
        "slopes_N": rng.uniform(-0.4, 0.4, count),
        "around_NP": rng.normal(size=(count, points)),
        "everywhere_NP": rng.normal(size=(count, points)),
    }
    shapes = templates()[np.arange(count) % 10]
    found = signals(shapes, **drawn)
    assert found.shape == (count, SAMPLES)
    for number in range(count):
        wanted = slowly(shapes[number], drawn, number)
        np.testing.assert_allclose(found[number], wanted, atol=1e-7)


def test_the_templates_begin_at_zero_and_have_one_spread() -> None:
    assert np.array_equal(templates()[:, 0], np.zeros(10))
    np.testing.assert_allclose(templates().std(1), 1 / 6)


def test_the_splits_are_even_and_standardised_and_the_test_split_stays() -> None:
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = load("mnist1d")
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)
    data.check()
    assert (len(data.train), len(data.validation), len(data.test)) == (3500, 500, 1000)
    assert data.train.inputs.shape == (3500, 1, 40)
    assert data.train.inputs.dtype == torch.float32
    assert data.train.inputs.mean().abs() < 1e-4
    assert data.train.inputs.std() == pytest.approx(1, abs=1e-4)
    for split in (data.train, data.validation, data.test):
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10
    again, other, drawn = Mnist1d().load(), Mnist1d(seed=1).load(), Mnist1d(drawn=1).load()
    assert torch.equal(data.train.inputs, again.train.inputs)
    assert torch.equal(data.test.labels, other.test.labels)
    torch.testing.assert_close(data.test.inputs, other.test.inputs, atol=0.05, rtol=0.05)  # other statistics
    assert not torch.equal(data.validation.labels, other.validation.labels)
    assert not torch.equal(data.test.labels, drawn.test.labels)
    with pytest.raises(DataError, match="cut a validation split of 50 from 50"):
        Mnist1d(train=50, validation=50).load()


def test_a_linear_model_is_better_than_chance_and_far_from_right() -> None:
    data = load("mnist1d")
    ridge = RidgeClassifier().fit(data.train.inputs[:, 0].numpy(), data.train.labels.numpy())
    assert 0.20 < ridge.score(data.test.inputs[:, 0].numpy(), data.test.labels.numpy()) < 0.35
