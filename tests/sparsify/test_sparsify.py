"""Networks that become sparse while they learn: against loops by hand, exactly so many at the end, and resumable."""

import copy
import dataclasses
import functools
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, Context, Data
from lessen.core.errors import LessenError, PlanError, SettingError
from lessen.engine import Course, keeping, run
from lessen.engine.training import Training
from lessen.graph import (
    SGD,
    Constant,
    Edge,
    Fit,
    Gradual,
    Graph,
    GroupLasso,
    Labels,
    Movement,
    MovingAverage,
    Network,
    Snapshot,
    Sparsify,
    Stage,
    StraightThrough,
)
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.operations import NM, Global, PruneWeights
from lessen.operations.prune_weights import masks_of
from lessen.pipeline.folder import Kept
from lessen.pipeline.plans import encode_plans
from lessen.pipeline.steps import Course as PipelineCourse
from lessen.pipeline.steps import cast_for, restore, with_masks
from lessen.schemes import supervised
from lessen.sparsify.gradual import cubic, updates_due
from lessen.surgery.forms.mask import masked_parameters
from lessen.testing.tasks import clusters, perceptron

MOVERS: dict[str, Sparsify] = {
    "gradual": Gradual(keep=0.3, updates=6),
    "global": Gradual(keep=0.3, updates=6, allocation=Global()),
    "movement": Movement(keep=0.3, updates=6),
    "straight": StraightThrough(where=("layer1", "layer2")),
}


def stages(student: nn.Module, sparsify: Sparsify | None, *, epochs: int = 3) -> list[Stage]:
    """The student and its moving average, then a stage without pruning."""
    nodes = [Labels(), Network(name="student", module=student, learns=True)]
    edges = [Edge(source="labels", target="student", objective=CrossEntropy())]
    slow = Snapshot(name="slow", of="student", when=MovingAverage(decay=0.9))
    taught = Edge(source="slow", target="student", objective=SoftTargets())
    fit = Fit(batch=16, sparsify=sparsify, clip=1.0)
    return [
        Stage(name="one", graph=Graph(nodes=[*nodes, slow], edges=[*edges, taught]), epochs=epochs, fit=fit),
        Stage(name="two", graph=Graph(nodes=nodes, edges=edges), epochs=1, fit=Fit(batch=16)),
    ]


@functools.cache
def whole(name: str) -> dict[str, Tensor]:
    student = perceptron(8, seed=0)
    run(stages(student, MOVERS[name]), clusters(), progress=False, device="cpu")
    return masked_state(student)


def masked_state(student: nn.Module) -> dict[str, Tensor]:
    masks = {f"mask {path}": module.parametrizations[last][0].kept for path, module, last in masked_parameters(student)}  # type: ignore[index,union-attr]
    return {**student.state_dict(), **masks}


@pytest.mark.parametrize("name", MOVERS)
def test_exactly_so_many_stay_and_later_stages_keep_them(name: str) -> None:
    state = whole(name)
    weights = {"layer1.weight": 64, "layer2.weight": 48, "head.weight": 24}
    kept = {at: int((state[at] != 0).sum()) for at in weights}
    if name == "straight":
        assert (kept["layer1.weight"], kept["layer2.weight"], kept["head.weight"]) == (32, 24, 24)
        assert bool(((state["layer1.weight"].view(8, 2, 4) != 0).sum(2) == 2).all())
    elif name == "global":
        assert sum(kept.values()) == round(0.3 * sum(weights.values()))
    else:
        assert kept == {at: round(0.3 * size) for at, size in weights.items()}
    for path in ("layer1", "layer2"):
        assert torch.equal(state[f"mask {path}"], state[f"{path}.weight"] != 0)


@pytest.mark.parametrize("name", ["gradual", "movement", "straight"])
def test_a_run_left_at_any_step_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    assert differs(name, tmp_path, [7]) == []  # in the middle of the first stage
    assert differs(name, tmp_path / "more", [3, 9, 3]) == []  # several times, also in the second stage


