"""Where: which modules of a network a setting applies to.

A name pattern, a module type, a predicate, or a tuple of these (any of them), turned into one question.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from lessen.core.errors import PlanError, did_you_mean

_One = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Where = _One | tuple[_One, ...] | None


def matches(where: Where, name: str, module: nn.Module) -> bool:
    """Whether a module is selected. None selects every module; a string is a name or a pattern as "layer1.*".

    >>> matches("layer1.*", "layer1.conv", nn.ReLU()), matches(nn.Linear, "fc", nn.ReLU())
    (True, False)
    """
    if where is None:
        return True
    if isinstance(where, tuple):
        return any(matches(part, name, module) for part in where)
    if isinstance(where, str):
        return name == where or fnmatchcase(name, where)
    if isinstance(where, type):
        return isinstance(module, where)
    return where(name, module)


def check_where(model: nn.Module, **settings: Where) -> None:
    """Check that every name and pattern in these settings matches a module of a network, so that typos are found.

    Types and predicates may match none: they are written for many networks.

    Args:
        model: The network.
        settings: By what they are called, as `where=...` and `exclude=...`.

    Raises:
        PlanError: a name or pattern matches no module; the text says which is close.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for setting, where in settings.items():
        for part in where if isinstance(where, tuple) else (where,):
            if isinstance(part, str) and not any(name == part or fnmatchcase(name, part) for name in names):
                close = did_you_mean(part, [name for name in names if name])
                raise PlanError(f"{setting}={part!r} names no module of this {type(model).__name__}; {close}")
