"""Direct features against their formulas written out slowly, each with a mistake that the comparison finds."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn

from lessen.core import Batch, LearnedObjective, TaskFacts
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.graph import Edge, Flow, Graph, Network, Stage
from lessen.knowledge import (
    ActivationBoundary,
    AsItIs,
    AsNamed,
    AutoBridge,
    BottleneckBridge,
    CosineDistance,
    ForwardKL,
    FusionBridge,
    HierarchicalContext,
    Hint,
    HuberDistance,
    LogSumDistance,
    MaskedGeneration,
    NormalizedHint,
    NormAndDirection,
    OneForAll,
    OrthogonalBridge,
    Overhaul,
    OverLayers,
    SimilarityAttention,
    SoftTargets,
    StandardizeChannels,
    StandardizePositions,
    UnitLength,
    VariationalInformation,
    Whiten,
)
from lessen.knowledge.axes.normalizers import normalized
from lessen.knowledge.axes.similarity_attention import Calibration, similarity_profile
from lessen.knowledge.features.norm_and_direction import NormAndDirectionLoss
from lessen.knowledge.features.overhaul import OverhaulLoss, negative_mean
from lessen.knowledge.features.variational_information import VariationalLoss
from lessen.surgery.taps import taps as several
from lessen.testing.tasks import clusters, perceptron
from lessen.zoo import residual

TASK = TaskFacts(examples=64, classes=3)


def taps(*shape: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    both = torch.randn(2, *shape, dtype=torch.float64)
    return both[0], both[1]


def built(settings: Any, student: Tensor, teacher: Tensor) -> Any:
    torch.manual_seed(0)
    return settings.objective_for(tuple(student.shape), tuple(teacher.shape), TASK).double().eval()


class TestActivationBoundary:
    @pytest.mark.parametrize("margin", [1.0, 0.25])
    def test_it_is_the_squared_hinge_of_a_classifier_of_every_neuron(self, margin: float) -> None:
        student, teacher = taps(4, 3, 2, 2)

        def slow(sign: float) -> Tensor:
            losses = []
            for s_one, t_one in zip(student, teacher, strict=True):
                total = 0.0
                for s, t in zip(s_one.flatten().tolist(), t_one.flatten().tolist(), strict=True):
                    fires = 1.0 if sign * t > 0 else -1.0
                    total += margin**2 * max(0.0, 1.0 - fires * s / margin) ** 2
                losses.append(total / s_one.numel())
            return torch.tensor(losses, dtype=torch.float64)

        loss = ActivationBoundary(margin=margin)(student, teacher)
        assert torch.allclose(loss, slow(1.0))
        assert not torch.allclose(loss, slow(-1.0))


class TestOverhaul:
    @pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, -0.5), (-0.5, 0.4), (1.2, 2.0)])
    def test_the_margin_is_the_mean_of_what_is_negative(self, mean: float, deviation: float) -> None:
        """Against a million draws, within four standard errors."""
        drawn = torch.Generator().manual_seed(1)
        x = mean + abs(deviation) * torch.randn(1_000_000, generator=drawn, dtype=torch.float64)
        below = x[x < 0]
        error = 4 * float(below.std()) / math.sqrt(len(below))
        value = float(negative_mean(torch.tensor(mean), torch.tensor(deviation)))
        assert value == pytest.approx(float(below.mean()), abs=error)
        # The mean of the rectified values is another number, and so is that with the mean's sign changed.
        assert float(x.clamp_max(0).mean()) != pytest.approx(value, abs=error)
        if mean:
            assert float(negative_mean(torch.tensor(-mean), torch.tensor(deviation))) != pytest.approx(value, abs=error)

    def test_the_margin_in_closed_form_far_out(self) -> None:
        for ratio in (-40.0, -3.0, 0.0, 2.5, 6.0):
            expected = truncnorm.mean(-np.inf, -ratio, loc=2 * ratio, scale=2.0)
            got = negative_mean(torch.tensor(2 * ratio, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
            assert float(got) == pytest.approx(expected, rel=1e-9)
        # Next to nothing is negative: -deviation^2 / mean, where released code jumps to -3 deviations.
        got = negative_mean(torch.tensor([1e2, 1e5, 1e9]), torch.ones(3))
        assert torch.allclose(got, torch.tensor([-1e-2, -1e-5, 0.0]), rtol=1e-3, atol=1e-12)
        still = negative_mean(torch.tensor([1.0, 0.0, -1.0]), torch.zeros(3))
        assert torch.equal(still, torch.tensor([0.0, 0.0, -1.0]))

    def test_it_is_the_three_parts_of_the_paper(self) -> None:
        student, teacher = taps(4, 3, 2, 3)
        margin = (-0.2, -1.0, 0.0)
        made = built(Overhaul(margin=margin), student, teacher)

        def slow(*, free: bool) -> Tensor:
            losses = torch.zeros(4, dtype=torch.float64)
            for n in range(4):
                for c in range(3):
                    for s, t in zip(student[n, c].flatten(), teacher[n, c].flatten(), strict=True):
                        if t > 0:
                            losses[n] += (s - t) ** 2
                        elif t > margin[c]:
                            losses[n] += (s - t) ** 2 if s > t or not free else 0
                        else:
                            losses[n] += (s - margin[c]) ** 2 if s > margin[c] or not free else 0
            return losses / teacher[0].numel()

        assert torch.allclose(made(student, teacher), slow(free=True), rtol=1e-6)
        assert not torch.allclose(made(student, teacher), slow(free=False), rtol=1e-2)

    def test_the_estimate_is_the_mean_of_all_that_was_negative_in_training(self) -> None:
        student, teacher = taps(12, 5, 3)  # tokens: channels stand last
        made: OverhaulLoss = built(Overhaul(), student, teacher)
        made(student, teacher)
        assert not made.margin_C.any()  # nothing is learned in eval mode
        made.train()
        for part in teacher.split([5, 4, 3]):
            made(student[: len(part)], part)
        by_channel = teacher.flatten(0, 1).T
        expected = torch.stack([row[row < 0].mean() for row in by_channel])
        assert torch.allclose(made.margin_C, expected)
        assert not torch.allclose(made.margin_C, by_channel.clamp_max(0).mean(1))
        given: OverhaulLoss = built(Overhaul(margin=(-0.5, -0.5, -0.5)), student, teacher)
        given.train()(student, teacher)
        assert torch.equal(given.margin_C, torch.full((3,), -0.5, dtype=torch.float64))

    def test_the_estimate_and_the_closed_form_agree_behind_a_batch_norm(self) -> None:
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(3)
        norm.weight.data, norm.bias.data = torch.tensor([1.0, 0.4, -2.0]), torch.tensor([0.0, 0.3, -1.0])
        with torch.no_grad():
            given = norm(torch.randn(100_000, 3) * 5 + 2)
        made: OverhaulLoss = Overhaul().objective_for((8, 3), (8, 3), TASK)
        made.train()(given, given)
        closed = tuple(negative_mean(norm.bias, norm.weight).tolist())
        assert made.margin_C.tolist() == pytest.approx(closed, abs=0.02)
        built(Overhaul(margin=closed), given, given)
        assert made.margin_C.tolist() != pytest.approx(negative_mean(norm.bias, norm.weight**2).tolist(), abs=0.02)

    def test_two_passes_may_come_before_a_gradient(self) -> None:
        student, teacher = taps(6, 3)
        for settings in (Overhaul(), NormAndDirection()):
            made = built(settings, student, teacher).train()
            both = [tap.clone().requires_grad_() for tap in (student, teacher)]
            given = (both[1], torch.arange(6) % 3) if isinstance(settings, NormAndDirection) else both[1]
            (made(both[0], given) + made(both[0], given)).sum().backward()
            assert all(bool(torch.isfinite(tap.grad).all()) for tap in both if tap.grad is not None)

    def test_a_margin_must_fit(self) -> None:
        for margin in ((-0.5,), (-0.5, -0.5, 0.5), ()):
            with pytest.raises(ShapeError, match=r"\(4, 3, 2, 2\)"):
                Overhaul(margin=margin).objective_for((4, 3, 2, 2), (4, 3, 2, 2), TASK)


class TestVariationalInformation:
    def test_it_is_the_density_of_a_normal_distribution(self) -> None:
        student, teacher = taps(4, 3, 2, 2)
        made: VariationalLoss = built(VariationalInformation(variance=2.0), student, teacher)
        made.raw_C.data = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)
        for power, same in ((0.5, True), (1.0, False)):
            scale = made.variance().detach().pow(power).view(1, 3, 1, 1)
            density = torch.distributions.Normal(student, scale).log_prob(teacher)
            expected = (-density - math.log(2 * math.pi) / 2).mean((1, 2, 3))
            assert torch.allclose(made(student, teacher), expected) == same

    def test_the_best_variance_is_the_mean_squared_error_of_the_channel(self) -> None:
        student, teacher = taps(50, 3)
        made: VariationalLoss = built(VariationalInformation(), student, teacher)
        assert torch.allclose(made.variance(), torch.full((3,), 5.0, dtype=torch.float64))
        best = (student - teacher).square().mean(0)
        for variance, zero in ((best, True), (2 * best, False)):
            made.raw_C.data = (variance - 1e-5).expm1().log()
            (gradient,) = torch.autograd.grad(made(student, teacher).mean(), made.raw_C)
            assert torch.allclose(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-9) == zero


class TestHierarchicalContext:
    def test_it_is_the_mean_over_blocks_of_each_size(self) -> None:
        student, teacher = taps(3, 2, 8, 8)

        def slow(halve: float) -> np.ndarray:  # type: ignore[type-arg]
            difference = (student - teacher).numpy()
            total, weight, weights = (difference**2).mean((1, 2, 3)), 1.0, 1.0
            for size in (4, 2, 1):
                weight *= halve
                weights += weight
                side = 8 // size
                blocks = difference.reshape(3, 2, size, side, size, side).mean((3, 5))
                total = total + weight * (blocks**2).mean((1, 2, 3))
            return total / weights

        loss = HierarchicalContext()(student, teacher).numpy()
        assert np.allclose(loss, slow(0.5))
        assert not np.allclose(loss, slow(1.0))

    def test_a_map_that_is_no_larger_than_its_sizes_gives_a_hint(self) -> None:
        student, teacher = taps(3, 2, 2, 2)
        assert torch.equal(HierarchicalContext(sizes=(4, 2))(student, teacher), Hint()(student, teacher))
        assert not torch.equal(HierarchicalContext(sizes=(1,))(student, teacher), Hint()(student, teacher))

    def test_the_review_is_fusion_and_context_over_layers(self) -> None:
        """ReviewKD on an edge: every convolution of the fusion learns, and the student's layers with it."""
        student, teacher = residual(width=4, depth=8), residual(width=6, depth=8)
        images = torch.randn(8, 1, 8, 8)
        layers = several("layer1", "layer2", "layer3")
        objective = OverLayers(objective=HierarchicalContext(), pairing=AsNamed(), bridge=None)
        where = {"source_tap": layers, "target_tap": layers}
        assert step(student, teacher, images, objective=objective, bridge=FusionBridge(width=5), **where) > 0
        assert all(p.grad is not None for p in student.layer3.parameters())


