"""Widths by a knapsack, and by a clock: against enumeration, against counting, and against planted errors."""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Clock, Context, Inputs, Times
from lessen.core.errors import DivergedError, PlanError, SettingError
from lessen.core.training import ShortTraining
from lessen.engine import EngineTrainer
from lessen.operations import Global, Knapsack, PruneChannels, Taylor
from lessen.operations.prune_channels.cost import alike
from lessen.operations.prune_channels.judge import RATES, Judge, adapted_loss, trained_loss
from lessen.operations.prune_channels.refit import QUICK_EXAMPLES, quickly
from lessen.operations.search import search
from lessen.operations.search.contract import Problem, Widths, losses_for, options_for
from lessen.operations.search.knapsack import allocate
from lessen.surgery.coupling import analyse
from lessen.testing import EXAMPLES
from lessen.zoo import residual


class Counted:
    """A clock that ticks once for each parameter, and sees every network that it was asked about."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def times(self, networks: Sequence[nn.Module], inputs: Inputs) -> Times:
        self.seen.append(len(networks))
        return Times(milliseconds=tuple(float(sum(p.numel() for p in network.parameters())) for network in networks))

    def says(self) -> str:
        return "parameters, counted"


def chain(widths: Mapping[str, int]) -> float:
    """The cost of four layers in a row, 4 -> a -> b -> c -> 2, as a share of that at full width."""
    a, b, c = widths["a"], widths["b"], widths["c"]
    return (4 * a + a * b + b * c + 2 * c) / (4 * 8 + 8 * 6 + 6 * 8 + 2 * 8)


SIZES = {"a": 8, "b": 6, "c": 8}


def problem(seed: int, target: float) -> Problem:
    draw = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(size, generator=draw) ** 3 for name, size in SIZES.items()}
    start = next(
        {name: max(1, round(share * size)) for name, size in SIZES.items()}
        for share in torch.linspace(1, 0, 50).tolist()
        if chain({name: max(1, round(share * size)) for name, size in SIZES.items()}) <= target
    )
    return Problem(
        losses={name: losses_for(score.tolist()) for name, score in scores.items()},
        options={name: options_for(size, least=1, step=1) for name, size in SIZES.items()},
        cost=lambda many: [chain(widths) for widths in many],
        target=target,
        start=start,
        counted=chain,
    )


def least_loss(given: Problem) -> float:
    every = (dict(zip(SIZES, widths, strict=True)) for widths in itertools.product(*given.options.values()))
    return min(given.loss(widths) for widths in every if chain(widths) <= given.target)


@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
def test_it_is_the_best_of_all_widths(target: float) -> None:
    for seed in range(8):
        given = problem(seed, target)
        found = allocate(given, widths=5, tries=5)
        assert found.cost == chain(found.widths) <= target
        assert found.loss == given.loss(found.widths) == pytest.approx(least_loss(given), abs=1e-3), seed


def test_without_counting_what_two_widths_change_together_it_is_not() -> None:
    """The planted error: a table alone, its entries added up. It still never costs or loses more than the start."""
    gained = []
    for seed in range(12):
        given = replace(problem(seed, 0.25), counted=lambda widths: 0.0)
        found = allocate(given, widths=5, tries=5)
        assert chain(found.widths) <= 0.25
        start, least = given.loss(given.start), least_loss(given)
        assert found.loss <= start
        gained.append((start - found.loss) / (start - least) if start > least + 1e-9 else 1.0)
    assert sum(gained) / len(gained) < 0.9


WORTH = {"a": 6.0, "b": 0.3, "c": 1.0}
"""How much more a group matters than its scores say."""


def worth(given: Problem, widths: Mapping[str, int]) -> float:
    return sum(WORTH[name] * given.losses[name][width] for name, width in widths.items())


@pytest.mark.parametrize("target", [0.25, 0.5])
def test_a_search_finds_what_the_scores_do_not_say(target: float) -> None:
    gained = []
    for seed in range(4):
        plain = problem(seed, target)
        given = replace(plain, judge=lambda widths, plain=plain: worth(plain, widths), seed=seed)
        found = allocate(given, widths=5, tries=5, candidates=40)
        assert found.cost == chain(found.widths) <= target
        assert found.loss == given.loss(found.widths)
        assert found.judged[:-1] == sorted(found.judged[:-1], reverse=True)
        assert found.judged[-1] == worth(plain, found.widths)
        without = worth(plain, allocate(plain, widths=5, tries=5).widths)
        every = (dict(zip(SIZES, widths, strict=True)) for widths in itertools.product(*given.options.values()))
        least = min(worth(plain, widths) for widths in every if chain(widths) <= target)
        assert worth(plain, found.widths) <= without
        gained.append((without - worth(plain, found.widths)) / (without - least) if without > least else 1.0)
    assert sum(gained) / len(gained) > 0.6


LONG = {f"g{k}": 8 * (1 + k // 2) for k in range(8)}


def long_problem(seed: int) -> Problem:
    """Eight layers in a row, whose scores say nothing: only the judge knows, and it errs by a hundredth."""
    draw = torch.Generator().manual_seed(seed)
    matter = dict(zip(LONG, (torch.rand(8, generator=draw) ** 2).tolist(), strict=True))

    def cost(widths: Mapping[str, int]) -> float:
        made = [*widths.values()]
        return sum(a * b for a, b in itertools.pairwise(made)) / sum(
            a * b for a, b in itertools.pairwise(LONG.values())
        )

    def judge(widths: Mapping[str, int]) -> float:
        error = 1e-2 * float(torch.randn(1, generator=draw))
        return error + 0.1 * sum(matter[name] * size / widths[name] for name, size in LONG.items())

    return Problem(
        losses={name: losses_for([1.0] * size) for name, size in LONG.items()},
        options={name: options_for(size, least=1, step=1) for name, size in LONG.items()},
        cost=lambda many: [cost(widths) for widths in many],
        target=0.25,
        start={name: size // 2 for name, size in LONG.items()},
        counted=cost,
        judge=judge,
        seed=seed,
    )


def test_a_search_learns_from_what_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: the same search that learns nothing."""

    def found() -> float:
        given = [long_problem(seed) for seed in range(2)]
        chosen = [allocate(each, widths=5, tries=5, candidates=40).widths for each in given]
        return sum(each.judge(widths) for each, widths in zip(given, chosen, strict=True) if each.judge)

    learned = found()
    monkeypatch.setattr(search, "learned", lambda seen, given, drawn: given.losses)
    assert learned < 0.95 * found()


