"""Indirect features: laws, and each formula against the obvious slow way, with a mistake that the comparison finds."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lessen.core import ArrayExamples, Data, TaskFacts
from lessen.engine import Course, run
from lessen.graph import Fit, Stage
from lessen.knowledge import (
    AttentionTransfer,
    ChannelBridge,
    ChannelCorrelation,
    ChannelDistribution,
    EuclideanDistance,
    FactorTransfer,
    GaussianKernel,
    LinearKernel,
    NeuronSelectivity,
    PolynomialKernel,
    ReverseKL,
    SoftTargets,
)
from lessen.knowledge.axes.kernels import Kernel
from lessen.schemes import Offline, at
from lessen.testing import ObjectiveCase, ObjectiveLaws, learned
from lessen.zoo import residual

KERNELS: list[Kernel] = [
    PolynomialKernel(),
    PolynomialKernel(degree=3, offset=0.5),
    LinearKernel(),
    GaussianKernel(),
    GaussianKernel(variance=0.5),
]
NOT_MAPS = (
    (torch.zeros(3, 4), torch.zeros(3, 4)),
    (torch.zeros(3, 4, 2, 2), torch.zeros(4, 4, 2, 2)),
    (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4)),
)
OTHER_PLACES = ((torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 3)), (torch.zeros(3, 4, 1, 4), torch.zeros(3, 4, 2, 2)))


def maps(*shape: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    both = torch.randn(2, *shape, dtype=torch.float64, generator=drawn)
    return both[0], both[1]


def holds(check: Callable[[], None]) -> bool:
    """Whether a check passes; a check that cannot fail shows nothing, so each is seen to fail on a planted mistake."""
    try:
        check()
    except AssertionError:
        return False
    return True


def channels_of(tap: Tensor) -> int:
    """Where the channels stand: axis 1 of maps, 2 of tokens."""
    return 1 if tap.ndim == 4 else 2


def places_of(tap: Tensor) -> int:
    return 3 - channels_of(tap)


def other_channels(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of each side in another order, each its own."""
    return student.flip(channels_of(student)), teacher.roll(1, channels_of(teacher))


