"""Where: which modules of a network a setting is for.

A name pattern, a module type, a predicate, or a tuple of these (any of them), turned into one question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from torch import nn

_One = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Where = _One | tuple[_One, ...] | None


def matches(where: Where, name: str, module: nn.Module) -> bool:
    """Whether a module is meant. None means every module; a string is a name or a pattern as "layer1.*".

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


def select(model: nn.Module, where: Where) -> Iterator[tuple[str, nn.Module]]:
    """The named modules that are meant, in the network's order."""
    for name, module in model.named_modules():
        if matches(where, name, module):
            yield name, module
