"""Networks that a run owns: copies of those that were given, and which of their weights stay frozen.

The networks of a caller are never touched. What was frozen in them (`requires_grad` is False) stays frozen in every
training, through operations, reloading and resuming. A network that is frozen as a whole is taken for a teacher that
was switched off, as is usual, and learns in all its weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lessen.core.errors import NetworkError
from lessen.core.usable import usable
from lessen.surgery.copying import copy_network

_SAY = logging.getLogger("lessen")
_PARAMETRIZED = re.compile(r"parametrizations\.([^.]+)\.original\d*$")


def own_copy(network: Any, *, what: str) -> nn.Module:
    """A copy that a run may change, with its weights free to learn unless only some of them are.

    Args:
        network: Anything; it is not changed. What wraps a network is taken off.
        what: What to call it in an error.

    Raises:
        NetworkError: it is no network that can be worked on (`core.usable`), cannot be copied, or holds state that
            no file of tensors can keep.
    """
    own = copy_network(usable(network, what=what))
    check_keepable(own, what=what)
    if is_frozen(own):
        own.requires_grad_(True)
        _SAY.warning(
            "%s is completely frozen (requires_grad is False), as teachers often are. All weights of the run's copy "
            "are trained; to keep some fixed, freeze only these.",
            what,
        )
    return own


def check_keepable(network: nn.Module, *, what: str) -> None:
    """Whether a file of tensors can keep the whole state of a network.

    Raises:
        NetworkError: its state holds something else than tensors, or tensors without numbers.
    """
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise NetworkError(
                f"{what} keeps {name!r} in its state, a {type(value).__name__}; only tensors can be written to a file. "
                "Keep it as a buffer, or leave get_extra_state out."
            )
        if value.is_meta or value.is_sparse:
            kind = "has no values yet (it is on the meta device)" if value.is_meta else "is sparse"
            raise NetworkError(f"{name!r} of {what.lower()} {kind}. Give a network whose weights are dense and loaded.")


def is_frozen(network: nn.Module) -> bool:
    """Whether no weight of a network may learn; False where it has none."""
    flags = [parameter.requires_grad for parameter in network.parameters()]
    return bool(flags) and not any(flags)


def frozen_names(network: nn.Module) -> list[str]:
    """The names of the weights that may not learn, as they are called without parametrisations."""
    return [name for name, parameter in _named(network) if not parameter.requires_grad]


def freeze(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """Freeze the weights of these names and free all others, in place; the network is given back."""
    wanted = set(names)
    for name, parameter in _named(network):
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(name not in wanted)
    return network


def carry_frozen(before: nn.Module, after: nn.Module) -> nn.Module:
    """Freeze in a network what was frozen in the one that it was made of, in place; the network is given back.

    A weight that keeps its name keeps its freedom. A new one (a factor, a bias that folding made) is frozen where all
    weights of the module that it replaces, or is part of, were.
    """
    flags = {name: parameter.requires_grad for name, parameter in _named(before)}
    if not all(flags.values()):
        inside: dict[str, bool] = {}
        for name, flag in flags.items():
            for path in _around(name):
                inside[path] = inside.get(path, False) or flag
        known = inside | flags
        freeze(after, [name for name, _ in _named(after) if not _nearest(name, known)])
    return after


def _nearest(name: str, known: Mapping[str, bool]) -> bool:
    return next((known[path] for path in (name, *_around(name)) if path in known), True)


def _around(name: str) -> list[str]:
    """The paths of the modules that a weight is in, the innermost first.

    >>> _around("a.b.weight")
    ['a.b', 'a', '']
    """
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, -1, -1)]


def _named(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(_PARAMETRIZED.sub(r"\1", name), parameter) for name, parameter in network.named_parameters()]
