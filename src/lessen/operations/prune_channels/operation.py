"""Structured pruning of coupled channels.

Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710; Molchanov et al., CVPR 2019,
arXiv:1906.10771; coupling as in Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900, over named axes
(`surgery.coupling`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.core.where import Where, matches
from lessen.operations.allocation import Allocation, Uniform, top
from lessen.operations.prune_channels.attempt import Attempt
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.operations.prune_channels.scores import group_scores
from lessen.operations.prune_channels.target import share_for
from lessen.operations.scores import Magnitude, Score
from lessen.surgery.coupling import Coupling, Group, analyse, multiply_adds, parameter_count
from lessen.surgery.modules import get_module

Share = Annotated[float, Field(gt=0, le=1)]


@settings
class PruneChannels:
    """Take channels, attention heads and widths out of a network, everywhere they are used.

    Give one target. `keep` counts channels: half of them is about a quarter of the parameters of a plain convolution.

    Args:
        keep: Share of the channels of every group that stays (0.5 if no target is given).
        parameters: Share of the parameters that may stay.
        multiply_adds: Share of the multiply-adds that may stay.
        score: Which channels matter.
        allocation: How many of each group stay.
        floor: Share of every group that stays in any case; at least one index always does.
        round_to: Sizes of groups are multiples of this where they are not smaller.
        where: Only groups that a module with such a name makes; None for all.
        exclude: No group in which a module with such a name has a part.
    """

    keep: Share | None = None
    parameters: Share | None = None
    multiply_adds: Share | None = None
    score: Score = Magnitude(power=2.0)
    allocation: Allocation = Uniform()
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    round_to: Annotated[int, Field(ge=1)] = 1
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / pruning",
        paper="arXiv:1608.08710 (magnitude), arXiv:1906.10771 (Taylor), arXiv:2301.12900 (coupling)",
        says="Channels that matter least are removed from every layer that makes or uses them.",
        costs="Accuracy, until the network is trained again; at half the channels most networks start near chance.",
        fails_when="Channels are tied to outputs or to positions, or an operator is not known: these are left alone.",
        differs="Scores sum over the whole coupled group. Where a normalisation averages over removed channels it "
        "averages over the rest. Every plan is proven equal to the masked network before it is returned.",
    )

    def __post_init__(self) -> None:
        given = [name for name in ("keep", "parameters", "multiply_adds") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both targets; give exactly one")
        if not given:
            object.__setattr__(self, "keep", 0.5)

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
        attempt = Attempt(model, analyse(model, context.inputs), context.inputs)
        if self.keep == 1.0:
            return attempt.plan({})
        if not self._chosen(attempt):
            raise PlanError(_nothing(attempt.coupling))
        plan = self._prove(attempt, context)
        # Where whole blocks cannot go, because the code counts them, parts of every block may.
        fixed: set[int] = set()
        while counted := {attempt.coupling.groups[name].number for name in attempt.left_out if name in attempt.blocks}:
            fixed |= counted
            again = Attempt(model, analyse(model, context.inputs, fixed=fixed), context.inputs)
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
        model, coupling, chosen = attempt.model, attempt.coupling, self._chosen(attempt)
        scores = group_scores(self.score, model, coupling, context)
        while wanted := {name: scores[name] for name in chosen if name not in attempt.left_out}:
            plan = attempt.proven(self._kept(wanted, model, coupling))
            if plan is not None:
                return plan
        return None

    def _wants(self, model: nn.Module, group: Group) -> bool:
        makes = [member.tensor for member in group.members if not member.consumes]
        wanted = self.where is None or _named(model, self.where, makes)
        unwanted = self.exclude is not None and _named(model, self.exclude, [m.tensor for m in group.members])
        return wanted and not unwanted

    def _kept(self, scores: Mapping[str, Tensor], model: nn.Module, coupling: Coupling) -> dict[str, list[int]]:
        """The indices that stay, of each group that loses some."""
        counts = self._counts(scores, self._share(scores, model, coupling))
        return {
            name: top(score, counts[name]).nonzero().flatten().tolist()
            for name, score in scores.items()
            if counts[name] < len(score)
        }

    def _share(self, scores: Mapping[str, Tensor], model: nn.Module, coupling: Coupling) -> float:
        """The share of channels that meets the target."""

        def parameters(share: float) -> int:
            return parameter_count(coupling, model, self._counts(scores, share))

        def products(share: float) -> int:
            return multiply_adds(coupling, self._counts(scores, share))

        if self.parameters is not None:
            whole = parameter_count(coupling, model, {})
            return share_for(self.parameters, lambda share: parameters(share) / whole, "parameters")
        if self.multiply_adds is not None:
            whole = multiply_adds(coupling, {})
            return share_for(self.multiply_adds, lambda share: products(share) / whole, "multiply-adds")
        assert self.keep is not None
        return self.keep

    def _counts(self, scores: Mapping[str, Tensor], share: float) -> dict[str, int]:
        """How many indices of each group stay: in multiples of `round_to`, and never fewer than the floor."""
        kept = {}
        for name, wanted in self.allocation.counts(scores, share).items():
            size, step = len(scores[name]), self.round_to
            least = max(1, math.ceil(self.floor * size / step))
            kept[name] = min(size, step * max(least, round(wanted / step)))
        return kept


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