def test_a_search_begins_with_other_allocations_too() -> None:
    """What it gives at the largest share that fits, at widths that there are."""
    plain, seen = problem(0, 0.5), []

    def judge(widths: Mapping[str, int]) -> float:
        seen.append(dict(widths))
        return worth(plain, widths)

    given = replace(plain, judge=judge, others=[lambda share: {"a": 8, "b": 1 + round(5 * share), "c": 1}])
    allocate(given, widths=5, tries=5, candidates=4)
    assert chain({"a": 8, "b": 4, "c": 1}) <= 0.5 < chain({"a": 8, "b": 5, "c": 1})
    assert {"a": 8, "b": 4, "c": 1} in seen


def test_a_search_by_a_judge_who_sees_no_difference_changes_nothing() -> None:
    """The planted error: what is searched for must be what the judge says."""
    plain = problem(0, 0.5)
    found = allocate(replace(plain, judge=lambda widths: 1.0), widths=5, tries=5, candidates=20)
    assert found.widths == allocate(plain, widths=5, tries=5).widths


def test_costs_that_add_up_are_solved_exactly() -> None:
    for seed in range(8):
        given = replace(
            problem(seed, 0.6),
            cost=lambda many: [sum(w / SIZES[n] for n, w in widths.items()) / 3 for widths in many],
            start=dict.fromkeys(SIZES, 1),
            counted=lambda widths: 0.0,
        )
        found = allocate(given, widths=64, tries=1)
        every = (dict(zip(SIZES, widths, strict=True)) for widths in itertools.product(*given.options.values()))
        least = min(given.loss(widths) for widths in every if given.cost([widths])[0] <= 0.6 + 1e-9)
        assert found.loss == pytest.approx(least, abs=1e-3)


