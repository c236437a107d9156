"""The digits are those of scikit-learn, which is not imported for them."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lessen.data import Digits, digits


def test_the_rows_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = load_digits(return_X_y=True)
    read = digits._rows()
    np.testing.assert_array_equal(read, np.column_stack([images, labels]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # a version that keeps them elsewhere
    np.testing.assert_array_equal(digits._rows(), read)


def test_scikit_learn_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Digits().load()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    again = Digits().load()
    assert torch.equal(whole.example(), again.example())