def step(student: nn.Module, teacher: nn.Module, images: Tensor, **edge: Any) -> float:
    """One step of an edge between two networks; everything the edge made gets a gradient."""
    batch = Batch(images, torch.arange(len(images)), torch.arange(len(images)) % 3)
    nodes = [Network(name="t", module=teacher, learns=False), Network(name="s", module=student, learns=True)]
    edges = [Edge(source="t", target="s", **edge)]
    flow = Flow(Stage(name="x", graph=Graph(nodes=nodes, edges=edges), steps=1), batch, task=TASK)
    flow.set_mode(training=True)
    total = flow(batch, 0.0).total
    total.backward()
    made = [part for part in flow.owners["s"].parts.values() if part is not student]
    assert all(p.grad is not None for part in made for p in part.parameters())
    flow.close()
    return float(total.detach())


class TestMaskedGeneration:
    def made(self, **settings: Any) -> Any:
        """With convolutions that do nothing, so that only the mask and the ReLU are left."""
        student, teacher = taps(6, 3, 4, 4)
        made = built(MaskedGeneration(**settings), student, teacher)
        for layer in (made.generate[0], made.generate[2]):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)
        return made

    def test_unmasked_and_with_nothing_to_generate_it_is_a_hint(self) -> None:
        student, teacher = taps(6, 3, 4, 4)
        made = self.made()
        assert torch.allclose(made(student.abs(), teacher), Hint()(student.abs(), teacher))
        assert not torch.allclose(made(student, teacher), Hint()(student, teacher))  # what is negative is lost
        made = self.made(masked=0.0).train()
        assert torch.allclose(made(student.abs(), teacher), Hint()(student.abs(), teacher))

    @pytest.mark.parametrize("channels", [False, True])
    def test_what_is_masked_is_drawn_from_the_global_generator(self, channels: bool) -> None:
        student, teacher = taps(6, 3, 4, 4)
        made = self.made(masked=0.6, channels=channels).train()
        torch.manual_seed(5)
        loss = made(student.abs(), teacher)
        torch.manual_seed(5)
        assert torch.equal(made(student.abs(), teacher), loss)
        assert not torch.equal(made(student.abs(), teacher), loss)
        torch.manual_seed(5)
        mask = torch.rand((6, 3, 1, 1) if channels else (6, 1, 4, 4))
        assert torch.allclose(loss, Hint()(student.abs() * (mask >= 0.6), teacher))
        assert not torch.allclose(loss, Hint()(student.abs() * (mask < 0.6), teacher))


