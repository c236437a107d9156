"""Network slimming: a channel that its batch normalisation scales down does not matter.

Liu et al., Learning efficient convolutional networks through network slimming, ICCV 2017, arXiv:1708.06519.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lessen.core import Context, settings
from lessen.surgery.coupling import Coupling, owners
from lessen.surgery.modules import get_module, get_tensor


@settings
class BatchNormScale:
    """Channels with a large factor in their batch normalisation matter: sum of abs(gamma) over those of the group.

    It says most after training with a penalty on the factors. Factors have the same role in every layer, so groups
    compete as they are, as in the paper. What a removed channel still adds, as its shift behind the activation, goes to
    the next layer with `PruneChannels(keep_means=True)`. Groups that no batch normalisation scales are left alone.
    """

    comparable: ClassVar[bool] = True

    def figures(self, model: nn.Module, coupling: Coupling, context: Context) -> dict[str, Tensor]:
        """The mean over the batch normalisations of a group of the absolute value of their factors."""
        del context
        found = {}
        for name, group in coupling.groups.items():
            total, count = torch.zeros(group.size, dtype=torch.float64), 0
            for member in group.members:
                path, _, last = member.tensor.rpartition(".")
                if last == "weight" and isinstance(_module(model, path), _BatchNorm):
                    owner = owners(member.layout, coupling.sizes, name)
                    scale = get_tensor(model, member.tensor).detach().abs().double().cpu()
                    total.index_add_(0, owner[owner >= 0], scale[owner >= 0])
                    count += 1
            if count:
                found[name] = total / count
        return found


def _module(model: nn.Module, path: str) -> nn.Module | None:
    modules = dict(model.named_modules(remove_duplicate=False))
    return get_module(model, path) if path in modules else None