def test_without_looking_at_the_whole_the_target_is_missed() -> None:
    """The planted error: believe the table. Where two widths cost only together, it says that either is free."""

    def together(many: Sequence[Mapping[str, int]]) -> list[float]:
        return [min(widths["a"] / 8, widths["b"] / 6) for widths in many]

    given = replace(problem(0, 0.5), cost=together, start={"a": 4, "b": 3, "c": 4}, counted=lambda widths: 0.0)
    believed = allocate(given, widths=5, tries=1)
    assert believed.tried == [(0.5, 1.0)]
    assert believed.widths == dict(given.start), "it was looked at, cost too much, and was not taken"
    found = allocate(given, widths=5, tries=6)
    assert found.cost <= 0.5
    assert found.loss < given.loss(given.start)


def test_a_staircase_is_climbed_where_a_step_costs_nothing() -> None:
    """Widths 5 to 8 take as long as 8: the knapsack keeps all 8 where a share would keep 5."""

    def stairs(many: Sequence[Mapping[str, int]]) -> list[float]:
        return [sum(-(-width // 4) * 4 for width in widths.values()) / 24 for widths in many]

    start = {"a": 5, "b": 4, "c": 5}
    given = replace(problem(0, 0.9), cost=stairs, target=0.9, start=start, counted=lambda widths: 0.0)
    assert allocate(given, widths=64, tries=1).widths == {"a": 8, "b": 4, "c": 8}


def test_the_target_is_met_and_more_of_what_matters_stays() -> None:
    network, example = residual(width=8, depth=14), torch.rand(2, 1, 28, 28)
    context = Context(inputs=example)
    for target in ("multiply_adds",):
        uniform = PruneChannels(**{target: 0.4}, round_to=4).plan(network, context)
        chosen = PruneChannels(**{target: 0.4}, round_to=4, allocation=Knapsack()).plan(network, context)
        for plan in (uniform, chosen):
            before, after = getattr(plan, target)
            assert 0.2 < after / before <= 0.4
        assert chosen.kept != uniform.kept
        rows = [row for row in chosen.describe() if row["edit"] == "cost of the whole by width"]
        # Equal blocks cost alike, so one table serves them.
        assert 0 < len(rows) < len(analyse(network, example).groups)


@pytest.mark.parametrize("allocation", [Knapsack(), Global()])
def test_a_target_in_time_asks_the_clock(allocation: Knapsack | Global) -> None:
    network, clock = residual(width=8, depth=8), Counted()
    assert isinstance(clock, Clock)
    context = Context(inputs=torch.rand(2, 1, 28, 28), clock=clock)
    plan = PruneChannels(time=0.5, allocation=allocation).plan(network, context)
    assert 0.4 < plan.parameters[1] / plan.parameters[0] <= 0.5
    (row,) = [row for row in plan.describe() if row["edit"] == "time"]
    assert row["before"] == f"{float(plan.parameters[0]):.4g} ms"
    assert row["after"] == f"{plan.parameters[1] / plan.parameters[0]:.4f} of it; parameters, counted"
    assert len(clock.seen) < 12, "networks must be timed together"


def test_widths_chosen_on_a_busy_machine_say_so_in_the_plan() -> None:
    class Disturbed(Counted):
        """As the clock of files: it only knows of a busy machine once it has looked."""

        def times(self, networks: Sequence[nn.Module], inputs: Inputs) -> Times:
            found = super().times(networks, inputs)
            return replace(found, note="the machine was busy" if len(self.seen) == 1 else None)

    context = Context(inputs=torch.rand(2, 1, 28, 28), clock=Disturbed())
    plan = PruneChannels(time=0.5, allocation=Global()).plan(residual(width=8, depth=8), context)
    (row,) = [row for row in plan.describe() if row["edit"] == "caution"]
    assert row["after"] == "the machine was busy"
    context = Context(inputs=torch.rand(2, 1, 28, 28), clock=Counted())
    plan = PruneChannels(time=0.5, allocation=Global()).plan(residual(width=8, depth=8), context)
    assert not any(row["edit"] == "caution" for row in plan.describe())


def test_a_time_out_of_reach_says_how_far_one_can_go() -> None:
    network, context = residual(width=8, depth=8), Context(inputs=torch.rand(2, 1, 28, 28), clock=Counted())
    with pytest.raises(PlanError, match=r"cannot be pruned to 0\.1 of its time.*0\.[2-9]\d+ of them remain"):
        PruneChannels(time=0.1, allocation=Knapsack(), floor=0.5).plan(network, context)


def test_a_target_in_time_needs_a_clock() -> None:
    with pytest.raises(PlanError, match=r"has no clock.*FileClock"):
        PruneChannels(time=0.5).plan(residual(width=4, depth=8), Context(inputs=torch.rand(2, 1, 28, 28)))


def test_a_knapsack_needs_a_cost() -> None:
    with pytest.raises(SettingError, match="knapsack needs a target that is a cost"):
        PruneChannels(keep=0.5, allocation=Knapsack())
    with pytest.raises(SettingError, match="both targets"):
        PruneChannels(time=0.5, parameters=0.5)


def test_groups_that_cost_alike() -> None:
    coupling = analyse(residual(width=8, depth=14), torch.rand(2, 1, 28, 28))
    key = {name: alike(coupling, {}, name) for name in coupling.groups}
    assert key["layer2.1.conv1"] != key["layer2.0.conv1"]  # the first block of a stage reads a narrower one
    assert key["layer1.0.conv1"] == key["layer1.1.conv1"]
    assert key["layer1.0.conv1"] != key["stem"]
    # At other widths around them they differ.
    narrow = {"layer1.0.conv1": 4}
    assert alike(coupling, narrow, "layer1.0.conv1") != alike(coupling, narrow, "layer1.1.conv1")


def test_losses_of_comparable_scores_are_not_normalised() -> None:
    """A group whose removal changes the loss a thousand times less is emptied first."""
    example = EXAMPLES["convolutions"]
    network = example.build()
    with torch.no_grad():
        network.inner_norm.weight.mul_(1e-3)  # what `inner` does inside hardly counts
    plan = PruneChannels(parameters=0.6, score=Taylor(), allocation=Knapsack()).plan(network, example.context())
    assert plan.parameters[1] <= 0.6 * plan.parameters[0]


def test_normalised_losses_keep_widths_nearer_to_even() -> None:
    example = EXAMPLES["convolutions"]
    network = example.build()
    with torch.no_grad():
        network.inner_norm.weight.mul_(1e-3)
    shares = []
    for normalise in (False, True):
        prune = PruneChannels(parameters=0.5, score=Taylor(), allocation=Knapsack(normalise=normalise))
        plan = prune.plan(network, example.context())
        kept = [len(plan.kept.get(name, range(size))) / size for name, size in {"stem": 16, "inner": 16}.items()]
        shares.append(max(kept) - min(kept))
    assert shares[1] <= shares[0]


def test_candidates_are_judged_by_the_loss_of_their_networks() -> None:
    example = EXAMPLES["convolutions"]
    context = example.context()
    found = {}
    for candidates in (0, 12):
        prune = PruneChannels(parameters=0.5, score=Taylor(), allocation=Knapsack(candidates=candidates))
        plan = prune.plan(example.build(), context)
        before, after = plan.parameters
        assert after <= 0.5 * before
        found[candidates] = adapted_loss(plan.apply(example.build()), context)
        rows = [row for row in plan.describe() if row["edit"] == "loss of the networks searched"]
        assert len(rows) == (candidates > 0)
    assert found[12] <= found[0]
    assert float(rows[0]["after"].split(", ")[-1] or rows[0]["before"]) == pytest.approx(found[12], rel=1e-3)


def test_candidates_are_trained_before_they_are_judged() -> None:
    """The choice is the best of its network's losses after training, and the network that came in is left as it was."""
    example = EXAMPLES["convolutions"]
    network, given = example.build(), example.context()
    halves = [Batch(b.inputs[k::2], b.index[k::2], b.labels[k::2]) for b in given.calibration for k in (0, 1)]
    context = replace(given, calibration=halves)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prune = PruneChannels(parameters=0.5, score=Taylor(), allocation=Knapsack(candidates=6, steps=3))
    plan = prune.plan(network, context)
    rows = [row for row in plan.describe() if row["edit"] == "loss of the networks searched"]
    judge = Judge(context, 3)
    first = PruneChannels(parameters=0.5, score=Taylor(), allocation=Knapsack()).plan(network, context)
    judge("first", lambda: first.apply(network))  # what a search begins with decides the rate
    after = judge("chosen", lambda: plan.apply(network))
    assert float(rows[0]["after"].split(", ")[-1]) == pytest.approx(after, rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert after != pytest.approx(adapted_loss(plan.apply(network), context), rel=1e-3)


def test_networks_are_judged_at_the_rate_at_which_the_first_loses_least() -> None:
    example = EXAMPLES["convolutions"]
    given = example.context()
    halves = [Batch(b.inputs[k::2], b.index[k::2], b.labels[k::2]) for b in given.calibration for k in (0, 1)]
    context = replace(given, calibration=halves)
    first, second = example.build(), PruneChannels(keep=0.5).plan(example.build(), given).apply(example.build())
    losses = {rate: trained_loss(copy.deepcopy(first), context, 3, rate) for rate in RATES}
    assert len(set(losses.values())) == len(RATES)
    judge = Judge(context, 3)
    assert judge("first", lambda: copy.deepcopy(first)) == min(losses.values())
    assert losses[judge.rate] == min(losses.values())
    assert judge("second", lambda: copy.deepcopy(second)) == trained_loss(copy.deepcopy(second), context, 3, judge.rate)


def test_candidates_are_fitted_before_they_are_judged_where_the_plan_is() -> None:
    example = EXAMPLES["convolutions"]
    network, context = example.build(), example.context()
    prune = PruneChannels(parameters=0.5, score=Taylor(), allocation=Knapsack(candidates=6), refit=True)
    plan = prune.plan(network, context)
    rows = [row for row in plan.describe() if row["edit"] == "loss of the networks searched"]
    bare = replace(plan, carries=[], values=None)
    plain, small = bare.apply(network).eval(), bare.apply(network).eval()
    errors, _ = quickly(network, context)(small, bare)
    assert errors
    assert float(rows[0]["after"].split(", ")[-1]) == pytest.approx(adapted_loss(small, context), rel=1e-3)
    assert adapted_loss(plain, context) != pytest.approx(adapted_loss(small, context), rel=1e-3)


def test_many_are_fitted_from_few_examples_and_one_after_the_other_as_alone() -> None:
    """What is kept of the whole network does not depend on which network was fitted first."""
    example = EXAMPLES["convolutions"]
    network, given = example.build(), example.context()
    many = replace(given, calibration=given.calibration * (1 + QUICK_EXAMPLES // len(given.calibration[0])))
    assert sum(map(len, quickly(network, many).context.calibration)) < sum(map(len, many.calibration))
    plans = [PruneChannels(keep=keep).plan(network, given) for keep in (0.25, 0.75)]
    both, alone = quickly(network, many), quickly(network, many)
    fitted = []
    for fitting, chosen in ((both, plans), (alone, plans[1:])):
        for plan in chosen:
            small = plan.apply(network).eval()
            fitting(small, plan)
        fitted.append(small.state_dict())
    assert all(torch.equal(value, fitted[1][name]) for name, value in fitted[0].items())


def test_a_trained_loss_is_of_batches_that_training_does_not_see() -> None:
    """Labels of the last quarter are turned: no training on the others can know that."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (64,))
    inputs = torch.randn(64, 3) + 4 * labels[:, None]
    said = [*labels[:48].split(16), 1 - labels[48:]]
    batches = [Batch(x, torch.arange(16), y) for x, y in zip(inputs.split(16), said, strict=True)]

    def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels, reduction="none")

    losses = []
    for steps in (1, 400):
        network = nn.Linear(3, 2).requires_grad_(False)
        with torch.no_grad():
            network.weight.zero_()
            network.bias.zero_()
        context = Context(inputs=inputs[:2], calibration=batches, loss=cross_entropy)
        losses.append(trained_loss(network, context, steps, 3e-3))
        assert not network.training
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert losses[1] > 2 * losses[0]


def test_candidates_need_a_loss() -> None:
    network, context = residual(width=8, depth=8), Context(inputs=torch.rand(2, 1, 28, 28))
    with pytest.raises(PlanError, match="judges networks by their loss; the context has not a loss"):
        PruneChannels(parameters=0.5, allocation=Knapsack(candidates=4)).plan(network, context)


@pytest.mark.parametrize(
    ("sizes", "steps", "says"),
    [((4, 1), 0, "a single example"), ((4,), 2, "there is one batch only. Give several, or steps=0")],
)
def test_candidates_need_batches_that_can_judge(sizes: tuple[int, ...], steps: int, says: str) -> None:
    batches = [Batch(torch.rand(n, 1, 28, 28), torch.arange(n), torch.zeros(n, dtype=torch.long)) for n in sizes]
    context = Context(
        inputs=batches[0].inputs,
        calibration=batches,
        loss=lambda outputs, labels: nn.functional.cross_entropy(outputs, labels, reduction="none"),
    )
    with pytest.raises(PlanError, match=says):
        PruneChannels(parameters=0.5, allocation=Knapsack(candidates=4, steps=steps)).plan(
            residual(width=8, depth=8), context
        )


def test_an_adapted_loss_is_that_with_the_statistics_of_the_examples() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 36, 4)).eval()
    batches = [Batch(3 * torch.randn(16, 1, 8, 8) + 1, torch.arange(16), torch.randint(0, 4, (16,))) for _ in range(2)]

    def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels, reduction="none")

    context = Context(inputs=batches[0].inputs, calibration=batches, loss=cross_entropy)
    maps = [network[0](batch.inputs) for batch in batches]
    mean = torch.stack([each.mean((0, 2, 3)) for each in maps]).mean(0)
    variance = torch.stack([each.transpose(0, 1).flatten(1).var(1) for each in maps]).mean(0)
    losses = []
    for batch, each in zip(batches, maps, strict=True):
        normal = (each - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
        losses.append(cross_entropy(network[3](normal.flatten(1)), batch.labels))
    stale = torch.cat([cross_entropy(network(batch.inputs), batch.labels) for batch in batches]).mean()
    wanted = torch.cat(losses).mean()
    assert abs(stale - wanted) > 0.05, "the statistics must matter, or this says nothing"
    assert adapted_loss(network, context) == pytest.approx(wanted.item(), rel=1e-4)
    assert network[1].momentum == 0.1
    assert not network[1].training


def test_a_search_passes_over_networks_without_a_finite_loss() -> None:
    """Those that keep much of the last group have none; the others are told apart as before."""
    plain = problem(0, 0.5)

    def judge(widths: Widths) -> float:
        return math.inf if widths["c"] > 3 else worth(plain, widths)

    found = allocate(replace(plain, judge=judge), widths=5, tries=5, candidates=40)
    assert judge(plain.start) == math.inf
    assert found.widths["c"] <= 3
    assert found.judged[-1] == worth(plain, found.widths)
    with pytest.raises(PlanError, match=r"None of \d+ pruned networks within the target has a finite loss"):
        allocate(replace(plain, judge=lambda widths: math.inf), widths=5, tries=5, candidates=10)


def test_a_candidate_whose_training_diverges_is_the_worst() -> None:
    class Diverges:
        def train(self, training: ShortTraining) -> None:
            if training.optimizer.rate > 1e-3:
                raise DivergedError("The loss is not a finite number.")
            EngineTrainer().train(training)

    example = EXAMPLES["convolutions"]
    given = example.context()
    halves = [Batch(b.inputs[k::2], b.index[k::2], b.labels[k::2]) for b in given.calibration for k in (0, 1)]
    context = replace(given, calibration=halves, trainer=Diverges())
    assert trained_loss(example.build(), context, 3, max(RATES)) == math.inf
    judge = Judge(context, 3)
    assert math.isfinite(judge("first", example.build))
    assert judge.rate < max(RATES)


def test_a_network_that_gives_nan_is_the_worst() -> None:
    example = EXAMPLES["convolutions"]
    network = example.build()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    assert adapted_loss(network, example.context()) == math.inf
