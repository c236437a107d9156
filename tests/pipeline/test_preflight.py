"""Every step is rehearsed before a run: what can fail fails there, and nothing in it takes long."""

import functools
from typing import Any

import pytest
import torch

from lessen.core import Data, Operation
from lessen.core.errors import PlanError, SettingError
from lessen.data import Digits
from lessen.graph import Fit
from lessen.operations import AdaRound, ExactObs, Knapsack, PruneByReconstruction, PruneChannels, Quantize
from lessen.pipeline import Measuring, preflight
from lessen.pipeline.job import Job
from lessen.pipeline.steps import context_for
from lessen.schemes import supervised
from lessen.zoo import residual

SEARCHED = PruneChannels(multiply_adds=0.5, refit=True, allocation=Knapsack(candidates=6, steps=8))


@functools.cache
def digits() -> Data:
    return Digits().load()


def rehearse(step: Operation, **more: Any) -> None:
    preflight(Job(teacher=residual(width=4, depth=8), data=digits(), steps=(step,), measuring=Measuring(**more)))


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each step of Adam."""
    steps: list[int] = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *rest: Any) -> Any:
        steps.append(1)
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    return steps


def test_what_searches_is_rehearsed_with_few_steps(learned: list[int]) -> None:
    rehearse(SEARCHED)
    assert 0 < len(learned) <= 20  # three rates for the first network, one for each start
    rehearsed = len(learned)
    context = context_for(digits(), count=128, device=torch.device("cpu"), seed=0)
    SEARCHED.plan(residual(width=4, depth=8), context)
    assert len(learned) - rehearsed > 3 * rehearsed  # in earnest it is much more


def test_what_learns_is_rehearsed_with_one_step_a_layer(learned: list[int]) -> None:
    rehearse(Quantize(weight_bits=4, rounding=AdaRound(steps=400)))
    layers = sum(
        isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in residual(width=4, depth=8).modules()
    )
    assert len(learned) == layers


def test_reconstruction_is_rehearsed_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    prune = ExactObs.prune
    monkeypatch.setattr(ExactObs, "prune", lambda *given: called.append("exact") or prune(*given))
    step = PruneByReconstruction(keep=0.8, method=ExactObs())
    rehearse(step)
    assert not called
    step.plan(residual(width=4, depth=8), context_for(digits(), count=32, device=torch.device("cpu"), seed=0))
    assert called


def test_what_will_fail_for_want_of_examples_fails_at_once() -> None:
    with pytest.raises(PlanError, match=r"In step 1 \(PruneChannels\).*one batch only"):
        rehearse(SEARCHED, calibration=64)
    with pytest.raises(PlanError, match=r"Keeping 0.0001 of the weights"):
        rehearse(PruneByReconstruction(keep=0.0001, method=ExactObs()))


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        (Fit(batch=1), r"one example at a time.*Increase the batch"),
        (Fit(batch=16, accumulate=16), r"one example at a time.*fewer parts"),
        (Fit(batch=500, accumulate=100), r"80 training examples are too few for 100 parts"),
        (Fit(batch=16, accumulate=3), r"Make it a multiple of 3"),
    ],
)
@pytest.mark.parametrize("where", ["steps", "train"])
def test_batches_that_no_step_can_compute_are_refused(where: str, fit: Fit, says: str, job: Any) -> None:
    with pytest.raises(SettingError, match=says):
        preflight(Job.of(**job(**{"steps": [], where: [supervised(epochs=1, fit=fit)]})))


def test_one_example_at_a_time_is_fine_where_nothing_is_normalised(job: Any) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
    preflight(Job.of(**job(teacher=network, steps=[supervised(epochs=1, fit=Fit(batch=1))])))