class TestNormalizedHint:
    @pytest.mark.parametrize("shape", [(40, 3), (20, 7, 3), (10, 3, 4, 4)])
    def test_it_is_the_correlation_of_every_channel(self, shape: tuple[int, ...]) -> None:
        student, teacher = taps(*shape)
        student = student + teacher
        loss = NormalizedHint(student=StandardizeChannels(tiny=1e-15), teacher=StandardizeChannels(tiny=1e-15))(
            student, teacher
        )
        rows = [(tap if tap.ndim == 3 else tap.movedim(1, -1)).flatten(0, -2).T.numpy() for tap in (student, teacher)]
        each = [np.corrcoef(one, other)[0, 1] for one, other in zip(*rows, strict=True)]
        assert float(loss.mean()) == pytest.approx(2 - 2 * np.mean(each))
        assert float(loss.mean()) != pytest.approx(1 - np.mean(each), rel=1e-3)
        assert torch.allclose(NormalizedHint()(3 * student - 5, teacher), loss, rtol=1e-5)
        assert not torch.allclose(Hint()(3 * student - 5, teacher), loss, rtol=1e-5)

    def test_a_dead_channel_has_a_finite_gradient(self) -> None:
        student, teacher = taps(6, 3)
        student[:, 1] = 0
        student.requires_grad_()
        for normalizer in (StandardizeChannels(), Whiten()):
            loss = NormalizedHint(student=normalizer, teacher=normalizer)(student, teacher)
            (gradient,) = torch.autograd.grad(loss.sum(), student)
            assert bool(torch.isfinite(gradient).all())

    def test_what_is_whitened_has_no_correlation_left(self) -> None:
        torch.manual_seed(0)
        features = torch.randn(50, 4, 3, 3, dtype=torch.float64)
        mixed = torch.einsum("ij,njhw->nihw", torch.randn(4, 4).double(), features) + 5

        def covariance(values_NCP: Tensor) -> Tensor:
            return torch.cov(values_NCP.transpose(0, 1).flatten(1), correction=0)

        eye = torch.eye(4, dtype=torch.float64)
        assert torch.allclose(covariance(normalized(mixed, Whiten(shrink=1e-9))), eye, atol=1e-5)
        assert not torch.allclose(covariance(normalized(mixed, StandardizeChannels())), eye, atol=1e-2)
        # Any other linear mix of the same features is whitened to the same, up to a rotation: lengths agree.
        whitened = [normalized(each, Whiten(shrink=1e-9)).square().sum(1) for each in (features, mixed)]
        assert torch.allclose(*whitened, rtol=1e-5)

    @pytest.mark.parametrize("shape", [(6, 3), (5, 7, 3), (4, 3, 4, 4)])
    def test_features_of_length_1_are_as_far_apart_as_their_cosine_says(self, shape: tuple[int, ...]) -> None:
        student, teacher = taps(*shape)
        cosine = nn.functional.cosine_similarity(student.flatten(1), teacher.flatten(1))
        loss = NormalizedHint(student=UnitLength(), teacher=UnitLength())(student, teacher)
        assert torch.allclose(loss * student[0].numel(), 2 - 2 * cosine)
        one_sided = NormalizedHint(student=AsItIs(), teacher=UnitLength())(student, teacher)
        assert not torch.allclose(one_sided * student[0].numel(), 2 - 2 * cosine, rtol=1e-2)

    @pytest.mark.parametrize("shape", [(6, 5), (4, 7, 5), (4, 5, 3, 2)])
    def test_standardized_positions_are_pytorchs_layer_norm(self, shape: tuple[int, ...]) -> None:
        rows = [tap if tap.ndim == 3 else tap.movedim(1, -1) for tap in taps(*shape)]
        normed = [nn.functional.layer_norm(tap, (5,), eps=1e-6) for tap in rows]
        loss = NormalizedHint(student=StandardizePositions(), teacher=StandardizePositions())(*taps(*shape))
        assert torch.allclose(loss, (normed[0] - normed[1]).square().flatten(1).mean(1))
        assert not torch.allclose(loss, NormalizedHint()(*taps(*shape)), rtol=1e-2)  # each channel over the batch

    def test_log_sum_is_between_the_largest_difference_and_their_number(self) -> None:
        student, teacher = taps(5, 20)
        difference = 30 * (student - teacher)
        for power in (1.0, 4.0, 8.0):
            loss = LogSumDistance(power=power)(difference, torch.zeros_like(difference))
            slow = [math.log(1 + sum(abs(d) ** power for d in row)) for row in difference.tolist()]
            assert torch.allclose(loss, torch.tensor(slow, dtype=torch.float64))
            largest = power * difference.abs().amax(1).log()
            assert bool(((loss >= largest) & (loss <= largest + math.log(21))).all())
        assert not torch.allclose(LogSumDistance(power=2.0)(difference, 0 * difference), loss)

    def test_features_that_are_standardized_already_make_the_forms_agree(self) -> None:
        student, teacher = taps(30, 4)
        ready = normalized(student, StandardizeChannels()).squeeze(2)
        one_sided = NormalizedHint(student=AsItIs(), distance=HuberDistance())
        both = NormalizedHint(distance=HuberDistance())
        assert torch.allclose(one_sided(ready, teacher), both(student, teacher), atol=1e-5)
        assert not torch.allclose(one_sided(student, teacher), both(student, teacher), atol=1e-5)


