"""Parameters that are computed whenever they are read: the one place that starts and ends this.

PyTorch gives a parametrised module a class of its own, with a property for each computed tensor. A copy of the module
shares that class. If a second tensor of the copy were registered there, or one were removed, the original network would
change too. Every function here therefore first gives the module a class that nothing else has.

A `Form` is how lessen itself stores a parameter (masked, in codes, in 16 bits). Anything else that computes a parameter
belongs to the user's network; `lessen.surgery.plain` folds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from lessen.core.errors import NetworkError

Place = tuple[str, nn.Module, str]
"""The path of a module, the module, and the name of a parameter there."""


class Form(nn.Module):
    """How lessen stores a parameter: `forward` makes what is read from what is stored, `right_inverse` the reverse."""


def parametrise(module: nn.Module, name: str, form: Form, *, unsafe: bool = False) -> None:
    """Compute a parameter of a module from what is stored, in place; copies of the module are not affected.

    Args:
        module: The owner.
        name: The parameter, as "weight".
        form: The computation. Further ones are applied after those already there.
        unsafe: Whether what is stored may have another shape than what is read.
    """
    if parametrize.is_parametrized(module):
        module.__class__ = _twin(type(module))
    parametrize.register_parametrization(module, name, form, unsafe=unsafe)


def remove_form(module: nn.Module, name: str, form: Form) -> None:
    """Take one form from a parameter, in place. If it was the last, what is stored becomes the plain parameter."""
    forms = forms_of(module, name)
    del forms[next(place for place, each in enumerate(forms) if each is form)]
    if not len(forms):
        unparametrise(module, name, forms.original)


def unparametrise(module: nn.Module, name: str, plain: Tensor) -> None:
    """Make a computed parameter or buffer an ordinary one again, in place; copies of the module are not affected.

    Args:
        module: The owner.
        name: The parameter, as "weight".
        plain: The tensor that takes its place; a `nn.Parameter` becomes a parameter, any other tensor a buffer.
    """
    lists: Any = module._modules["parametrizations"]
    del lists[name]
    module.__class__ = _twin(type(module), without=name)
    if not len(lists):
        del module._modules["parametrizations"]
    if isinstance(plain, nn.Parameter):
        module.register_parameter(name, plain)
    else:
        module.register_buffer(name, plain)


def parametrised(module: nn.Module) -> dict[str, Any]:
    """The computed parameters of a module: the `ParametrizationList` of each, by its name."""
    found: Any = module._modules.get("parametrizations") if parametrize.is_parametrized(module) else None
    return {} if found is None else dict(found.items())


def forms_of(module: nn.Module, name: str) -> Any:
    """What computes a parameter, in order; empty for a plain one."""
    return parametrised(module).get(name, ())


def is_list(module: nn.Module) -> bool:
    """Whether a module only holds what computes a parameter of another one; a walk over layers skips it."""
    return isinstance(module, parametrize.ParametrizationList)


def stored(module: nn.Module, name: str) -> Tensor:
    """The parameter as the optimizer sees it, behind whatever computes from it.

    Raises:
        NetworkError: it is computed from several tensors.
    """
    forms = forms_of(module, name)
    tensor: Tensor | None = getattr(forms, "original", None) if forms else getattr(module, name)
    if tensor is None:
        kinds = ", ".join(type(form).__name__ for form in forms)
        raise NetworkError(
            f"{name} of a {type(module).__name__} is computed from several tensors ({kinds}). "
            "Fold it first: lessen.surgery.plain.plain(network)."
        )
    return tensor


class Owners:
    """Where each stored parameter of a network is used, found in one walk.

    It holds as long as no module or parameter is replaced; forms may come and go.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[Place]] = {}
        self._alive: list[Tensor] = []  # an id is only an identity while the tensor lives
        for place in _places(model):
            _, module, name = place
            forms = forms_of(module, name)
            tensor = getattr(forms, "original", None) if forms else module._parameters[name]
            if tensor is not None:
                self._alive.append(tensor)
                self._places.setdefault(id(tensor), []).append(place)

    def of(self, tensor: Tensor) -> list[Place]:
        """Every place of a stored parameter."""
        return self._places.get(id(tensor), [])


def owners(model: nn.Module, tensor: Tensor) -> list[Place]:
    """Every place of one stored parameter. It walks over the whole network: for many parameters make `Owners` once."""
    return Owners(model).of(tensor)


def _places(model: nn.Module) -> Iterator[Place]:
    for path, module in model.named_modules():
        if not is_list(module):
            for name in [*module._parameters, *parametrised(module)]:
                yield path, module, name


def _twin(kind: type, *, without: str = "") -> type:
    """A class of its own that does what `kind` does, without the property of one tensor.

    Classes above PyTorch's, as that of a quantized network, are made again on top of the new one.
    """
    if not any(_is_injected(base) for base in kind.__mro__):
        return kind
    bases = tuple(_twin(base, without=without) for base in kind.__bases__)
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
