"""Torch's schedulers as schedules: the factor is torch's at every step, and a run is resumed bit for bit."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lessen.core.errors import SettingError
from lessen.engine import Course
from lessen.graph import SGD, Edge, Fit, Graph, Labels, Network, Stage, TorchSchedule
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.recipe import read_recipe
from lessen.testing.tasks import clusters, perceptron

CASES: dict[str, dict[str, Any]] = {
    "LambdaLR": {"lr_lambda": lambda number: 1 / (number + 1)},
    "MultiplicativeLR": {"lr_lambda": lambda number: 0.9},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5]},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "SequentialLR": {
        "schedulers": [TorchSchedule("LinearLR"), TorchSchedule("ExponentialLR", {"gamma": 0.9})],
        "milestones": [4],
    },
    "CosineAnnealingLR": {},
    "ChainedScheduler": {"schedulers": [TorchSchedule("LinearLR"), TorchSchedule("StepLR", {"step_size": 4})]},
    "CyclicLR": {"base_lr": 0.1, "step_size_up": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "OneCycleLR": {},
    "PolynomialLR": {"power": 2.0},
}
FILLED = {
    "OneCycleLR": {"max_lr": 1.0, "total_steps": 12, "cycle_momentum": False},
    "CosineAnnealingLR": {"T_max": 12},
    "CyclicLR": {"max_lr": 1.0, "cycle_momentum": False},
}


def by_hand(name: str, given: dict[str, Any], count: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

    def build(name: str, given: dict[str, Any]) -> Any:
        if "schedulers" in given:
            given = {**given, "schedulers": [build(one.name, dict(one.settings)) for one in given["schedulers"]]}
            if name == "ChainedScheduler":
                return lr_scheduler.ChainedScheduler(given["schedulers"], optimizer)
        return getattr(lr_scheduler, name)(optimizer, **given, **FILLED.get(name, {}))

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = build(name, given)
        for _ in range(count):
            found.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if len(found) < count:
                scheduler.step()
    return found


@pytest.mark.parametrize("name", sorted(set(lr_scheduler.__all__) - {"LRScheduler", "ReduceLROnPlateau"}))
def test_the_factor_is_torchs_at_every_step_whatever_was_asked_before(name: str) -> None:
    schedule = TorchSchedule(name, CASES[name])
    known, asked = schedule.over(12, epoch_steps=4), schedule.over(12, epoch_steps=4)
    wanted = by_hand(name, CASES[name], 12)
    assert [known.at(step / 12) for step in range(12)] == wanted
    assert [asked.at(step / 12) for step in (11, 3, 7)] == [wanted[step] for step in (11, 3, 7)]
    by_epoch = TorchSchedule(name, CASES[name], per="epoch").over(12, epoch_steps=1)
    assert [by_epoch.at(step / 12) for step in range(12)] == wanted


def course(model: nn.Module, folder: Path | None) -> Course:
    """One schedule for the rate of the stage, one of a node, one of an edge."""
    by_epoch, rising = TorchSchedule("StepLR", {"step_size": 1}, "epoch"), TorchSchedule("LinearLR", {"total_iters": 6})
    graph = Graph(
        nodes=[
            Labels(),
            Network(name="teacher", module=perceptron(12, seed=2), learns=False),
            Network(name="one", module=model, learns=True),
            Network(name="two", module=perceptron(6, seed=3), learns=True, schedule=by_epoch),
        ],
        edges=[
            Edge(source="labels", target="one", objective=CrossEntropy()),
            Edge(source="labels", target="two", objective=CrossEntropy()),
            Edge(source="teacher", target="one", objective=SoftTargets(), schedule=rising),
        ],
    )
    fit = Fit(batch=16, optimizer=SGD(rate=0.2), schedule=TorchSchedule("onecycle"), checkpoint_steps=3)
    stages = [Stage(name="s", graph=graph, epochs=2, fit=fit)]
    return Course(stages, clusters(), folder=folder, device="cpu", resume=True)


def test_a_run_follows_them_and_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    models = [perceptron(8, seed=1) for _ in range(3)]
    rates, weights = [], []
    for training in course(models[0], None).steps():
        training.log.flush()
        last = training.log.last
        assert last is not None
        rates.append((last["rate"]["one"], last["rate"]["two"]))
        weights.append(last["edges"]["teacher->one"]["weight"])
    alone = TorchSchedule("OneCycleLR", {"total_steps": 10}).over(10, epoch_steps=5)
    assert [one for one, _ in rates] == [0.2 * alone.at(step / 10) for step in range(10)]
    assert [two for _, two in rates] == pytest.approx([0.2] * 5 + [0.02] * 5)
    assert weights == pytest.approx(by_hand("LinearLR", {"total_iters": 6}, 10))
    steps = course(models[1], tmp_path).steps()
    for _ in range(7):
        next(steps)
    steps.close()
    for _ in course(models[2], tmp_path).steps():
        pass
    whole, parts = (model.state_dict() for model in (models[0], models[2]))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TorchSchedule("ReduceLROnPlateau"), r"cannot be used here: it follows what happened.*Fit\(patience="),
        (lambda: TorchSchedule("StepLRR"), "no scheduler 'StepLRR': did you mean 'StepLR'"),
        (lambda: TorchSchedule("StepLR", {"step_sise": 1}), "did you mean 'step_size'"),
        (lambda: TorchSchedule("StepLR"), "missing.*'step_size'"),
        (lambda: TorchSchedule("OneCycleLR", {"cycle_momentum": True}), "momenta are not moved"),
        (lambda: TorchSchedule("OneCycleLR", {"total_steps": 5}).over(8, epoch_steps=1), "ends after 5 steps.* has 8"),
    ],
)
def test_what_cannot_be_followed_is_refused(make: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        make()


def test_a_recipe_names_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("""
network: {build: zoo:perceptron}
data: Digits
steps:
  - Supervised:
      fit:
        schedule:
          TorchSchedule:
            name: SequentialLR
            per: epoch
            settings:
              schedulers: [{TorchSchedule: {name: linear}}, {TorchSchedule: {name: cosineannealing}}]
              milestones: [5]
""")
    (step,) = read_recipe(tmp_path / "r.yaml").steps
    inner = [TorchSchedule("LinearLR"), TorchSchedule("CosineAnnealingLR")]
    assert step.fit.schedule == TorchSchedule("SequentialLR", {"schedulers": inner, "milestones": [5]}, "epoch")  # type: ignore[union-attr]