class TestOrthogonalBridge:
    @pytest.mark.parametrize("shape", [(6, 3), (6, 5, 3), (6, 3, 2, 2)])
    def test_lengths_and_angles_survive_also_after_learning(self, shape: tuple[int, ...]) -> None:
        after = tuple(8 if size == 3 else size for size in shape)

        def gram(features: Tensor) -> Tensor:
            rows = (features if features.ndim == 3 else features.movedim(1, -1)).flatten(0, -2)
            return rows @ rows.T

        for bridge, kept in ((OrthogonalBridge(), True), (AutoBridge(), False)):
            torch.manual_seed(0)
            module = bridge.build(shape, after).eval()
            x, target = torch.randn(shape), torch.randn(after)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
            for _ in range(3):
                assert module(x).shape == after
                assert torch.allclose(gram(module(x)), gram(x), atol=1e-4) == kept
                optimizer.zero_grad()
                before = (module(x) - target).square().mean()
                before.backward()
                optimizer.step()
            if kept:
                assert (module(x) - target).square().mean() < before

    def test_a_wider_student_is_projected(self) -> None:
        weight = OrthogonalBridge().build((4, 8), (4, 3)).linear.weight  # type: ignore[union-attr]
        assert torch.allclose(weight @ weight.T, torch.eye(3), atol=1e-5)

    def test_it_is_there_also_between_equal_widths_and_is_saved(self) -> None:
        torch.manual_seed(0)
        one, other = (OrthogonalBridge().build((4, 5), (4, 5)) for _ in range(2))
        x = torch.randn(4, 5)
        assert not torch.allclose(one(x), x)
        assert not torch.allclose(one(x), other(x))
        other.load_state_dict(one.state_dict())
        assert torch.equal(one(x), other(x))

    def test_what_does_not_fit_is_named(self) -> None:
        for before, after in (((4, 5), (4, 5, 2)), ((4, 3, 2, 2), (4, 5, 3, 2)), ((4, 7, 3), (4, 8, 3))):
            with pytest.raises(ShapeError) as error:
                OrthogonalBridge().build(before, after)
            assert str(before) in str(error.value)
            assert str(after) in str(error.value)


