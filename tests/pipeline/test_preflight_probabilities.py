"""A network that ends in softmax or sigmoid is noticed before it is taught with losses that expect logits."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lessen.data import load
from lessen.measure.task import returns_probabilities, with_task
from lessen.operations import PruneChannels
from lessen.pipeline import preflight
from lessen.pipeline.job import Job
from lessen.schemes import offline
from lessen.testing.tasks import clusters, perceptron

X = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
YES = torch.randint(0, 2, (64, 5), generator=torch.Generator().manual_seed(1)).float()
CASES: dict[str, tuple[nn.Module, torch.Tensor, nn.Module]] = {
    "classes": (nn.Linear(48, 5), torch.arange(64) % 5, nn.Softmax(1)),
    "several labels": (nn.Linear(48, 5), YES, nn.Sigmoid()),
    "yes or no": (nn.Linear(48, 1), YES[:, :1], nn.Sigmoid()),
    "maps": (nn.Sequential(nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 4, 1)), X.argmax(1), nn.Softmax(1)),
}


@pytest.mark.parametrize("name", CASES)
def test_probabilities_are_told_from_logits(name: str) -> None:
    torch.manual_seed(0)
    layer, labels, last = CASES[name]
    network = nn.Sequential(nn.Flatten(), layer)
    data = with_task(load((X, labels)), network)
    assert returns_probabilities(data, network) is None
    said = returns_probabilities(data, nn.Sequential(network, last))
    assert said is not None
    assert type(last).__name__.lower() in said


def test_numbers_between_0_and_1_are_numbers() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Sigmoid())
    data = with_task(load((X, torch.rand(64, 1))), network)
    assert returns_probabilities(data, network) is None


def test_it_is_said_before_training_only() -> None:
    def check(*steps: Any) -> None:
        preflight(Job.of(teacher=nn.Sequential(perceptron(8, seed=0), nn.Softmax(1)), data=clusters(), steps=steps))

    with pytest.warns(UserWarning, match=r"The network seems to return probabilities: .* without its last softmax"):
        check(PruneChannels(), offline(epochs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(PruneChannels())
