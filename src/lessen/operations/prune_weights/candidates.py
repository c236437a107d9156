"""Which parameters can lose single weights: those that only multiply.

These are the weight of linear and convolution layers, and the packed projections of attention. A parameter that two of
them share is one; one that something else shares (an embedding, whose rows are read) is left alone.
"""

from __future__ import annotations

from torch import nn

from lessen.core import Where, check_where, matches
from lessen.core.errors import PlanError, did_you_mean
from lessen.operations.parts.pattern import Pattern
from lessen.surgery.attention import OpenAttention
from lessen.surgery.forms.mask import Mask
from lessen.surgery.forms.places import Forms, Owners
from lessen.surgery.forms.registering import is_list, refusal, stored

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_KINDS: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), "weight"),
    **dict.fromkeys(_TRANSPOSED, "weight"),
    **dict.fromkeys((nn.MultiheadAttention, OpenAttention), "in_proj_weight"),
}

Weights = dict[str, tuple[nn.Module, str]]
"""The owner of each parameter and what it is called there, by the full name."""


def candidates(model: nn.Module, where: Where, exclude: Where) -> tuple[Weights, dict[str, str]]:
    """The parameters to choose from, by name, and the reasons for those that are left alone.

    Args:
        model: The network.
        where: Which modules; None for all that have weights to prune.
        exclude: Which of these to leave alone; None for none.

    Raises:
        PlanError: `where` matches no such module, or there is none.
    """
    check_where(model, where=where, exclude=exclude)
    chosen: Weights = {}
    left: dict[str, str] = {}
    seen: set[int] = set()
    owners, forms = Owners(model), Forms(model)
    for path, module in model.named_modules():
        if not matches(where, path, module) or (exclude is not None and matches(exclude, path, module)):
            continue
        last = prunable(module)
        if last is None:
            left |= dict.fromkeys(
                other_matrices(path, module), f"it is not known how a {type(module).__name__} uses its weight"
            )
            continue
        tensor = stored(module, last)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        name = f"{path}.{last}" if path else last
        other = [(at, owner) for at, owner, its in owners.of(tensor) if prunable(owner) != its]
        if why := refusal(forms.at(path, last), Mask):
            left[name] = why
        elif other:
            at, owner = other[0]
            left[name] = f"tied to {at}, a {type(owner).__name__}, which does not only multiply by it"
        else:
            chosen[name] = (module, last)
    if not chosen and not left and where is not None:
        close = did_you_mean(str(where), [path for path, module in model.named_modules() if prunable(module)])
        raise PlanError(f"where={where!r} matches no layer whose weights can be pruned; {close}")
    if not chosen and not left and exclude is None:
        raise PlanError("This network has no linear layer, convolution or attention whose weights can be pruned.")
    return chosen, left


def other_matrices(path: str, module: nn.Module) -> list[str]:
    """Weights of a module that are not known to multiply; tables and what scales channels are not meant."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or is_list(module):
        return []
    named = module.named_parameters(path, recurse=False)
    return [name for name, tensor in named if tensor.ndim == 2 and min(tensor.shape) > 1 and "weight" in name]


def fitting(model: nn.Module, where: Where, exclude: Where, pattern: Pattern) -> tuple[Weights, dict[str, str]]:
    """The candidates that can have a pattern; the others are left alone, with the reason."""
    chosen, left = candidates(model, where, exclude)
    for name, (module, last) in list(chosen.items()):
        reason = pattern.refuses(getattr(module, last).shape)
        if pattern.by_rows and isinstance(module, _TRANSPOSED):
            reason = f"a transposed convolution has its inputs on axis 0; {type(pattern).__name__} needs them on axis 1"
        if reason:
            left[name] = reason
            del chosen[name]
    return chosen, left


def check_share(pattern: Pattern, keep: float) -> None:
    """Whether the share to keep is one that the pattern can have.

    Raises:
        ValueError: it is not; the text says which is.
    """
    if pattern.share is not None and abs(keep - pattern.share) > 1e-9:
        raise ValueError(f"with pattern={pattern!r} the share kept is {pattern.share:g}; write keep={pattern.share:g}")


def prunable(module: nn.Module) -> str | None:
    """The name of the parameter of this module that only multiplies, or None."""
    for kind, name in _KINDS.items():
        if isinstance(module, kind) and getattr(module, name) is not None:
            return name
    return None
