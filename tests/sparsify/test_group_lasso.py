"""Group lasso: its step against a minimiser, zeros that are exact, and channels that go without a trace."""

from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from lessen.core import ArrayExamples, Context, Data
from lessen.core.errors import PlanError
from lessen.engine import Course, run
from lessen.graph import SGD, Fit, GroupLasso, Stage
from lessen.operations import BatchNormScale, PruneChannels
from lessen.schemes import supervised
from lessen.sparsify.contract import Sparsify
from lessen.sparsify.group_lasso import made_by, shrink, shrink_factors, zero_channels
from lessen.surgery.coupling import analyse


def test_the_step_is_the_proximal_operator() -> None:
    draw = torch.Generator().manual_seed(0)
    for threshold in (0.1, 0.7, 3.0):
        for _ in range(4):
            w = torch.randn(5, generator=draw, dtype=torch.float64)
            found = w * shrink_factors(w.norm()[None], threshold)

            def whole(v: Tensor, w: Tensor = w, threshold: float = threshold) -> float:
                return float(0.5 * (v - w).square().sum() + threshold * v.norm())

            best = minimize(
                lambda v: whole(torch.from_numpy(v)),
                w.numpy(),
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 20000},
            )
            assert whole(found) <= best.fun + 1e-8
            # The planted error: shrink numbers one by one.
            alone = w.sign() * (w.abs() - threshold).clamp_min(0)
            if threshold < 1:
                assert whole(alone) > best.fun + 1e-4


def network() -> nn.Sequential:
    """Every other channel of the first layer is weak from the beginning."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    with torch.no_grad():
        for weak in (made[0].weight, made[0].bias, made[1].weight):
            weak[::2] *= 0.3
    return made


def data() -> Data:
    torch.manual_seed(0)
    labels = torch.arange(96) % 3
    x = torch.randn(96, 1, 8, 8) * 0.3 + labels.view(-1, 1, 1, 1)
    examples = ArrayExamples(x, labels)
    return Data(train=examples, validation=examples, test=examples, classes=("a", "b", "c"))


def trained(strength: float | None) -> nn.Module:
    student = network()
    sparsify = None if strength is None else GroupLasso(strength=strength)
    fit = Fit(batch=32, optimizer=SGD(rate=0.02), sparsify=sparsify)
    run(supervised(epochs=12, fit=fit).stages({"student": student}), data(), progress=False, device="cpu")
    return student.eval()


def test_what_makes_a_channel_is_its_group() -> None:
    model = network().eval()
    rows = made_by(model, analyse(model, data().train.inputs[:2]))
    assert {name: [row[0] for row in each] for name, each in rows.items()} == {
        "0": ["0.weight", "0.bias", "1.weight", "1.bias"],
        "3": ["3.weight", "3.bias", "4.weight", "4.bias"],
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shrink(model, rows["0"], 12, 0.02)
    for i in range(12):  # the slow way
        parts = [before["0.weight"][i].flatten(), *(before[n][i][None] for n in ("0.bias", "1.weight", "1.bias"))]
        vector = torch.cat(parts).double()
        factor = max(0.0, 1 - 0.02 * len(vector) ** 0.5 / float(vector.norm()))
        assert torch.allclose(model[0].weight[i], before["0.weight"][i] * factor, rtol=1e-6)
        assert float(model[1].weight[i].detach()) == pytest.approx(float(before["1.weight"][i]) * factor, rel=1e-6)
    assert torch.equal(model[3].weight, before["3.weight"])


def test_no_strength_is_no_change() -> None:
    one, other = trained(None).state_dict(), trained(0.0).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_channels_reach_zero_and_go_without_a_trace() -> None:
    x = data().train.inputs
    weak, model = trained(0.05), trained(0.3)
    counts = [sum(int(zero.sum()) for zero in zero_channels(each, x[:2]).values()) for each in (weak, model)]
    assert counts[0] < counts[1], counts
    zeros = zero_channels(model, x[:2])
    assert zeros["0"].tolist() == [True, False] * 6, "the weak ones"
    share = 1 - int(zeros["0"].sum()) / 12
    assert 0 < share < 1
    prune = PruneChannels(keep=share, score=BatchNormScale(), where="0")
    plan = prune.plan(model, Context(inputs=x[:2]))
    assert len(plan.kept["0"]) == 12 - int(zeros["0"].sum())
    assert torch.allclose(plan.apply(model)(x), model(x), atol=1e-5)
    # The planted error: with the others gone it is another network.
    wrong = PruneChannels(keep=share / 2, score=BatchNormScale(), where="0").plan(model, Context(inputs=x[:2]))
    assert not torch.allclose(wrong.apply(model)(x), model(x), atol=1e-3)


def test_it_keeps_the_contract() -> None:
    assert isinstance(GroupLasso(), Sparsify)
    with pytest.raises(PlanError, match="matches no module"):
        GroupLasso(where=nn.LSTM).check(network())


def test_a_run_that_was_interrupted_ends_the_same(tmp_path: Path) -> None:
    def stages(student: nn.Module) -> list[Stage]:
        fit = Fit(batch=32, optimizer=SGD(rate=0.02), sparsify=GroupLasso(strength=0.3))
        return supervised(epochs=4, fit=fit).stages({"student": student})

    whole, half, again = network(), network(), network()
    run(stages(whole), data(), progress=False, device="cpu")
    steps = Course(stages(half), data(), folder=tmp_path, device="cpu").steps()
    for _ in range(8):  # into the third of four epochs
        next(steps)
    steps.close()
    run(stages(again), data(), folder=tmp_path, resume=True, progress=False, device="cpu")
    one, other = whole.state_dict(), again.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