def differs(name: str, folder: Path, stops: list[int]) -> list[str]:
    """What of a run that was left is not as in the run that was not."""
    for stop in [*stops, None]:
        student = perceptron(8, seed=0)
        steps = Course(
            [*checkpointed(student, MOVERS[name])], clusters(), folder=folder, device="cpu", resume=True
        ).steps()
        for count, _ in enumerate(steps, start=1):
            if count == stop:
                break
        steps.close()
    state = masked_state(student)
    return [at for at, value in whole(name).items() if at not in state or not torch.equal(value, state[at])]


def checkpointed(student: nn.Module, sparsify: Sparsify) -> list[Stage]:
    """The same stages with a checkpoint at each step."""
    return [
        dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, checkpoint_steps=1))
        for stage in stages(student, sparsify)
    ]


@pytest.mark.parametrize(("name", "lost"), [("gradual", "part/"), ("movement", "part/"), ("gradual", "mask/")])
def test_a_checkpoint_without_masks_would_not_do(
    name: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted errors: what moves the masks starts anew, or the masks of a stage that is over are forgotten."""
    original, put = keeping.under, keeping._load

    def forgetful(prefix: str, tensors: Any) -> Any:
        return {} if prefix.startswith(lost) else original(prefix, tensors)

    monkeypatch.setattr(Training, "compare", lambda self, before: None)  # this would find it earlier
    monkeypatch.setattr(keeping, "under", forgetful)
    monkeypatch.setattr(keeping, "_load", lambda module, found: put(module, found) if found else None)
    if lost == "mask/":  # not even the order of the parameters is the same, so the optimizer stumbles
        with pytest.raises(RuntimeError, match="shape"):
            differs(name, tmp_path, [17])
    else:
        assert differs(name, tmp_path, [9])


# Against loops by hand, in float64 and with all examples in each step.


def task() -> tuple[Data, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=drawn, dtype=torch.float64)
    y = torch.randint(3, (24,), generator=drawn)
    split = ArrayExamples(x, y)
    return Data(train=split, validation=split, test=split, classes=("a", "b", "c"), name="hand"), x, y


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()


STEPS, RATE = 20, 0.5


def by_engine(sparsify: Sparsify) -> list[Tensor]:
    data, _, _ = task()
    model = network()
    nodes = [Labels(), Network(name="student", module=model, learns=True, sparsify=sparsify)]
    fit = Fit(batch=24, optimizer=SGD(rate=RATE, momentum=0.0, decay=0.0), schedule=Constant(), keep_best=False)
    edges = [Edge(source="labels", target="student", objective=CrossEntropy())]
    run([Stage(name="s", graph=Graph(nodes=nodes, edges=edges), steps=STEPS, fit=fit)], data, progress=False)
    state = model.state_dict()
    return [state[name] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]


def by_hand(choose: Callable[..., list[Tensor]], gradient_of: Callable[..., list[Tensor]]) -> list[Tensor]:
    """Gradient descent with two masks: `choose` gives them after a step, `gradient_of` the gradient of weights."""
    _, x, y = task()
    w1, b1, w2, b2 = (value.clone() for value in network().state_dict().values())
    masks = choose(0, [w1, w2], None, [torch.ones_like(w1).bool(), torch.ones_like(w2).bool()])
    for step in range(STEPS):
        seen = [(w * m).requires_grad_(True) for w, m in zip((w1, w2), masks, strict=True)]
        biases = [b1.clone().requires_grad_(True), b2.clone().requires_grad_(True)]
        out = F.linear(torch.tanh(F.linear(x, seen[0], biases[0])), seen[1], biases[1])
        found = torch.autograd.grad(F.cross_entropy(out, y), [*seen, *biases])
        old = [w1.clone(), w2.clone()]
        weight_gradients = gradient_of([w1, w2], found[:2], masks)
        w1, w2 = w1 - RATE * weight_gradients[0], w2 - RATE * weight_gradients[1]
        b1, b2 = b1 - RATE * found[2], b2 - RATE * found[3]
        masks = choose(step + 1, [w1, w2], [o * g for o, g in zip(old, found[:2], strict=True)], masks)
    return [w1 * masks[0], b1, w2 * masks[1], b2]


def close(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-9) for a, b in zip(one, other, strict=True))


def masked(weights: Any, gradients: Any, masks: Any) -> list[Tensor]:
    return [g * m for g, m in zip(gradients, masks, strict=True)]


def highest(score: Tensor, count: int) -> Tensor:
    return score >= score.flatten().sort(descending=True).values[count - 1]


def gradually(step: int, weights: list[Tensor], moved: Any, masks: list[Tensor], *, power: int = 3) -> list[Tensor]:
    """Zhu & Gupta, equation 1, with an update after every second step until step 14."""
    if step % 2 or not 0 < step <= 14:
        return masks
    share = 0.25 + 0.75 * (1 - step / 14) ** power
    return [highest(torch.where(m, w.abs(), -1), round(share * w.numel())) for w, m in zip(weights, masks, strict=True)]


def test_gradual_is_the_schedule_of_the_paper() -> None:
    ours = by_engine(Gradual(keep=0.25, end=0.7, updates=7))
    assert close(ours, by_hand(gradually, masked))
    # The planted error: a straight line in the place of the cubic curve.
    assert not close(ours, by_hand(functools.partial(gradually, power=1), masked))


def test_movement_is_the_sum_of_gradient_times_weight() -> None:
    def loop(sign: float) -> list[Tensor]:
        scores = [torch.zeros(12, 8).double(), torch.zeros(3, 12).double()]

        def choose(step: int, weights: list[Tensor], moved: Any, masks: list[Tensor]) -> list[Tensor]:
            for score, change in zip(scores, moved or (), strict=False):
                score -= sign * 0.3 * change
            if step % 2 or not 2 < step <= 14:
                return masks
            share = 0.25 + 0.75 * (1 - (step - 2) / 12) ** 3
            return [highest(score, round(share * score.numel())) for score in scores]

        return by_hand(choose, masked)

    rates = SGD(rate=0.3, momentum=0.0, nesterov=False, decay=0.0)
    ours = by_engine(Movement(keep=0.25, begin=0.1, end=0.7, updates=6, optimizer=rates))
    assert close(ours, loop(1.0))
    # The planted error: the sign of the score.
    assert not close(ours, loop(-1.0))


def test_straight_through_pulls_what_does_not_count() -> None:
    def choose(step: int, weights: list[Tensor], moved: Any, masks: list[Tensor]) -> list[Tensor]:
        return [torch.cat([row_mask(w.abs(), at) for at in range(0, w.shape[1], 4)], 1) for w in weights]

    def row_mask(score: Tensor, at: int) -> Tensor:
        part = score[:, at : at + 4]
        return part >= part.sort(dim=1, descending=True).values[:, 1:2]

    def gradient(pull: float) -> Callable[..., list[Tensor]]:
        return lambda weights, found, masks: [g + pull * ~m * w for w, g, m in zip(weights, found, masks, strict=True)]

    ours = by_engine(StraightThrough(pull=0.1))
    assert close(ours, by_hand(choose, gradient(0.1)))
    # The planted errors: no pull, and a gradient that stops at the mask.
    assert not close(ours, by_hand(choose, gradient(0.0)))
    assert not close(ours, by_hand(choose, masked))


def test_the_curve_and_its_updates() -> None:
    assert [cubic(0.1, along) for along in (0.0, 1.0)] == [1.0, 0.1]
    due = [updates_due(step / 50, begin=0.1, end=0.5, updates=4) for step in range(51)]
    assert due == sorted(due)
    assert [due.index(k) for k in range(1, 5)] == [10, 15, 20, 25]


# What came before stays, what follows knows.


@pytest.mark.parametrize("name", MOVERS)
def test_what_was_pruned_before_stays_pruned(name: str) -> None:
    student = perceptron(8, seed=0)
    small = PruneWeights(keep=0.6).plan(student, Context(inputs=torch.randn(2, 8))).apply(student)
    gone = small.layer1.weight == 0  # type: ignore[union-attr,operator]
    run(stages(small, MOVERS[name]), clusters(), progress=False)
    assert bool((small.layer1.weight[gone] == 0).all())  # type: ignore[union-attr,index]


def test_the_masks_are_in_the_plans_of_a_pipeline() -> None:
    """As `compress` walks: train with masks that move, train on; then from what is on disk, on a fresh network."""
    course = PipelineCourse(perceptron(8, seed=0))
    for number, sparsify in ((1, Gradual(keep=0.25, updates=4)), (2, None)):
        before, step = masks_of(course.network), supervised(epochs=1, fit=Fit(batch=16, sparsify=sparsify))
        run(step.stages(cast_for(course.network, course.network)), clusters(), progress=False)
        course = with_masks(course, before, step, number)
    plans = encode_plans(course.plans)
    assert [next(iter(plan)) for plan in plans] == ["PrunedWeights"]
    assert [row["step"] for row in course.rows] == [1]
    kept = Kept(plans=json.loads(json.dumps(plans)), layers=course.rows, records=[], frozen=[])
    again = restore(perceptron(8, seed=3), dict(course.network.state_dict()), kept).network
    assert int((again.layer1.weight != 0).sum()) == 16  # type: ignore[union-attr,operator,arg-type]
    assert len(list(masked_parameters(again))) == 3
    assert all(torch.equal(value, masked_state(again)[at]) for at, value in masked_state(course.network).items())


def test_what_cannot_be_is_said_before_the_first_step() -> None:
    with pytest.raises(SettingError, match="begins"):
        Gradual(begin=0.8)
    with pytest.raises(SettingError, match=r"write keep=0\.25"):
        StraightThrough(pattern=NM(n=1, m=4))
    student = perceptron(8, seed=0)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(PlanError, match="did you mean"):
        run(stages(student, Gradual(where="layr1")), clusters(), progress=False)
    with pytest.raises(LessenError, match="cannot be cut"):
        run(stages(student, StraightThrough(where="layer2", pattern=NM(n=5, m=10))), clusters(), progress=False)
    assert student.state_dict().keys() == before.keys()
    assert not list(masked_parameters(student))


LATE: dict[str, tuple[Sparsify, int]] = {
    "gradual": (Gradual(keep=0.3, updates=6, end=0.5), 3),
    "movement": (Movement(keep=0.3, updates=6, end=0.5), 3),
    "straight": (StraightThrough(where=("layer1", "layer2")), 0),
    "lasso": (GroupLasso(strength=1.0), 6),
}


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("name", LATE)
def test_patience_begins_when_a_network_is_as_sparse_as_it_will_be(name: str, patience: int) -> None:
    """At a rate of almost 0 nothing improves, so the stage ends `patience` looks after the first that may be kept.

    Two prune until half of the 6 epochs, 2:4 sparsity is there at the look before the first step, and channels shrink
    until the end. There is no batch norm, whose statistics would improve.
    """
    sparsify, settled = LATE[name]
    torch.manual_seed(0)
    layers = {"layer1": nn.Linear(8, 8), "activation": nn.ReLU(), "layer2": nn.Linear(8, 8), "head": nn.Linear(8, 4)}
    student = nn.Sequential(OrderedDict(layers))
    fit = Fit(batch=40, optimizer=SGD(rate=1e-12), sparsify=sparsify, patience=patience)
    history = run(supervised(epochs=6, fit=fit).stages({"student": student}), clusters(), progress=False, device="cpu")
    assert history.steps == 2 * min(6, settled + patience)
    if name in ("gradual", "movement"):
        masks = [module.parametrizations[last][0].kept for _, module, last in masked_parameters(student)]  # type: ignore[index,union-attr]
        assert float(torch.cat([kept.flatten() for kept in masks]).float().mean()) == pytest.approx(0.3, abs=0.02)