class TestBottleneckBridge:
    @pytest.mark.parametrize("before", [(3, 5, 4, 4), (3, 8, 6, 6), (3, 8, 2, 2)])
    def test_it_gives_the_teachers_shape_through_a_narrow_middle(self, before: tuple[int, ...]) -> None:
        module = BottleneckBridge(reduction=4).build(before, (3, 8, 4, 4))
        out = module(torch.randn(before))
        assert out.shape == (3, 8, 4, 4)
        assert bool((out >= 0).all())
        out.sum().backward()
        assert all(p.grad is not None for p in module.parameters())
        convolutions = 2 * before[1] + 9 * 2 * 2 + 2 * 8
        assert sum(p.numel() for p in module.parameters()) == convolutions + 2 * (2 + 2 + 8)

    def test_it_is_for_maps(self) -> None:
        with pytest.raises(ShapeError, match=r"\(3, 8\).*\(3, 8, 4, 4\)"):
            BottleneckBridge().build((3, 8), (3, 8, 4, 4))


class TestNormAndDirection:
    def test_against_the_means_of_the_classes(self) -> None:
        student, teacher = taps(9, 4)
        labels = torch.arange(9) % 3
        made: NormAndDirectionLoss = built(NormAndDirection(), student, teacher)
        made.train()
        for part in (slice(0, 4), slice(4, 9)):
            made(student[part], (teacher[part], labels[part]))
        made.eval()
        means = torch.stack([teacher[labels == k].mean(0) for k in range(3)])
        assert torch.allclose(made.mean_KD, means)

        def slow(longer: Any) -> Tensor:
            losses = []
            for s, t, k in zip(student, teacher, labels, strict=True):
                direction = means[k] / means[k].square().sum().sqrt()
                lengths = s.square().sum().sqrt(), t.square().sum().sqrt()
                losses.append(1 - s @ direction / longer(lengths))
            return torch.stack(losses)

        loss = made(student, (teacher, labels))
        assert torch.allclose(loss, slow(max))
        assert not torch.allclose(loss, slow(min))
        # A student that is longer than the teacher is left with the angle to its class.
        assert torch.allclose(
            made(99 * student, (teacher, labels)), 1 - torch.cosine_similarity(student, means[labels])
        )

    def test_a_class_that_was_not_seen_has_the_teachers_direction(self) -> None:
        student, teacher = taps(4, 5)
        made: NormAndDirectionLoss = built(NormAndDirection(), student, teacher)
        labels = torch.tensor([0, 0, 1, 2])
        expected = CosineDistance()(99 * student, teacher)
        assert torch.allclose(made(99 * student, (teacher, labels)), expected)
        made.train()(student[:2], (teacher[:2], labels[:2]))
        assert torch.allclose(made.eval()(99 * student, (teacher, labels))[2:], expected[2:])
        assert not torch.allclose(made(99 * student, (teacher, labels))[:2], expected[:2])

    def test_labels_must_be_classes(self) -> None:
        student, teacher = taps(4, 3)
        made = built(NormAndDirection(), student, teacher)
        with pytest.raises(DataError, match="NormAndDirection"):
            made(student, (teacher, teacher.softmax(1)))
        with pytest.raises(DataError, match="classes"):
            NormAndDirection().objective_for((4, 3), (4, 3), TaskFacts(examples=9))


