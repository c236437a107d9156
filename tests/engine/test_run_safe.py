"""A stage that goes wrong: it keeps what it was given, says so, and goes on more calmly after a divergence."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lessen.core import ArrayExamples, Data
from lessen.core.errors import DataError, DivergedError
from lessen.core.files import read_lines
from lessen.engine import Course, run
from lessen.graph import (
    SGD,
    Adam,
    Average,
    Constant,
    Cosine,
    Fit,
    Gradual,
    Stage,
)
from lessen.knowledge import Hint, Regression, SoftTargets
from lessen.schemes import Mutual, Offline, SelfSnapshot, Supervised, at, supervised
from lessen.testing.tasks import clusters, perceptron

WILD = Fit(batch=16, optimizer=SGD(rate=40.0, momentum=0.0), schedule=Constant(), clip=None)


def learnt(seed: int = 0) -> nn.Sequential:
    network = perceptron(16, seed=seed)
    run(
        Supervised(epochs=6, fit=Fit(batch=16, optimizer=Adam(rate=0.01), schedule=Cosine())).stages(
            {"student": network}
        ),
        clusters(),
        device="cpu",
        progress=False,
    )
    return network


def accuracy(network: nn.Module) -> float:
    part = clusters().validation
    return float((network.eval()(part.inputs).argmax(1) == part.labels).float().mean() * 100)


def go(stages: list[Stage], data: Data | None = None, **more: Any) -> Any:
    return run(stages, data or clusters(), **{"device": "cpu", "progress": False, **more})


# The state before the first step


def test_a_stage_that_ruins_a_network_gives_back_what_came_in_and_says_so(tmp_path: Path, capsys: Any) -> None:
    network = learnt()
    before, was = {name: value.clone() for name, value in network.state_dict().items()}, accuracy(network)
    history = go(Supervised(epochs=2, fit=WILD).stages({"student": network}), folder=tmp_path, progress=True)
    after = [row["figures"]["student"]["accuracy"] for row in history.validations]
    assert after[0] == pytest.approx(was)
    assert after[-1] < was - 10
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    (warning,) = history.warnings
    says = warning["says"]
    assert "Stage 'supervised' made 'student' no better" in says
    assert f"was {was:.2f} % before its first step and {after[-1]:.2f} % after its last" in says
    assert "the training loss rose from" in says
    assert "SGD(rate=4), now 40" in says
    assert "Fit(clip=1.0)" in says
    assert warning in read_lines(tmp_path / "log.jsonl")
    assert " ".join(says.split()) in " ".join(capsys.readouterr().err.split())


def test_without_keep_best_the_worse_state_stays_and_the_sentence_is_louder() -> None:
    network = learnt()
    was = accuracy(network)
    history = go(Supervised(epochs=2, fit=dataclasses.replace(WILD, keep_best=False)).stages({"student": network}))
    (warning,) = history.warnings
    assert "ended worse than it began" in warning["says"]
    assert "Fit(keep_best=True)" in warning["says"]
    assert f"{was:.2f} %" in warning["says"]
    assert f"{accuracy(network):.2f} %" in warning["says"]


def test_a_stage_that_helps_says_nothing_and_so_does_one_that_trains_the_middle() -> None:
    fit = Fit(batch=16, optimizer=Adam(rate=0.01))
    assert not go(Supervised(epochs=3, fit=fit).stages({"student": perceptron(16, seed=1)})).warnings
    teacher, student = learnt(), learnt(1)
    before = accuracy(student)
    hints = Offline(
        knowledge=(at("layer2", Hint()),), labels=0.0, epochs=3, fit=dataclasses.replace(fit, optimizer=SGD(rate=1.0))
    )
    history = go(hints.stages({"teacher": teacher, "student": student}))
    assert accuracy(student) < before  # the head was not trained for it, and that is no reason to undo the hints
    assert not history.warnings


@pytest.mark.parametrize("scheme", [Mutual, SelfSnapshot], ids=lambda scheme: scheme.__name__)
def test_every_network_of_a_stage_is_judged_for_itself(scheme: Any) -> None:
    networks = [learnt(seed) for seed in (0, 1)]
    before = [accuracy(network) for network in networks]
    cast = {"students": networks, "student": networks[0]}
    learning = networks if scheme is Mutual else networks[:1]
    history = go(scheme(epochs=1, fit=WILD).stages(cast))
    assert len(history.warnings) == len(learning)
    assert [accuracy(network) for network in learning] == before[: len(learning)]


def test_pruning_while_training_is_named_as_the_cause() -> None:
    network = learnt()
    fit = Fit(batch=16, optimizer=SGD(rate=1e-4), sparsify=Gradual(keep=0.02))
    (warning,) = go(Supervised(epochs=2, fit=fit).stages({"student": network})).warnings
    assert "ended worse than it began" in warning["says"]
    assert "weights were pruned" in warning["says"]
    weights = torch.cat([value.flatten() for name, value in network.named_parameters() if "weight" in name])
    assert (weights == 0).float().mean() > 0.5  # so the state before the first step was no choice


def test_what_cannot_be_judged_before_the_first_step_is_left_out(tmp_path: Path) -> None:
    network, data = perceptron(8, seed=0), clusters()
    far = ArrayExamples(torch.full_like(data.validation.inputs, torch.inf), data.validation.labels)
    with pytest.raises(DataError, match="is not a finite number"):
        go(
            Supervised(epochs=1, fit=Fit(batch=16)).stages({"student": network}),
            dataclasses.replace(data, validation=far),
            folder=tmp_path,
        )
    assert read_lines(tmp_path / "log.jsonl")[0]["figures"] == {}


# Divergence


def growing() -> tuple[nn.Linear, Data, Fit]:
    """A regression whose loss grows tenfold a step at this rate, and shrinks at a tenth of it."""
    torch.manual_seed(0)
    inputs = torch.randn(120, 8)
    parts = [ArrayExamples(part, part.sum(1, keepdim=True)) for part in inputs.split(40)]
    fit = Fit(batch=8, optimizer=SGD(rate=2.0, momentum=0.0, decay=0.0), schedule=Constant(), clip=None)
    return nn.Linear(8, 1), Data(train=parts[0], validation=parts[1], test=parts[2]), fit


def test_a_divergence_names_step_edge_loss_and_remedy() -> None:
    network, data, fit = growing()
    with pytest.raises(DivergedError) as caught:
        go(
            supervised(Regression(), epochs=30, fit=dataclasses.replace(fit, restarts=0)).stages({"student": network}),
            data,
        )
    said = str(caught.value)
    assert "Stage 'supervised', step " in said
    assert "the loss of the edge labels->student" in said
    assert "the training loss rose from " in said
    for remedy in ("SGD(rate=0.2), now 2", "Fit(clip=1.0)", "Constant(warmup=0.1)"):
        assert remedy in said


def test_a_stage_that_diverges_is_restarted_at_a_lower_rate(tmp_path: Path) -> None:
    network, data, fit = growing()
    history = go(supervised(Regression(), epochs=30, fit=fit).stages({"student": network}), data, folder=tmp_path)
    restart = history.warnings[0]
    assert (restart["restart"], restart["step"], restart["rate"]) == (1, 0, {"student": pytest.approx(0.2)})
    assert "restarted from its beginning with a lower learning rate (0.2)" in restart["says"]
    rows = read_lines(tmp_path / "log.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(150))  # the way that led nowhere is not in the log
    assert [row["rate"]["student"] for row in steps] == pytest.approx([0.2] * 150)
    assert history.validations[-1]["figures"]["student"]["rmse"] < 0.1
    assert restart in rows


def stages(fit: Fit, network: nn.Module) -> list[Stage]:
    return supervised(Regression(), epochs=12, fit=fit).stages({"student": network})


@pytest.mark.parametrize(("every", "average"), [(None, None), (3, Average(decay=0.5)), (7, None)])
def test_a_restarted_stage_that_is_stopped_anywhere_and_resumed_ends_as_one_that_was_not(
    tmp_path: Path, every: int | None, average: Average | None
) -> None:
    network, data, fit = growing()
    fit = dataclasses.replace(fit, checkpoint_steps=every, average=average)
    go(stages(fit, network), data, folder=tmp_path / "whole")
    for stop in (2, 8, 17, 21, 26, 40):
        again = growing()[0]
        folder = tmp_path / f"stopped-{stop}"
        steps = Course(stages(fit, again), data, folder=folder, device="cpu").steps()
        for _ in range(stop):
            next(steps)
        steps.close()
        again = growing()[0]
        history = go(stages(fit, again), data, folder=folder, resume=True)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items()), stop
        assert plain(folder) == plain(tmp_path / "whole"), stop
        assert [row["restart"] for row in history.warnings] == [1]


def plain(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_lines(folder / "log.jsonl")]


# The defaults


def test_a_stage_of_one_step_learns_in_spite_of_the_warm_up() -> None:
    network = perceptron(8, seed=0)
    before = network.state_dict()["head.weight"].clone()
    go(Supervised(steps=1, fit=Fit(batch=16, keep_best=False)).stages({"student": network}))
    assert not torch.equal(network.state_dict()["head.weight"], before)


def test_the_default_teaches_a_plain_network_that_the_old_one_ruined() -> None:
    """Gradients at the scale of a confident teacher at temperature 4: without a bound on them the network is lost."""
    teacher = learnt()
    with torch.no_grad():
        teacher.head.weight.mul_(30.0)
        teacher.head.bias.mul_(30.0)
    students: dict[str, nn.Module] = {}
    found: dict[str, list[float]] = {}
    for name, fit in {"default": Fit(batch=16), "old": Fit(batch=16, clip=None, schedule=Cosine(), restarts=0)}.items():
        students[name] = copy.deepcopy(teacher)
        with torch.no_grad():
            students[name].layer1.weight[::2] = 0.0
        history = go(
            Offline(epochs=6, fit=fit, knowledge=(SoftTargets(temperature=4.0),)).stages(
                {"teacher": teacher, "student": students[name]}
            )
        )
        found[name] = [row["figures"]["student"]["accuracy"] for row in history.validations]
    assert found["old"][-1] < found["old"][0] - 10
    assert found["default"][-1] > found["default"][0]
