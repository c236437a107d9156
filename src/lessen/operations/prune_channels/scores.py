"""How much each index of a group matters: the shares of all weights that would go with it, added up.

Only weights and biases of products and convolutions count, on the side that makes a channel and on the side that
uses it; those of normalisations are on another scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lessen.core.contracts import Context
from lessen.operations.channel_scores.contract import ChannelScore
from lessen.operations.parts.gradients import gradients
from lessen.operations.parts.scores import Score
from lessen.surgery.coupling import Coupling, Group, Member, owners


def normalised(figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The figures of each group divided by their mean, so that groups of any kind can be compared."""
    return {name: figure / figure.mean().clamp_min(1e-300) for name, figure in figures.items()}


def comparable(score: Score | ChannelScore) -> bool:
    """Whether figures of different groups mean the same as they are, as changes of the loss do."""
    return score.comparable if isinstance(score, ChannelScore) else score.needs_gradient


def group_figures(
    score: Score | ChannelScore, model: nn.Module, coupling: Coupling, context: Context
) -> dict[str, Tensor]:
    """For each group one figure for each of its indices, float64; groups that a score of channels says nothing of lack.

    Raises:
        PlanError: the score needs gradients, and the context has no loss or no labelled batches.
    """
    if isinstance(score, ChannelScore):
        return score.figures(model, coupling, context)
    counted = {member.tensor for group in coupling.groups.values() for member in _counted(group)}
    parameters = {name: p for name, p in model.named_parameters(remove_duplicate=False) if name in counted}
    total = {name: torch.zeros(group.size, dtype=torch.float64) for name, group in coupling.groups.items()}
    batches: Iterable[Mapping[str, Tensor]] = [{}]
    if score.needs_gradient:
        batches = gradients(model, parameters, context)
    for found in batches:
        shares = {name: score.shares(p.detach(), found.get(name)).cpu() for name, p in parameters.items()}
        for name, group in coupling.groups.items():
            total[name] += score.finish(gather(group, coupling, shares))
    return total


def gather(group: Group, coupling: Coupling, shares: Mapping[str, Tensor]) -> Tensor:
    """The sum of the shares of everything that goes with each index of a group, float64."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in _counted(group):
        if member.tensor not in shares:  # a buffer
            continue
        share = shares[member.tensor]
        others = [dim for dim in range(share.ndim) if dim != member.dim]
        along = share.sum(others, dtype=torch.float64) if others else share.double()
        owner = owners(member.layout, coupling.sizes, group.name)
        total.index_add_(0, owner[owner >= 0], along[owner >= 0])
    return total


def _counted(group: Group) -> list[Member]:
    return [member for member in group.members if member.weight] or list(group.members)
