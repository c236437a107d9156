"""The network that a pruned one must equal: the original, with what was removed made to count for nothing.

The weights that read a removed channel are zero there, so it does not matter what the channel holds (a batch
normalisation's shift behind a ReLU, for one). Where a normalisation averages over channels, it averages over those
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.surgery.calls import Place, Watch
from lessen.surgery.coupling import groups_of, keep_mask
from lessen.surgery.modules import copy_with, get_tensor, tensor_names


def masked(model: nn.Module, plan: PrunedChannels) -> nn.Module:
    """The original network at its full size, with the channels that a plan removes counting for nothing.

    Args:
        model: The network that the plan was made for; it is not changed.
        plan: The plan.

    Returns:
        A module with the same inputs and outputs, whose outputs equal those of `plan.apply(model)`.
    """
    zeroed = {}
    for name, groups in plan.consumed.items():
        weight = get_tensor(model, name)
        made = weight.detach().clone()
        for dim, layout in enumerate(plan.layouts[name]):
            if weight.ndim > 1 and set(groups_of(layout)) & set(groups):
                removed = ~keep_mask(layout, plan.sizes, plan.kept)
                made.index_fill_(dim, removed.nonzero().flatten().to(weight.device), 0)
        zeroed[name] = made
    return _Masked(
        copy_with(model, zeroed),
        {name: _whole(list(plan.masks(name).values())) for name in plan.normalised},
        {site: plan.averages(site) for site in plan.averaged},
    )


def _whole(masks: list[Tensor]) -> Tensor:
    """One mask over several axes."""
    made = masks[0]
    for mask in masks[1:]:
        made = made[..., None] & mask
    return made


class _Masked(nn.Module):
    def __init__(
        self, model: nn.Module, kept: Mapping[str, Tensor], averaged: Mapping[str, Mapping[int, Tensor]]
    ) -> None:
        super().__init__()
        self.model = model
        self._kept = dict(kept)
        self._averaged = dict(averaged)
        self.train(model.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        names = tensor_names(self.model)
        masks = {key: self._kept[name] for key, known in names.items() for name in known if name in self._kept}
        with _OverKept(self.model, masks, self._averaged):
            return self.model(*args, **kwargs)


class _OverKept(Watch):
    """Normalisations whose weight has a mask, and calls at certain sites, average over the masked entries only."""

    def __init__(
        self, model: nn.Module, masks: Mapping[int, Tensor], averaged: Mapping[str, Mapping[int, Tensor]]
    ) -> None:
        super().__init__(model)
        self.masks = masks
        self.averaged = averaged

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if place.site in self.averaged:
            return _reduced(run, args, kwargs, self.averaged[place.site])
        norm = _NORMS.get(run)
        if norm is not None:
            given = dict(zip(_RMS if norm is _rms else _OTHERS, args, strict=False)) | kwargs
            mask = self.masks.get(id(given.get("weight")))
            if mask is not None:
                x = given["input"]
                return norm(x, mask.to(x.device), given)
        return run(*args, **kwargs)


def _reduced(run: Callable[..., Any], args: Any, kwargs: dict[str, Any], masks: Mapping[int, Tensor]) -> Any:
    """A function of the entries that stay; what goes is zero in a result that has the axis still."""
    x, *rest = args if args else (kwargs.pop("input"),)
    kept = {dim: mask.nonzero().flatten().to(x.device) for dim, mask in masks.items()}
    small = x
    for dim, indices in kept.items():
        small = small.index_select(dim, indices)
    if run in {F.layer_norm, F.rms_norm} and rest:
        rest[0] = small.shape[-len(rest[0]) :]
    made = run(small, *rest, **kwargs)
    if made.shape != small.shape:
        return made
    for dim, indices in kept.items():
        sizes = [size if number != dim else len(masks[dim]) for number, size in enumerate(made.shape)]
        made = made.new_zeros(sizes).index_copy(dim, indices, made)
    return made


_RMS = ("input", "normalized_shape", "weight", "eps")
_OTHERS = ("input", "num_groups", "weight", "bias", "eps")


def _layer(x: Tensor, keep: Tensor, given: dict[str, Any]) -> Tensor:
    dims = tuple(range(-keep.ndim, 0))
    share = keep.to(x.dtype) / keep.sum()
    centred = x - (x * share).sum(dims, keepdim=True)
    variance = (centred.square() * share).sum(dims, keepdim=True)
    return _affine(centred * torch.rsqrt(variance + given.get("eps", 1e-5)), given["weight"], given.get("bias"))


def _rms(x: Tensor, keep: Tensor, given: dict[str, Any]) -> Tensor:
    share = keep.to(x.dtype) / keep.sum()
    square = (x.square() * share).sum(tuple(range(-keep.ndim, 0)), keepdim=True)
    eps = given.get("eps")
    return _affine(x * torch.rsqrt(square + (torch.finfo(x.dtype).eps if eps is None else eps)), given["weight"], None)


def _group(x: Tensor, keep: Tensor, given: dict[str, Any]) -> Tensor:
    groups = given["num_groups"]
    whole = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    mask = keep.reshape(1, groups, -1, 1).to(x.dtype)
    share = mask / (mask.sum(2, keepdim=True).clamp_min(1) * whole.shape[3])
    centred = whole - (whole * share).sum((2, 3), keepdim=True)
    variance = (centred.square() * share).sum((2, 3), keepdim=True)
    normal = (centred * torch.rsqrt(variance + given.get("eps", 1e-5))).reshape(x.shape)
    by_channel = (-1, *[1] * (x.ndim - 2))
    bias = given.get("bias")
    return _affine(normal, given["weight"].reshape(by_channel), None if bias is None else bias.reshape(by_channel))


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x * weight if bias is None else x * weight + bias


_NORMS: dict[Any, Callable[[Tensor, Tensor, dict[str, Any]], Tensor]] = {
    F.layer_norm: _layer,
    torch.layer_norm: _layer,
    F.rms_norm: _rms,
    torch.rms_norm: _rms,
    F.group_norm: _group,
    torch.group_norm: _group,
}
