"""Structured pruning of coupled channels.

Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710; Molchanov et al., CVPR 2019,
arXiv:1906.10771; coupling as in Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900, over named axes
(`surgery.coupling`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.errors import PlanError
from lessen.core.ranges import Share
from lessen.core.settings import settings
from lessen.core.where import Where, check_where, matches
from lessen.operations.channel_scores.contract import ChannelScore
from lessen.operations.parts.allocation import Allocation, Global, Uniform, top
from lessen.operations.parts.isomorphic import AmongKinds, kinds_of
from lessen.operations.parts.scores import Magnitude, Score
from lessen.operations.prune_channels.attempt import Attempt
from lessen.operations.prune_channels.cost import MeasuredCost, alike, multiply_adds_cost, parameters_cost
from lessen.operations.prune_channels.judge import Judge, check_judge
from lessen.operations.prune_channels.means import carried_means
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.operations.prune_channels.refit import Fitting, check_refit, quickly, refitted
from lessen.operations.prune_channels.scores import comparable, group_figures, normalised
from lessen.operations.prune_channels.target import share_by_clock, share_for
from lessen.operations.search.contract import Allocated, Budgeted, Cost, Problem, losses_for, options_for
from lessen.operations.search.knapsack import Knapsack
from lessen.surgery.coupling import Coupling, Group, coupling_of, multiply_adds, traced
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain


@settings
class PruneChannels:
    """Remove channels, attention heads, hidden units and widths from a network, everywhere they are used.

    A recurrent module (GRU, LSTM, RNN) has one hidden size, so its hidden units are removed by index: the same indices
    in all its layers and directions.

    Set one target. `keep` counts channels: keeping half of them leaves about a quarter of the parameters of a plain
    convolution.

    Args:
        keep: Share of the channels of every group to keep (0.5 if no target is given).
        parameters: Largest share of the parameters to keep.
        multiply_adds: Largest share of the multiply-adds to keep.
        time: Largest share of the time to keep, measured by the context's clock: milliseconds of exported files, timed
            against the original network. Each network it tries takes seconds; `Knapsack` takes minutes.
        score: Scores channels by importance.
        allocation: Decides how many channels of each group to keep.
        floor: Share of every group that is always kept; at least one index is.
        round_to: Sizes of groups are rounded to multiples of this, unless a group is smaller.
        keep_means: Whether the average contribution of removed channels, over the calibration examples, is added to the
            biases of the layers that read them, or to the batch norms behind these layers.
        refit: Whether the layers that lose inputs are refitted, one after the other, by least squares to their original
            outputs on the calibration examples (a thousand or so). This recovers most of the accuracy lost before any
            training; after training, part of the gain remains.
        where: Prune only groups whose channels a matching module computes; None for all.
        exclude: Skip every group that includes a matching module.
    """

    keep: Share | None = None
    parameters: Share | None = None
    multiply_adds: Share | None = None
    time: Share | None = None
    score: Score | ChannelScore = Magnitude(power=2.0)
    allocation: Allocation | AmongKinds | Budgeted = Uniform()
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    round_to: Annotated[int, Field(ge=1)] = 1
    keep_means: bool = False
    refit: bool = False
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / pruning",
        paper="arXiv:1608.08710 (magnitude), arXiv:1906.10771 (Taylor), arXiv:2301.12900 (coupling)",
        says="Channels that matter least are removed from every layer that makes or uses them.",
        costs="Accuracy, until the network is trained again: with half the channels removed, most networks predict "
        "almost at random before training.",
        fails_when="Channels are tied to outputs or to positions, or an operator is unknown: such channels are not "
        "pruned.",
        differs="Scores sum over the whole coupled group. A normalisation that averaged over removed channels averages "
        "over the remaining ones. Every plan is checked against the masked network before it is returned.",
    )

    def __post_init__(self) -> None:
        targets = ("keep", "parameters", "multiply_adds", "time")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both targets; give exactly one")
        if not given:
            object.__setattr__(self, "keep", 0.5)
        if self.refit and self.keep_means:
            raise ValueError("refit fits biases too, so keep_means has nothing to add; give one of them")
        if isinstance(self.allocation, Budgeted) and self.keep not in {None, 1.0}:
            kind = type(self.allocation).__name__
            raise ValueError(f"{kind} needs a target that is a cost: give parameters, multiply_adds or time, not keep")

    @classmethod
    def neutral(cls) -> PruneChannels:
        """Nothing is removed."""
        return cls(keep=1.0)

    def plan(self, model: nn.Module, context: Context) -> PrunedChannels:
        """Choose what to remove, and prove that removing it is the same as masking it.

        Raises:
            PlanError: nothing can be pruned, or the target is out of reach; the text says how far one can go.
            NetworkError: the network cannot be exported.
        """
        model = plain(model, context.inputs)
        check_where(model, where=self.where, exclude=self.exclude)
        if isinstance(self.allocation, Knapsack) and self.allocation.candidates:
            check_judge(model, context, steps=self.allocation.steps)
            if context.rehearsal and self.allocation.candidates > 1:
                few = dataclasses.replace(self.allocation, candidates=1, steps=min(self.allocation.steps, 1))
                return dataclasses.replace(self, allocation=few).plan(model, context)
        if self.refit and self.keep != 1.0:
            check_refit(context)
        network = traced(model, context.inputs)
        attempt = Attempt(model, coupling_of(network), context.inputs)
        if self.keep == 1.0:
            return attempt.plan({})
        if not self._chosen(attempt):
            raise PlanError(_nothing(attempt.coupling))
        plan = self._prove(attempt, context)
        # Where whole blocks cannot go, because the code counts them, parts of every block may.
        fixed: set[int] = set()
        while counted := {attempt.coupling.groups[name].number for name in attempt.left_out if name in attempt.blocks}:
            fixed |= counted
            again = attempt.anew(coupling_of(network, fixed=fixed))
            if not self._chosen(again):
                break
            attempt, plan = again, self._prove(again, context) or plan
        if plan is None:
            name, why = next(iter(attempt.left_out.items()))
            raise PlanError(f"No group of channels can be removed safely. The first, {name}: {why}.")
        return plan

    def _chosen(self, attempt: Attempt) -> list[str]:
        return [name for name, group in attempt.coupling.groups.items() if self._wants(attempt.model, group)]

    def _prove(self, attempt: Attempt, context: Context) -> PrunedChannels | None:
        """The plan for those groups whose removal is proven; None if there are none."""
        chosen = self._chosen(attempt)
        figures = group_figures(self.score, attempt.model, attempt.coupling, context)
        silent = f"{type(self.score).__name__} says nothing about it"
        attempt.left_out |= {name: silent for name in chosen if name not in figures}
        if self.time is not None:  # a clock is slow, so it must not be asked of what cannot be removed
            halves = Uniform().counts(figures, 0.5)
            while wanted := [name for name in chosen if name not in attempt.left_out]:
                if attempt.proven({name: [*range(max(1, halves[name]))] for name in wanted}) is not None:
                    break
        cost = self._cost(attempt, context)
        while wanted := [name for name in chosen if name not in attempt.left_out]:
            kept, rows = self._kept({name: figures[name] for name in wanted}, attempt, cost, context)
            plan = attempt.proven(kept)
            if plan is not None:
                return self._finished(attempt.model, plan, context, rows)
        return None

    def _finished(
        self, model: nn.Module, plan: PrunedChannels, context: Context, rows: list[dict[str, str]]
    ) -> PrunedChannels:
        """The plan with what was measured, and with the means where they are kept, or the fitted layers."""
        if self.refit and plan.kept:
            values, errors, left = refitted(model, plan, context)
            rows = rows + [
                {"module": at, "edit": "fit again", "before": f"{before:.4f} missing", "after": f"{after:.4f}"}
                for at, (before, after) in errors.items()
            ]
            rows += [{"module": at, "edit": "not fitted", "before": why, "after": ""} for at, why in left.items()]
            return dataclasses.replace(plan, measured=rows, carries=list(values), values=values or None)
        if not self.keep_means or not plan.kept:
            return dataclasses.replace(plan, measured=rows)
        found, left = carried_means(model, plan, context)
        rows = rows + [{"module": at, "edit": "means are lost", "before": why, "after": ""} for at, why in left.items()]
        return dataclasses.replace(plan, measured=rows, carries=list(found), values=found or None)

    def _wants(self, model: nn.Module, group: Group) -> bool:
        makes = [member.tensor for member in group.members if not member.consumes]
        wanted = self.where is None or _named(model, self.where, makes)
        unwanted = self.exclude is not None and _named(model, self.exclude, [m.tensor for m in group.members])
        return wanted and not unwanted

    def _kept(
        self, figures: Mapping[str, Tensor], attempt: Attempt, cost: Cost | None, context: Context
    ) -> tuple[dict[str, list[int]], list[dict[str, str]]]:
        """The indices that stay, of each group that loses some, and what was measured to find out how many."""
        scores, rows = normalised(figures), []
        shared = self._shared(attempt)
        counts = self._counts(shared, scores, self._share(shared, scores, cost))
        if isinstance(self.allocation, Budgeted):
            assert cost is not None
            alone = comparable(self.score) and not self.allocation.normalise
            found = self._within(figures if alone else scores, counts, attempt, cost, context)
            counts, rows = found.widths, _rows(found)
        if isinstance(cost, MeasuredCost):
            rows = [*_clocked(cost, counts), *rows]
        return _best(scores, counts), rows

    def _within(
        self, figures: Mapping[str, Tensor], start: Mapping[str, int], attempt: Attempt, cost: Cost, context: Context
    ) -> Allocated:
        assert isinstance(self.allocation, Budgeted)
        coupling, loss_of = attempt.coupling, Judge(context, getattr(self.allocation, "steps", 0))
        fitting: list[Fitting] = []

        def network_of(widths: Mapping[str, int]) -> nn.Module:
            plan = attempt.plan(_best(figures, widths))
            network = plan.apply(attempt.model)
            if self.refit and plan.kept:
                fitting[:] = fitting or [quickly(attempt.model, context)]
                fitting[0](network.eval().to(context.device), plan)
            return network

        options = {
            name: options_for(len(figure), least=self._least(len(figure)), step=self.round_to)
            for name, figure in figures.items()
        }
        return self.allocation.within(
            Problem(
                losses={name: losses_for(figure.tolist()) for name, figure in figures.items()},
                options={name: sorted({*options[name], start[name]}) for name in options},
                cost=cost,
                target=self._target(),
                start=start,
                counted=(lambda widths: cost([widths])[0])
                if not isinstance(cost, MeasuredCost)
                else lambda widths: float(multiply_adds(coupling, widths)),
                alike=lambda widths, name: alike(coupling, widths, name),
                judge=lambda widths: loss_of(dict(sorted(widths.items())), lambda: network_of(widths)),
                others=[lambda share: self._counts(Global(), normalised(figures), share)],
                seed=context.seed,
            )
        )

    def _cost(self, attempt: Attempt, context: Context) -> Cost | None:
        """What the target is a share of; None where it is a share of the channels."""
        model, coupling = attempt.model, attempt.coupling
        if self.parameters is not None:
            return lambda widths: parameters_cost(coupling, model, widths)
        if self.multiply_adds is not None:
            return lambda widths: multiply_adds_cost(coupling, widths)
        if self.time is None:
            return None
        if context.clock is None:
            raise PlanError(
                "The target is a share of the time, and the context has no clock. Give it one: "
                "Context(clock=lessen.deploy.FileClock(), ...)."
            )

        def pruned(widths: Mapping[str, int]) -> nn.Module:
            kept = {name: [*range(width)] for name, width in widths.items() if width < coupling.sizes[name]}
            return attempt.plan(kept).apply(model)

        return MeasuredCost(model, pruned, context.clock, context.inputs)

    def _target(self) -> float:
        return next(share for share in (self.parameters, self.multiply_adds, self.time, self.keep) if share is not None)

    def _shared(self, attempt: Attempt) -> Allocation:
        """The allocation of a share; a knapsack starts from one share for all."""
        if isinstance(self.allocation, Budgeted):
            return Uniform()
        if isinstance(self.allocation, AmongKinds):
            return self.allocation.among(kinds_of(attempt.model, attempt.coupling))
        return self.allocation

    def _share(self, allocation: Allocation, scores: Mapping[str, Tensor], cost: Cost | None) -> float:
        """The share of channels that meets the target."""
        if cost is None:
            return self._target()
        if isinstance(cost, MeasuredCost):
            if self.time == 1.0:
                return 1.0
            return share_by_clock(
                self._target(), lambda shares: cost([self._counts(allocation, scores, share) for share in shares])
            )
        what = "parameters" if self.parameters is not None else "multiply-adds"
        return share_for(self._target(), lambda share: cost([self._counts(allocation, scores, share)])[0], what)

    def _least(self, size: int) -> int:
        return max(1, math.ceil(self.floor * size / self.round_to)) * self.round_to

    def _counts(self, allocation: Allocation, scores: Mapping[str, Tensor], share: float) -> dict[str, int]:
        """How many indices of each group stay: in multiples of `round_to`, and never fewer than the floor."""
        kept = {}
        for name, wanted in allocation.counts(scores, share).items():
            size = len(scores[name])
            kept[name] = min(size, max(self._least(size), self.round_to * round(wanted / self.round_to)))
        return kept


def _best(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, list[int]]:
    """The indices of the highest scores, of each group that loses some."""
    return {
        name: top(score, counts[name]).nonzero().flatten().tolist()
        for name, score in scores.items()
        if counts[name] < len(score)
    }


def _rows(found: Allocated) -> list[dict[str, str]]:
    """What the knapsack looked at, for people."""
    rows = []
    for name, table in found.tables.items():
        text = ", ".join(f"{width}: {cost:.3f}" for width, cost in table.items())
        rows.append({"module": name, "edit": "cost of the whole by width", "before": "1", "after": text})
    for said, found_cost in found.tried:
        after = f"{found_cost:.4f} of the whole, {said:.4f} by the model"
        rows.append({"module": "", "edit": "knapsack looked at", "before": "1", "after": after})
    if found.judged:
        before, after = f"{found.judged[0]:.4g}", ", ".join(f"{loss:.4g}" for loss in found.judged[1:])
        rows.append({"module": "", "edit": "loss of the networks searched", "before": before, "after": after})
    return rows


def _clocked(cost: MeasuredCost, counts: Mapping[str, int]) -> list[dict[str, str]]:
    share, whole = cost([counts])[0], cost.whole or 0.0
    before, after = f"{whole:.4g} ms", f"{share:.4f} of it; {cost.clock.says()}"
    rows = [{"module": "", "edit": "time", "before": before, "after": after}]
    if cost.note is not None:
        rows.append({"module": "", "edit": "caution", "before": "", "after": cost.note})
    return rows


def _named(model: nn.Module, where: Where, tensors: list[str]) -> bool:
    """Whether one of the modules that own these tensors, or one around it, is meant."""
    for tensor in tensors:
        path = tensor.rpartition(".")[0]
        around = list(itertools.accumulate(path.split("."), lambda a, b: f"{a}.{b}"))
        if any(matches(where, name, get_module(model, name)) for name in around):
            return True
    return False


def _nothing(coupling: Coupling) -> str:
    if coupling.groups:
        return f"No group is chosen by `where` and `exclude`. Groups that can be pruned: {', '.join(coupling.groups)}."
    reasons = list(dict.fromkeys(coupling.pinned.values()))[:5]
    return f"Nothing in this network can be pruned: {'; '.join(reasons) or 'it has no weights'}."
