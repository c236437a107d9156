"""A search that is stopped goes on from the last candidate that it judged, and ends with the same bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lessen
from lessen.core import Times
from lessen.core.errors import RunError
from lessen.engine.trials import KeptClock, KeptTrials
from lessen.operations import Knapsack, Mixed, PruneChannels, Quantize
from lessen.operations.prune_channels import judge
from lessen.operations.quantize import mixed
from lessen.pipeline import Measuring, RunFolder, walk
from lessen.testing.tasks import clusters, perceptron

Job = Callable[..., dict[str, Any]]


class Stop(Exception):
    """What stops a search, as a kill would, without taking the test with it."""


class Ticks:
    """A clock that says other times whenever it is asked, as clocks do."""

    asked = 0

    def __init__(self, **given: Any) -> None:
        pass

    def times(self, networks: Any, inputs: Any) -> Times:
        Ticks.asked += 1
        sizes = [sum(value.numel() for value in network.state_dict().values()) for network in networks]
        return Times(milliseconds=tuple(size * (1 + 0.01 * (Ticks.asked % 7)) + Ticks.asked % 3 for size in sizes))

    def says(self) -> str:
        return "ticks"


@pytest.fixture
def searched(job: Job) -> Job:
    """The arguments of a run with a search of a dozen candidates, each trained for two steps."""

    def arguments(**target: Any) -> dict[str, Any]:
        prune = PruneChannels(allocation=Knapsack(candidates=12, steps=2), **(target or {"parameters": 0.5}))
        return job(
            teacher=perceptron(24, seed=0),
            data=clusters(train=256),
            steps=[prune],
            measuring=Measuring(repeats=6, calibration=256),
        )

    return arguments


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Look at the candidates that are trained from now on in a run; stop before one of them."""
    real = judge.trained_loss

    def look(stop: int | None = None) -> list[float]:
        losses: list[float] = []

        def watched(network: nn.Module, context: Any, *given: Any) -> float:
            if context.rehearsal:
                return real(network, context, *given)
            if stop is not None and len(losses) == stop:
                raise Stop
            losses.append(real(network, context, *given))
            return losses[-1]

        monkeypatch.setattr(judge, "trained_loss", watched)
        return losses

    return look


def ends(run: Path) -> tuple[bytes, bytes]:
    folder = RunFolder(run)
    return folder.weights.read_bytes(), folder.plan.read_bytes() + folder.layers.read_bytes()


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_search_that_was_stopped_judges_the_rest_only(
    stop: int, searched: Job, trained: Callable[..., list[float]], tmp_path: Path
) -> None:
    whole = trained()
    lessen.compress(run=tmp_path / "whole", **searched())
    first = trained(stop)
    with pytest.raises(Stop):
        lessen.compress(run=tmp_path / "run", **searched())
    assert RunFolder(tmp_path / "run").trials(1).exists()
    rest = trained()
    lessen.resume(tmp_path / "run", **searched())
    assert len(whole) > 9
    assert first + rest == whole
    assert ends(tmp_path / "run") == ends(tmp_path / "whole")
    assert not RunFolder(tmp_path / "run").trials(1).exists(), "a finished run keeps none"


def test_times_are_those_that_it_has_decided_on(
    searched: Job, trained: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(walk, "FileClock", Ticks)
    asked = []
    for stop in (None, 5):
        Ticks.asked = 0
        run = tmp_path / str(stop)
        losses = trained(stop)
        if stop is None:
            lessen.compress(run=run, **searched(time=0.6))
        else:
            with pytest.raises(Stop):
                lessen.compress(run=run, **searched(time=0.6))
            assert Ticks.asked > 3
            assert len(losses) == stop
            trained()
            lessen.resume(run, **searched(time=0.6))
        asked.append(Ticks.asked)
    assert asked[0] == asked[1]
    assert ends(tmp_path / "None") == ends(tmp_path / "5")


def test_a_search_for_bits_goes_on_from_the_last_layer(
    monkeypatch: pytest.MonkeyPatch, job: Job, tmp_path: Path
) -> None:
    """Five widths of three layers; one batch, so one comparison each."""
    real, done = mixed.distance, 0

    def compared(*given: Any) -> torch.Tensor:
        nonlocal done
        if done == stop:
            raise Stop
        done += 1
        return real(*given)

    monkeypatch.setattr(mixed, "distance", compared)
    steps = [Quantize(weight_bits=Mixed(average=5))]
    stop = 1000
    lessen.compress(run=tmp_path / "whole", **job(steps=steps))
    whole, done = done, 0
    stop = whole - 7  # the dry run, and eight of the fifteen
    with pytest.raises(Stop):
        lessen.compress(run=tmp_path / "run", **job(steps=steps))
    assert len(KeptTrials(RunFolder(tmp_path / "run").trials(1))) == 8
    stop, done = 1000, 0
    lessen.resume(tmp_path / "run", **job(steps=steps))
    assert (whole, done) == (30, 7)
    assert ends(tmp_path / "run") == ends(tmp_path / "whole")


def test_a_damaged_file_of_trials_is_named(searched: Job, trained: Callable[..., list[float]], tmp_path: Path) -> None:
    trained(4)
    with pytest.raises(Stop):
        lessen.compress(run=tmp_path / "run", **searched())
    trained()
    file = RunFolder(tmp_path / "run").trials(1)
    kept = json.loads(file.read_text())
    kept["content"]["rows"][2]["answer"] = "0.0"
    file.write_text(json.dumps(kept))
    with pytest.raises(RunError, match=r"trials\.json is damaged.*Remove it and resume the run"):
        lessen.resume(tmp_path / "run", **searched())
    file.unlink()
    lessen.resume(tmp_path / "run", **searched())


def test_answers_are_stored_bit_for_bit_and_dropped_from_another_question_on(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"

    def asked(*questions: Any) -> tuple[list[Any], list[Any]]:
        trials, computed = KeptTrials(path), []

        def answer(question: Any) -> Any:
            computed.append(question)
            return [question, 0.1 + len(computed)]

        return [trials.recall(q, lambda q=q: answer(q)) for q in questions], computed

    said, computed = asked({"a": 1, "b": 2}, "two", 3.5)
    assert computed == [{"a": 1, "b": 2}, "two", 3.5]
    assert asked({"b": 2, "a": 1}, "two", 3.5) == (said, [])
    assert asked({"a": 1, "b": 2}, "other", 3.5)[1] == ["other", 3.5]
    assert asked({"a": 1, "b": 2}, "two")[1] == ["two"]
    assert len(KeptTrials(path)) == 2


def test_a_clock_is_asked_again_for_other_networks(tmp_path: Path) -> None:
    Ticks.asked = 0
    found = []
    for widths in ((8, 4), (8, 4), (8, 5)):
        clock = KeptClock(Ticks(), KeptTrials(tmp_path / "trials.json"))
        found.append(clock.times([nn.Linear(width, 2) for width in widths], torch.ones(1, 8)))
    assert found[0] == found[1]
    assert Ticks.asked == 2