class TestOneForAll:
    def test_with_power_1_it_is_the_divergence_and_the_teachers_entropy(self) -> None:
        student, teacher = taps(6, 5)
        labels = torch.tensor([0, 1, 2, 3, 4, 0])
        plain = SoftTargets(temperature=1.0, divergence=ForwardKL())(student, teacher)
        entropy = torch.distributions.Categorical(logits=teacher).entropy()
        assert torch.allclose(OneForAll(power=1.0)(student, (teacher, labels)), plain + entropy)
        assert not torch.allclose(OneForAll(power=1.01)(student, (teacher, labels)), plain + entropy)

    @pytest.mark.parametrize("power", [1.2, 2.0])
    def test_the_targets_written_out(self, power: float) -> None:
        student, teacher = taps(3, 4)
        labels = torch.tensor([3, 0, 3])

        def slow(shift: int) -> list[float]:
            losses = []
            for s, t, label in zip((student / 2).tolist(), (teacher / 2).tolist(), labels.tolist(), strict=True):
                s_sum, t_sum = sum(map(math.exp, s)), sum(map(math.exp, t))
                loss = 0.0
                for c in range(4):
                    own = 1.0 if c == (label + shift) % 4 else 0.0
                    loss -= ((math.exp(t[c]) / t_sum + own) ** power - own) * math.log(math.exp(s[c]) / s_sum)
                losses.append(loss)
            return losses

        got = OneForAll(power=power, temperature=2.0)(student, (teacher, labels)).tolist()
        assert got == pytest.approx(slow(0))
        assert got != pytest.approx(slow(1))

    def test_any_layer_of_any_network_meets_the_logits(self) -> None:
        student, teacher = residual(width=4, depth=8, classes=4), perceptron(16, seed=1, features=64)
        flat = nn.Sequential(nn.Flatten(), teacher)
        for layer in ("layer1", "layer3", ""):
            images = torch.randn(8, 1, 8, 8)
            edge = {"objective": OneForAll(), "target_tap": layer, "bridge": AutoBridge()}
            assert step(copy.deepcopy(student), flat, images, **edge) > 0

    def test_labels_must_be_classes(self) -> None:
        student, teacher = taps(4, 3)
        with pytest.raises(DataError, match="OneForAll"):
            OneForAll()(student, (teacher, teacher.softmax(1)))
        with pytest.raises(SettingError):
            OneForAll(power=0.5)


