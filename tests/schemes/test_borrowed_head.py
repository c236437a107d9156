"""A student with its teacher's classifier: what it computes, what learns, and that it ships as a whole."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Bridge, Context
from lessen.core.errors import NetworkError, ShapeError
from lessen.deploy import TorchProgram, export_pt2
from lessen.engine import run
from lessen.graph import Adam, Fit
from lessen.knowledge import AutoBridge, BottleneckBridge
from lessen.measure import measure
from lessen.operations import PruneChannels
from lessen.schemes import borrow_head, feature_lesson, offline, supervised
from lessen.surgery.modules import set_module
from lessen.surgery.taps import Tap, capture
from lessen.testing.tasks import clusters
from lessen.zoo import mlp, residual

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student, teacher = residual(width=4, depth=8), residual(width=6, depth=14)
    for _ in range(3):
        teacher(torch.randn(16, 1, 8, 8))  # its normalisations have seen something
    return student, teacher.eval()


class Answer(nn.Module):
    """Gives what a function gives, whatever comes in."""

    def __init__(self, function: Callable[[], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        del features
        return self.function()


@pytest.mark.parametrize(("before", "bridge"), [(None, None), ("pool", BottleneckBridge()), ("pool", None)])
def test_with_no_error_in_the_features_the_answer_is_the_teachers(before: str | None, bridge: Bridge | None) -> None:
    """Identity 14: bit for bit, on inputs that the builder never saw."""
    student, teacher = pair()
    made = borrow_head(student, teacher, IMAGES[:2], before=before, bridge=bridge).eval()
    lesson = feature_lesson(before=before)
    images = IMAGES[2:]
    with capture(teacher, [lesson.tap[1]]) as seen:
        expected = teacher(images)
    features = seen[lesson.tap[1]]

    def fed(error: float) -> tuple[Tensor, float]:
        trial = copy.deepcopy(made)
        set_module(trial, lesson.tap[0].path, Answer(lambda: features + error))
        with capture(trial, [lesson.tap[0]]) as given:
            answer = trial(images)
        return answer, float(lesson.objective(given[lesson.tap[0]], features).max().detach())

    answer, loss = fed(0.0)
    assert loss == 0
    assert torch.equal(answer, expected)
    answer, loss = fed(0.1)
    assert loss > 0
    assert not torch.equal(answer, expected)


def test_it_counts_and_ships_with_projector_and_head(tmp_path: Path) -> None:
    student, teacher = pair()
    made = borrow_head(student, teacher, IMAGES, before="pool", bridge=BottleneckBridge()).eval()
    own = sum(p.numel() for name, p in student.named_parameters() if not name.startswith("head"))
    projector = sum(p.numel() for p in BottleneckBridge().build((1, 16, 2, 2), (1, 24, 2, 2)).parameters())
    head = sum(p.numel() for p in teacher.head.parameters())
    figures = {record.figure: record.value for record in measure(made, None)}
    assert figures["parameters"] == own + projector + head
    said = TorchProgram().load(export_pt2(made, IMAGES[:1], tmp_path / "model.pt2"), threads=1)(IMAGES)
    assert torch.allclose(said, made(IMAGES), atol=1e-6)


@pytest.mark.parametrize("before", [None, "pool"])
def test_it_can_be_pruned(before: str | None) -> None:
    student, teacher = pair()
    bridge = BottleneckBridge() if before else None
    made = borrow_head(student, teacher, IMAGES, before=before, bridge=bridge).eval()
    plan = PruneChannels(keep=0.5).plan(made, Context(inputs=IMAGES))
    small = plan.apply(made)
    assert small(IMAGES).shape == (6, 10)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (small, made)]
    assert sizes[0] < 0.6 * sizes[1]
    assert any("projector" in row["module"] for row in plan.describe())
    small.train()
    assert not small.get_submodule("head" if before else "head.then").training


def test_the_head_is_the_teachers_and_never_moves() -> None:
    data = clusters()
    torch.manual_seed(0)
    teacher, student = (mlp(inputs=8, hidden=(width, width), classes=4, batch_norm=True) for width in (24, 6))
    fit = Fit(batch=20, optimizer=Adam(rate=0.02))
    run(supervised(epochs=10, fit=fit).stages({"student": teacher}), data, device="cpu", progress=False)
    made = borrow_head(student, teacher, data.train.fetch(torch.arange(4)).inputs)
    assert isinstance(made.head.projector, nn.Linear)
    before = [copy.deepcopy(network.state_dict()) for network in (teacher, student, made)]
    start = agreement(made, teacher, data)
    scheme = offline(feature_lesson(), labels=0.0, epochs=20, fit=fit)
    run(scheme.stages({"teacher": teacher, "student": made}), data, device="cpu", progress=False)
    for network, state in zip((teacher, student), before, strict=False):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    moved = {name for name, value in made.named_parameters() if not torch.equal(value, before[2][name])}
    assert moved == {name for name, _ in made.named_parameters() if not name.startswith("head.then")}
    assert torch.equal(made.head.then.module.weight, teacher.head.weight)
    assert agreement(made, teacher, data) > start + 0.2


def agreement(student: nn.Module, teacher: nn.Module, data: Any) -> float:
    batch = data.test.fetch(torch.arange(len(data.test)))
    with torch.no_grad():
        return float((student.eval()(batch.inputs).argmax(1) == teacher.eval()(batch.inputs).argmax(1)).float().mean())


def test_a_head_stays_in_eval_mode() -> None:
    teacher = mlp(inputs=64, hidden=(8,), batch_norm=True)
    teacher.head = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 10))
    teacher.eval()
    student = mlp(inputs=64, hidden=(8,))
    made = borrow_head(student, teacher, IMAGES).train()
    assert made.training
    assert not any(module.training for module in made.head.then.modules())
    kept = made.head.then.module[0].running_mean.clone()
    made(IMAGES).sum().backward()
    assert torch.equal(made.head.then.module[0].running_mean, kept)
    assert made.layer1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in made.head.then.parameters())


def test_what_cannot_be_borrowed_is_refused() -> None:
    student, teacher = pair()
    with pytest.raises(NetworkError, match="has no module 'hed'"):
        borrow_head(student, teacher, IMAGES, head="hed")
    with pytest.raises(NetworkError, match="a module of the network"):
        borrow_head(student, teacher, IMAGES, head="")
    with pytest.raises(ShapeError, match="BottleneckBridge"):
        borrow_head(student, teacher, IMAGES, bridge=BottleneckBridge())
    # The student's third stage is not the teacher's: what follows the projector must be the same in both.
    with pytest.raises(NetworkError, match="layer3"):
        borrow_head(student, teacher, IMAGES, before="layer3")
    other = copy.deepcopy(student)
    other.pool = nn.AdaptiveMaxPool2d(1)
    with pytest.raises(NetworkError, match="does not compute what the teacher does"):
        borrow_head(other, teacher, IMAGES, before="pool", bridge=AutoBridge())


def test_neither_network_is_changed_and_the_seed_decides() -> None:
    student, teacher = pair()
    before = [copy.deepcopy(network.state_dict()) for network in (student, teacher)]
    random = torch.get_rng_state()
    made = [borrow_head(student, teacher, IMAGES, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), random)
    weights = [network.head.projector.weight for network in made]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    for network, state in zip((student, teacher), before, strict=True):
        assert list(network.state_dict()) == list(state)
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(p.requires_grad for p in network.parameters())
    assert feature_lesson(head=("fc", "head")).tap == (Tap(path="fc.projector"), Tap(path="head", side="input"))
