"""A small job: a perceptron, an operation and a scheme, no files to deploy; less than a second."""

from collections.abc import Callable
from typing import Any

import pytest

from lessen.deploy import Deploy
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import Measuring, walk
from lessen.schemes import offline
from lessen.testing.tasks import clusters, perceptron


class Stop(Exception):
    """What stops a run, as a kill would, without taking the test with it."""


@pytest.fixture
def job() -> Callable[..., dict[str, Any]]:
    """The arguments of `compress`, all but the folder, with some changed."""

    def arguments(**changes: Any) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "teacher": perceptron(8, seed=0),
            "data": clusters(),
            "steps": [
                PruneWeights(keep=0.5),
                offline(SoftTargets(temperature=4.0), epochs=1, fit=Fit(batch=16)),
            ],
            "deploy": Deploy(runtimes=()),
            "measuring": Measuring(repeats=6, calibration=32),
            "progress": False,
        }
        return plain | changes

    return arguments


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Exception]]:
    """Let a function that the walk uses fail at its n-th call from now."""

    def stop(name: str, call: int = 1) -> type[Exception]:
        kept, calls = getattr(walk, name), []

        def stopped(*args: Any, **more: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                raise Stop
            return kept(*args, **more)

        monkeypatch.setattr(walk, name, stopped)
        return Stop

    return stop
