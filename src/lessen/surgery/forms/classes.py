"""Classes of parametrised modules: a module that is changed first gets one that nothing else has.

PyTorch gives a parametrised module a class of its own, with a property for each computed tensor. A copy of the module
shares that class. If a second tensor of the copy were registered there, or one were removed, the original network would
change too.
"""

from __future__ import annotations

from typing import Any

from torch.nn.utils import parametrize


def own_class(kind: type, *, without: str = "") -> type:
    """A class of its own that does what `kind` does, without the property of one tensor.

    Classes above PyTorch's, as that of a quantized network, are made again on top of the new one.
    """
    if not any(_is_injected(base) for base in kind.__mro__):
        return kind
    bases = tuple(own_class(base, without=without) for base in kind.__bases__)
    names = {
        name: value
        for name, value in vars(kind).items()
        if name not in {"__dict__", "__weakref__"} and not (name == without and _computes(value))
    }
    if _is_pytorchs(kind) and not any(map(_computes, names.values())):
        return bases[0]
    return type(kind)(kind.__name__, bases, names)


def _is_injected(kind: type) -> bool:
    return _is_pytorchs(kind) or any(map(_computes, vars(kind).values()))


def _is_pytorchs(kind: type) -> bool:
    return getattr(vars(kind).get("__getstate__"), "__module__", None) == parametrize.__name__


def _computes(value: Any) -> bool:
    return isinstance(value, property) and getattr(value.fget, "__module__", None) == parametrize.__name__