class TestSemanticCalibration:
    SETTINGS = OverLayers(objective=Hint(), pairing=SimilarityAttention(points=6, width=5), bridge=None)

    def layers(self, count: int, students: int, teachers: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        torch.manual_seed(4)
        drawn = torch.randn(students + teachers, count, 3, dtype=torch.float64)
        return tuple(drawn[:students]), tuple(drawn[students:])

    def made(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Any:
        torch.manual_seed(0)
        shapes = tuple(tuple(tuple(tap.shape) for tap in side) for side in (student, teacher))
        return self.SETTINGS.objective_for(*shapes, TASK).double()

    def test_one_layer_on_each_side_is_a_hint(self) -> None:
        student, teacher = self.layers(5, 1, 1)
        assert torch.allclose(self.made(student, teacher)(student, teacher), Hint()(student[0], teacher[0]))

    def test_weights_against_their_formula(self) -> None:
        student, teacher = self.layers(5, 2, 3)
        made = self.made(student, teacher)
        weigher: Calibration = made.weigher

        def profile(tap: Tensor) -> Tensor:
            unit = (tap / tap.norm(dim=1, keepdim=True)).numpy()
            return torch.tensor(np.quantile(unit @ unit.T, np.linspace(0, 1, 6), axis=1).T)

        def unit(row: Tensor) -> Tensor:
            return row / row.norm()

        for axis, same in ((1, True), (0, False)):
            losses = []
            for n in range(5):
                score = torch.stack(
                    [
                        torch.stack(
                            [
                                unit(weigher.queries[i](profile(s)[n])) @ unit(weigher.keys[j](profile(t)[n]))
                                for j, t in enumerate(teacher)
                            ]
                        )
                        for i, s in enumerate(student)
                    ]
                )
                weight = score.softmax(axis) / (2 if axis == 1 else 3)
                hints = torch.stack([torch.stack([Hint()(s, t)[n] for t in teacher]) for s in student])
                losses.append((weight * hints).sum())
            assert torch.allclose(made(student, teacher), torch.stack(losses)) == same

    def test_batches_of_any_size_may_come_and_queries_learn(self) -> None:
        student, teacher = self.layers(5, 2, 3)
        made = self.made(student, teacher)
        for count in (1, 2, 7):
            made(*self.layers(count, 2, 3)).sum().backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in made.parameters())
        assert made.weigher.queries[0][0].weight.grad.abs().sum() > 0

    def test_a_profile_does_not_see_lengths_or_the_order_of_the_others(self) -> None:
        _, features = taps(6, 4)
        expected = similarity_profile(features, 5)
        order = torch.tensor([0, 3, 2, 5, 1, 4])
        assert torch.allclose(similarity_profile(7 * features[order], 5), expected[order])
        assert not torch.allclose(similarity_profile(features + 1, 5), expected)


def test_all_are_finite_in_mixed_precision() -> None:
    """An edge runs under autocast, where matrix products of 32 bits come back in 16."""
    student, teacher = (tap.float() for tap in taps(6, 3, 4, 4))
    labels = torch.arange(6) % 3
    layers = OverLayers(objective=HierarchicalContext(), pairing=SimilarityAttention())
    objectives = (
        *(ActivationBoundary(), Overhaul(), VariationalInformation(), HierarchicalContext(), MaskedGeneration()),
        *(NormalizedHint(), NormalizedHint(student=Whiten(), teacher=Whiten(), distance=LogSumDistance())),
        *(NormAndDirection(), layers),
    )
    for settings in objectives:
        ours: Any = (student, student) if settings is layers else student
        theirs: Any = (teacher, teacher) if settings is layers else teacher
        objective: Any = settings
        if isinstance(settings, LearnedObjective):
            shape = tuple(student.shape)
            shapes = (shape, shape) if settings is layers else shape
            objective = settings.objective_for(shapes, shapes, TASK).train()
        given = (theirs, labels) if getattr(settings, "needs", ()) else theirs
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(ours, given)
        assert loss.dtype in (torch.float32, torch.bfloat16)
        assert bool(torch.isfinite(loss).all()), settings


def test_a_step_of_a_run_moves_what_each_edge_learns() -> None:
    """Learned objectives of this family on an edge of two perceptrons: their weights get a gradient, buffers move."""
    batch = clusters().train.fetch(torch.arange(12))
    for objective in (Overhaul(), VariationalInformation(), NormAndDirection()):
        student, teacher = perceptron(8, seed=1, classes=3), perceptron(12, seed=2, classes=3)
        edge = {"objective": objective, "source_tap": "norm", "target_tap": "norm", "bridge": AutoBridge()}
        assert math.isfinite(step(student, teacher, batch.inputs, **edge))
        assert student.layer1.weight.grad.abs().sum() > 0