def same_channels(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student.flip(channels_of(student)), teacher.flip(channels_of(teacher))


def other_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student.flip(places_of(student)), teacher.flip(places_of(teacher))


def places_of_one(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student.flip(places_of(student)), teacher


def for_each_channel(values: Tensor, tap: Tensor) -> Tensor:
    return values.view([-1 if axis == channels_of(tap) else 1 for axis in range(tap.ndim)])


def larger(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return 3 * student, teacher / 2


def larger_channels(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel by its own factor."""
    factors = (1.0 + torch.arange(student.shape[channels_of(student)])).to(student)
    return student * for_each_channel(factors, student), teacher


def brighter_channels(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel by its own offset: a softmax over positions does not see it."""
    offsets = torch.arange(student.shape[channels_of(student)]).to(student)
    return student + for_each_channel(offsets, student), teacher - 2


class TestAttentionTransferOnTokens(ObjectiveLaws):
    wrong = (*NOT_MAPS, *OTHER_PLACES)
    invariances = (other_channels, other_places, larger)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = torch.randn(4, 6, 5), torch.randn(4, 6, 3)
        for objective in (AttentionTransfer(power=1.0), AttentionTransfer(distance=EuclideanDistance())):
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher)


class TestNeuronSelectivity(ObjectiveLaws):
    wrong = (*NOT_MAPS, *OTHER_PLACES)
    invariances = (other_channels, other_places, larger_channels)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for kernel in KERNELS:
            objective = NeuronSelectivity(kernel=kernel)
            yield ObjectiveCase(objective=objective, student=torch.randn(4, 3, 2, 4), teacher=torch.randn(4, 5, 2, 4))
        # Fewer positions than channels: the moments are compared as matrices of positions.
        objective = NeuronSelectivity()
        yield ObjectiveCase(objective=objective, student=torch.randn(4, 6, 2, 2), teacher=torch.randn(4, 5, 2, 2))
        yield ObjectiveCase(objective=objective, student=torch.randn(4, 4, 6), teacher=torch.randn(4, 4, 5))


class TestChannelDistribution(ObjectiveLaws):
    wrong = (*NOT_MAPS, *OTHER_PLACES, (torch.zeros(3, 4, 2, 2), torch.zeros(3, 5, 2, 2)))
    invariances = (same_channels, other_places, brighter_channels)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (ChannelDistribution(), ChannelDistribution(temperature=1.0, divergence=ReverseKL())):
            yield ObjectiveCase(objective=objective, student=torch.randn(4, 3, 2, 3), teacher=torch.randn(4, 3, 2, 3))
        yield ObjectiveCase(objective=ChannelDistribution(), student=torch.randn(4, 6, 3), teacher=torch.randn(4, 6, 3))


class TestChannelCorrelation(ObjectiveLaws):
    wrong = (*NOT_MAPS, (torch.zeros(3, 4, 2, 2), torch.zeros(3, 5, 2, 2)))
    invariances = (same_channels, places_of_one, larger)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        objective = ChannelCorrelation()
        yield ObjectiveCase(objective=objective, student=torch.randn(4, 3, 2, 3), teacher=torch.randn(4, 3, 2, 3))
        # Maps may differ in size, and tokens can be compared with maps.
        yield ObjectiveCase(objective=objective, student=torch.randn(4, 3, 2, 3), teacher=torch.randn(4, 3, 4, 4))
        yield ObjectiveCase(objective=objective, student=torch.randn(4, 7, 3), teacher=torch.randn(4, 3, 2, 3))


# Identities: attention transfer and neuron selectivity do not see the order of channels; both are 0 at equality and
# never less. The laws above hold them to it; here each is seen to catch a version without the property.


@pytest.mark.parametrize("change", [other_channels, other_places, larger])
def test_the_invariances_of_attention_are_its_own(change: Callable[..., Any]) -> None:
    student, teacher = maps(4, 3, 2, 4)

    def check(objective: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def same() -> None:
            assert torch.allclose(objective(*change(student, teacher)), objective(student, teacher))

        return same

    def plain(s: Tensor, t: Tensor) -> Tensor:
        weights = torch.arange(24, dtype=s.dtype).view(3, 2, 4)
        return ((s - t).square() * weights).mean((1, 2, 3))

    assert holds(check(AttentionTransfer()))
    assert not holds(check(plain))


def test_the_order_of_channels_is_free_in_neuron_selectivity_and_not_in_a_comparison_of_channels() -> None:
    student, teacher = maps(4, 3, 2, 4)

    def check(objective: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def same() -> None:
            assert torch.allclose(objective(*other_channels(student, teacher)), objective(student, teacher))

        return same

    for kernel in KERNELS:
        assert holds(check(NeuronSelectivity(kernel=kernel)))
    assert not holds(check(ChannelCorrelation()))
    assert not holds(check(ChannelDistribution()))


def test_the_two_published_forms_of_attention_transfer_are_tied() -> None:
    student, teacher = maps(4, 3, 2, 4)
    code, paper = AttentionTransfer(), AttentionTransfer(distance=EuclideanDistance())
    # The mean over P positions of squares, and the square root of their sum.
    assert torch.allclose(paper(student, teacher), (8 * code(student, teacher)).sqrt())
    assert not torch.allclose(paper(student, teacher), code(student, teacher).sqrt())


def test_autocast_does_not_take_digits_from_products() -> None:
    student, teacher = (side.float() for side in maps(4, 3, 4, 4))
    for objective in (NeuronSelectivity(), NeuronSelectivity(kernel=GaussianKernel()), ChannelCorrelation()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective(student, teacher)
            products = student.flatten(2) @ teacher.flatten(2).transpose(1, 2)
        assert torch.equal(loss, objective(student, teacher))
        assert not torch.equal(products.float(), student.flatten(2) @ teacher.flatten(2).transpose(1, 2))


# Neuron selectivity against the kernel written out over all pairs of channels.


def slow_discrepancy(kernel: Callable[[Any, Any], float], student: Tensor, teacher: Tensor) -> float:
    unit = [[row / np.sqrt((row**2).sum()) for row in side.flatten(1).numpy()] for side in (student, teacher)]

    def mean(one: list[Any], other: list[Any]) -> float:
        return float(np.mean([[kernel(a, b) for b in other] for a in one]))

    return mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(unit[0], unit[1])


def written_out(kernel: Kernel, student: Tensor, teacher: Tensor) -> float:
    if isinstance(kernel, LinearKernel):
        return slow_discrepancy(lambda a, b: a @ b, student, teacher)
    if isinstance(kernel, PolynomialKernel):
        return slow_discrepancy(lambda a, b: (a @ b + kernel.offset) ** kernel.degree, student, teacher)
    assert isinstance(kernel, GaussianKernel)
    variance = kernel.variance
    if variance is None:
        unit = [[row / np.sqrt((row**2).sum()) for row in side.flatten(1).numpy()] for side in (student, teacher)]
        variance = float(np.mean([[((a - b) ** 2).sum() for b in unit[1]] for a in unit[0]]))
    return slow_discrepancy(lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * variance)), student, teacher)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("channels", [(3, 5), (9, 8)], ids=str)
def test_neuron_selectivity_is_the_discrepancy_of_all_pairs_of_channels(
    kernel: Kernel, channels: tuple[int, int]
) -> None:
    student, _ = maps(2, channels[0], 2, 3)
    _, teacher = maps(2, channels[1], 2, 3, seed=3)
    loss = NeuronSelectivity(kernel=kernel)(student, teacher)
    expected = [written_out(kernel, s, t) for s, t in zip(student, teacher, strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-9)
    # Planted: channels of any length, or squared lengths in place of lengths, give something else.
    raw = kernel(student.flatten(2), teacher.flatten(2))
    assert raw.tolist() != pytest.approx(expected, rel=1e-2)


def test_a_linear_kernel_sees_the_mean_only() -> None:
    student, _ = maps(3, 4, 6)
    # The same mean, twice the spread.
    spread = 2 * student - student.mean(1, keepdim=True)
    assert torch.allclose(LinearKernel()(student, spread), torch.zeros(3, dtype=torch.float64))
    for kernel in (PolynomialKernel(), GaussianKernel()):
        assert float(kernel(student, spread).min()) > 0.01


def test_no_product_of_all_channels_at_all_positions_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor of a step: at most a matrix of channels, never channels x channels x positions."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.largest = max(self.largest, out.numel())
            return out

    def largest(objective: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> int:
        with Largest() as seen:
            objective(student, teacher)
        return seen.largest

    def all_pairs(s: Tensor, t: Tensor) -> Tensor:
        unit = [x.flatten(2) / x.flatten(2).norm(dim=2, keepdim=True) for x in (s, t)]
        pairs = ((unit[0], unit[0], 1), (unit[1], unit[1], 1), (unit[0], unit[1], -2))
        return sum(f * (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).square().mean((1, 2)) for a, b, f in pairs)  # type: ignore[return-value]

    student, teacher = torch.randn(2, 16, 14, 14), torch.randn(2, 32, 14, 14)
    most = 2 * max(32 * 32, 32 * 14 * 14)
    for kernel in KERNELS:
        assert largest(NeuronSelectivity(kernel=kernel), student, teacher) <= most
    assert largest(all_pairs, student, teacher) > most
    assert torch.allclose(all_pairs(student, teacher), NeuronSelectivity()(student, teacher), atol=1e-6)
    few = torch.randn(2, 64, 4, 4), torch.randn(2, 96, 4, 4)
    assert largest(NeuronSelectivity(), *few) <= 2 * 96 * 16
    assert torch.allclose(all_pairs(*few), NeuronSelectivity()(*few), atol=1e-6)


def test_a_channel_that_is_switched_off_has_a_gradient_of_ordinary_size() -> None:
    student, teacher = (side.float() for side in maps(2, 4, 3, 3))
    student[:, 1] = 0
    student.requires_grad_()
    for kernel in KERNELS:
        loss = NeuronSelectivity(kernel=kernel)(student, teacher)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert float(gradient.abs().max()) < 10


# Channels as distributions, and their correlation.


def test_channel_distribution_is_the_formula_channel_by_channel() -> None:
    student, teacher = maps(3, 4, 2, 3)
    t = 2.0
    for number in range(3):
        total = 0.0
        for s, u in zip(student[number].flatten(1), teacher[number].flatten(1), strict=True):
            p, q = (np.exp(x.numpy() / t) / np.exp(x.numpy() / t).sum() for x in (u, s))
            total += float((p * np.log(p / q)).sum())
        one = slice(number, number + 1)
        value = float(ChannelDistribution(temperature=t)(student[one], teacher[one]))
        assert value == pytest.approx(t**2 / 4 * total)
        # Planted: softmax over channels, as soft targets on a map have it.
        assert value != pytest.approx(float(SoftTargets(temperature=t)(student[one], teacher[one])), rel=1e-2)


def test_channel_correlation_is_the_formula_pair_by_pair() -> None:
    student, teacher = maps(3, 4, 2, 3)

    def rows(features: Tensor) -> Any:
        flat = features.flatten(1).numpy()
        gram = np.array([[float((a * b).sum()) for b in flat] for a in flat])
        return gram / np.sqrt((gram**2).sum(1, keepdims=True))

    loss = ChannelCorrelation()(student, teacher)
    for number in range(3):
        difference = rows(student[number]) - rows(teacher[number])
        assert float(loss[number]) == pytest.approx((difference**2).sum() / 4)
        plain = np.cov(student[number].flatten(1)) - np.cov(teacher[number].flatten(1))
        assert float(loss[number]) != pytest.approx((plain**2).sum() / 4, rel=1e-2)


def test_a_bridge_makes_other_channels_comparable() -> None:
    student, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 5, 2, 2)
    bridge = ChannelBridge().build(student.shape, teacher.shape)
    for objective in (ChannelCorrelation(), ChannelDistribution()):
        assert objective(bridge(student), teacher).shape == (4,)


# Factor transfer: the paraphraser learns the teacher first.


def transfer(student: Tensor, teacher: Tensor, **settings: Any) -> Any:
    """A module whose translator does what its paraphraser does, where channels are as many."""
    torch.manual_seed(0)
    module: Any = FactorTransfer(**settings).objective_for(student.shape, teacher.shape, TaskFacts(examples=64))
    if student.shape[1] == teacher.shape[1]:
        module.translator.load_state_dict(module.estimator.encoder.state_dict())
    return module.eval()


class TestFactorTransfer(ObjectiveLaws):
    wrong = (
        (torch.zeros(3, 4, 2, 2), torch.zeros(3, 5, 2, 2)),
        (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 3)),
        (torch.zeros(3, 4, 2, 2), torch.zeros(4, 4, 2, 2)),
        (torch.zeros(3, 4), torch.zeros(3, 4)),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for settings in (FactorTransfer(), FactorTransfer(share=1.5, distance=EuclideanDistance())):
            student, teacher = torch.randn(4, 4, 2, 3), torch.randn(4, 4, 2, 3)
            objective = transfer(student, teacher, share=settings.share, distance=settings.distance).during(1.0)
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher, made_by=settings)
        # Channels may differ; then nothing is known of the lowest loss.
        other = torch.randn(4, 3, 2, 3)
        yield learned(FactorTransfer(prepare=0.0), other, teacher, equal=(other, teacher), floor=None)
        # While it prepares, the loss is the teacher's alone.
        yield learned(FactorTransfer(), other, teacher, equal=(other, teacher), floor=None)


def test_factor_transfer_compares_unit_vectors_of_factors() -> None:
    student, teacher = maps(3, 4, 2, 3)
    module = transfer(student, teacher).double().during(1.0)
    with torch.no_grad():
        loss = module(student, teacher)
        factors = module.translator(student).flatten(1).numpy(), module.estimator.encoder(teacher).flatten(1).numpy()
    assert factors[0].shape == (3, 2 * 2 * 3)
    for number in range(3):
        s, t = (f[number] / np.sqrt((f[number] ** 2).sum()) for f in factors)
        assert float(loss[number]) == pytest.approx(np.abs(s - t).mean())
        # Planted: factors as they are, and the paper's sum.
        assert float(loss[number]) != pytest.approx(np.abs(factors[0][number] - factors[1][number]).mean(), rel=1e-2)
        assert float(loss[number]) != pytest.approx(np.abs(s - t).sum(), rel=1e-2)


def test_a_paraphraser_first_learns_the_teacher() -> None:
    student, teacher = (side.float() for side in maps(8, 4, 4, 4))
    teacher = torch.cat([teacher[:, :2], teacher[:, :2] ** 2], 1)  # half of the channels say it all
    module = transfer(student, teacher, prepare=0.5).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    student.requires_grad_()
    losses = []
    for _ in range(60):
        loss = module.during(0.0)(student, teacher).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert student.grad is None
    # Then it is frozen, whatever mode its owner is put in.
    module.during(0.5).train()
    before = {name: value.clone() for name, value in module.estimator.state_dict().items()}
    optimizer.zero_grad()
    module(student, teacher).mean().backward()
    optimizer.step()
    assert student.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in module.estimator.state_dict().items())
    assert module.translator.training
    assert not any(part.training for part in module.estimator.modules())


def images() -> Data:
    drawn = torch.Generator().manual_seed(0)
    parts = [ArrayExamples(torch.randn(n, 1, 8, 8, generator=drawn), torch.arange(n) % 4) for n in (24, 8, 8)]
    return Data(train=parts[0], validation=parts[1], test=parts[2], classes=tuple("abcd"), name="noise")


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_stopped_while_preparing_or_after_ends_as_if_it_was_not(tmp_path: Path, stop: int) -> None:
    def stages() -> tuple[Any, list[Stage]]:
        torch.manual_seed(1)
        student, teacher = (residual(width=width, depth=8, classes=4) for width in (4, 6))
        lessons = (at("layer2", FactorTransfer(prepare=0.5)), at("layer2", AttentionTransfer(), weight=10.0))
        fit = Fit(batch=8, checkpoint_steps=1, keep_best=False)
        return student, Offline(knowledge=lessons, epochs=2, fit=fit).stages({"student": student, "teacher": teacher})

    whole, plan = stages()
    run(plan, images(), folder=tmp_path / "whole", progress=False, device="cpu")
    _, plan = stages()
    steps = Course(plan, images(), folder=tmp_path / "parts", device="cpu").steps()
    for _ in range(stop):
        next(steps)
    steps.close()
    parts, plan = stages()
    run(plan, images(), folder=tmp_path / "parts", resume=True, progress=False, device="cpu")
    other = stages()[0].state_dict()
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())
    assert not all(torch.equal(value, other[name]) for name, value in whole.state_dict().items())
