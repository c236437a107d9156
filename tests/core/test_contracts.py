"""What an operation may look at is looked at first: calibration of the wrong kind is an error before anything runs."""

import pytest
import torch
from torch.nn import functional as F

from lessen.core import Batch, Context, Inputs
from lessen.core.errors import DataError

IMAGES = torch.rand(4, 3, 8, 8)
INDEX = torch.tensor([7, 8, 9, 10])


def test_what_fits_passes() -> None:
    Context(inputs=IMAGES[:2], calibration=[Batch(torch.rand(4, 3, 16, 16), INDEX)])  # images of another size
    Context(inputs=torch.rand(2, 5, 32), calibration=[Batch(torch.rand(4, 9, 32), INDEX)])  # of another length
    Context(inputs=torch.rand(2, 1, 800), calibration=[Batch(torch.rand(4, 1, 900), INDEX)])
    Context(inputs={"ids": torch.ones(2, 5).long()}, calibration=[Batch({"ids": torch.ones(4, 9).long()}, INDEX)])


@pytest.mark.parametrize(
    ("inputs", "given", "says"),
    [
        (
            IMAGES,
            IMAGES[:, :1],
            r"input of calibration batch 0 is .* of shape \(4, 1, 8, 8\).*\(4, 3, 8, 8\)",
        ),
        (IMAGES, IMAGES.flatten(1), r"shape \(4, 192\)"),
        (IMAGES, (255 * IMAGES).byte(), "torch.uint8"),
        (torch.rand(2, 6), torch.rand(4, 7), r"shape \(4, 7\)"),
        (torch.rand(2, 5, 32), torch.rand(4, 6, 31), r"shape \(4, 6, 31\)"),
        ((IMAGES, IMAGES), (IMAGES,), "are input 0, but the example inputs are input 0, input 1"),
        ({"ids": INDEX[:, None]}, {"mask": INDEX[:, None]}, "are mask, but the example inputs are ids"),
    ],
)
def test_what_does_not_is_named(inputs: Inputs, given: Inputs, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Context(inputs=inputs, calibration=[Batch(given, INDEX)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(value: float) -> None:
    spoiled = IMAGES.clone()
    spoiled[2, 1, 3, 3] = value
    with pytest.raises(DataError, match="NaN or infinity in the inputs of calibration batch 1, in example 9"):
        Context(inputs=IMAGES, calibration=[Batch(IMAGES, INDEX), Batch(spoiled, INDEX)])


def test_labels_must_be_classes_that_the_network_knows() -> None:
    context = Context(inputs=IMAGES, loss=lambda out, labels: F.cross_entropy(out, labels, reduction="none"))
    assert context.losses(torch.zeros(2, 5), torch.tensor([0, -100])).shape == (2,)
    for label in (5, -1):
        with pytest.raises(DataError, match=f"has the label {label}, but the network has 5 classes"):
            context.losses(torch.zeros(2, 5), torch.tensor([0, label]))
    with pytest.raises(DataError, match="the context has none"):
        Context(inputs=IMAGES).losses(torch.zeros(2, 5), torch.tensor([0, 1]))
