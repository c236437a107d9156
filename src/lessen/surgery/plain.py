"""Networks that come in with parametrised weights: weight norm, spectral norm, masks of PyTorch, or a user's own.

Operations work on plain weights. `plain` evaluates each such weight once, in eval mode, and puts the result in its
place: the outputs in eval mode stay the same, bit for bit. What the parametrisation did *in training* ends: a weight
with weight norm is then trained directly, one with spectral norm or orthogonality is no longer held there, and zeros
of `torch.nn.utils.prune` may move. `lessen.compress` therefore makes masks of its own of these first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from lessen.core.data import Inputs
from lessen.core.errors import NetworkError
from lessen.core.usable import check_precision, usable
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.registering import forms_of, is_list, parametrised, unparametrise


@dataclass(frozen=True)
class Foreign:
    """A tensor that the user's network computes from others.

    Args:
        path: Of the module.
        module: Its owner.
        name: Of the tensor, as "weight".
        kind: What computes it, for people.
        hook: What computes it before each call; None for a parametrisation.
    """

    path: str
    module: nn.Module
    name: str
    kind: str
    hook: Any = None

    @property
    def full(self) -> str:
        """The tensor's full name."""
        return f"{self.path}.{self.name}" if self.path else self.name


def plain(model: nn.Module, inputs: Inputs | None = None, *, values: bool = True) -> nn.Module:
    """The network itself where its weights are plain or lessen's own, else a copy in which they are.

    What wraps a network is taken off (`core.usable`).

    Args:
        model: The network; it is not changed.
        inputs: What it will run on; it is checked whether it takes their precision. None: that is not looked at.
        values: Whether its weights must have values; otherwise it may be on the meta device.

    Raises:
        NetworkError: it is no network that can be worked on (see `usable`), or a weight is drawn anew at each call, is
            shared, or carries a form of lessen underneath.
    """
    model = usable(model, values=values)
    if inputs is not None:
        check_precision(model, inputs)
    return plain_copy(model) if next(foreign(model), None) is not None else model


def plain_copy(model: nn.Module, known: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a network with plain weights; see `plain` and `copy_network`."""
    new = copy_network(usable(model), known)
    found = list(foreign(new))
    if found:
        times = Counter(id(tensor) for _, tensor in new.named_parameters(remove_duplicate=False))
        for each in found:
            _fold(each, times)
    return new


def foreign(model: nn.Module) -> Iterator[Foreign]:
    """Every tensor that is computed from others, and not by lessen."""
    for path, module in model.named_modules():
        if is_list(module):
            continue
        for name, forms in parametrised(module).items():
            if len(forms_of(module, name)) < len(forms):
                kinds = ", ".join(type(form).__name__.lstrip("_") for form in forms)
                yield Foreign(path, module, name, kinds)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                yield Foreign(path, module, hook.name, type(hook).__name__, hook)
            elif isinstance(hook, prune.BasePruningMethod):
                yield Foreign(path, module, hook._tensor_name, f"a mask of torch.nn.utils.prune, {_name(hook)}", hook)


def folded_rows(model: nn.Module) -> list[dict[str, Any]]:
    """One row for each tensor that `plain` folds, in the form of `Plan.describe`."""
    return [
        {"module": each.full, "edit": "fold", "before": f"computed by {each.kind}", "after": "a plain tensor"}
        for each in foreign(model)
    ]


def pytorch_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of `torch.nn.utils.prune` on a network, by the full name of the tensor; True where a weight stays."""
    return {
        each.full: each.module._buffers[f"{each.name}_mask"].bool()  # type: ignore[union-attr]
        for each in foreign(model)
        if isinstance(each.hook, prune.BasePruningMethod)
    }


def _fold(each: Foreign, times: Counter[int]) -> None:
    """Put the tensor that is computed in the place of what computes it, in place."""
    module, name = each.module, each.name
    if each.hook is not None:
        if isinstance(each.hook, WeightNorm):
            remove_weight_norm(module, name)
        elif isinstance(each.hook, SpectralNorm):
            remove_spectral_norm(module, name)
            _forget_state_hooks(module, name)
        else:
            prune.remove(module, name)
        return
    forms = parametrised(module)[name]
    if forms_of(module, name):
        raise NetworkError(
            f"{each.full} is computed by {each.kind} on top of what lessen stores. Add a parametrisation before the "
            "first operation, not after."
        )
    if any(times[id(tensor)] > 1 for tensor in forms._parameters.values()):
        raise NetworkError(
            f"{each.full} is computed by {each.kind} from a tensor that another module shares. Remove the "
            "parametrisation (torch.nn.utils.parametrize.remove_parametrizations) or untie the tensors first."
        )
    first: Tensor = next(iter((*forms._parameters.values(), *forms._buffers.values())))
    with torch.no_grad():
        forms.eval()
        value: Tensor = forms().detach().clone()
        if not torch.equal(value, forms()):
            raise NetworkError(
                f"{each.full} is computed by {each.kind}, which gives other values each time, also in eval mode. "
                "Remove the parametrisation before the network is compressed."
            )
    is_parameter = bool(forms._parameters)
    unparametrise(module, name, nn.Parameter(value, first.requires_grad) if is_parameter else value)


def _forget_state_hooks(module: nn.Module, name: str) -> None:
    """PyTorch does not find the one of spectral norm for loading, which it wraps since 2.0, and leaves it there."""
    hooks: dict[int, Any] = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        hook = getattr(wrapped, "hook", wrapped)
        if isinstance(hook, SpectralNormLoadStateDictPreHook) and hook.fn.name == name:
            del hooks[key]


def _name(hook: prune.BasePruningMethod) -> str:
    return type(hook).__name__
