"""Filters near the geometric median of their layer can be spoken for by the others.

He et al., Filter pruning via geometric median for deep convolutional neural networks acceleration, CVPR 2019,
arXiv:1811.00250.

Shapes: G indices of a group, D numbers in a filter.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lessen.core import Context, settings
from lessen.surgery.coupling import Coupling, Member, owners
from lessen.surgery.modules import get_tensor


def summed_distances(filters_GD: Tensor) -> Tensor:
    """For each filter the sum of its Euclidean distances to all others, shape (G,), float64.

    Of the filters themselves, signs and all: two filters that are opposites are far apart.

    >>> summed_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
    tensor([ 5., 10.,  5.], dtype=torch.float64)
    """
    filters = filters_GD.double()
    return torch.stack([(filters - one).norm(dim=1).sum() for one in filters])


@settings
class GeometricMedian:
    """Filters far from all others matter (FPGM): the sum over the others of the distance to them.

    Added over the layers that make a channel; biases and what reads the channel do not count.
    """

    comparable: ClassVar[bool] = False

    def figures(self, model: nn.Module, coupling: Coupling, context: Context) -> dict[str, Tensor]:
        """The sum of distances of each filter, over the layers that make a group; those no weight makes lack."""
        del context
        found = {}
        for name, group in coupling.groups.items():
            makers = [member for member in group.members if member.weight and not member.consumes]
            parts = [
                summed_distances(filters)
                for member in makers
                if (filters := _filters(get_tensor(model, member.tensor), member, coupling, name)) is not None
            ]
            if parts:
                found[name] = torch.stack(parts).sum(0)
        return found


def _filters(weight: Tensor, member: Member, coupling: Coupling, group: str) -> Tensor | None:
    """What of a weight goes with each index of a group, shape (G, D); None for a bias."""
    if weight.ndim < 2:
        return None
    rows = weight.detach().cpu().movedim(member.dim, 0).flatten(1)
    owner = owners(member.layout, coupling.sizes, group)
    order = owner.argsort(stable=True)[int((owner < 0).sum()) :]
    return rows[order].reshape(coupling.sizes[group], -1)
