"""Where the parameters of a network are, and in which forms they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

from lessen.surgery.forms.base import Form, Holder
from lessen.surgery.forms.registering import (
    bake_form,
    check_refusal,
    forms_of,
    is_list,
    parametrise,
    parametrised,
    stored,
)

H = TypeVar("H", bound=Holder)
Occurrence = tuple[str, nn.Module, str]
"""The path of a module, the module, and the name of a parameter there."""


class Owners:
    """Where each stored parameter of a network is used, found in one walk.

    It holds as long as no module or parameter is replaced; forms may come and go.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[Occurrence]] = {}
        self._alive: list[Tensor] = []  # an id is only an identity while the tensor lives
        for path, module, name in places(model):
            forms = parametrised(module).get(name)
            tensor = module._parameters[name] if forms is None else getattr(forms, "original", None)
            if tensor is not None:
                self._alive.append(tensor)
                self._places.setdefault(id(tensor), []).append((path, module, name))

    def of(self, tensor: Tensor) -> list[Occurrence]:
        """Every place of a stored parameter."""
        return self._places.get(id(tensor), [])


def owners(model: nn.Module, tensor: Tensor) -> list[Occurrence]:
    """Every place of one stored parameter. It walks over the whole network: for many parameters make `Owners` once."""
    return Owners(model).of(tensor)


class Forms:
    """All forms of each parameter of a network, found by path: its own, then those that holders further out have.

    It holds as long as no module is replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._holders: dict[str, list[tuple[str, Holder]]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, Holder):
                over, _, name = path.rpartition(".")
                self._holders.setdefault(over, []).append((name, module))

    def at(self, path: str, name: str) -> list[Form]:
        """The forms of a parameter, in the order in which they apply.

        Args:
            path: Of its module.
            name: Of the parameter, as "weight".
        """
        module = self._model.get_submodule(path)
        return [*forms_of(module, name), *self.held(path, name)]

    def held(self, path: str, name: str) -> list[Form]:
        """Those of them that holders have."""
        module = self._model.get_submodule(path)
        found: list[Form] = []
        for holder, inner in self._over(path):
            found += holder.own(module, name) if inner is None else holder.held(inner, module, name)
        return found

    def inside(self, path: str) -> bool:
        """Whether a module is a holder, or part of one."""
        return any(inner is None for _, inner in self._over(path))

    def _over(self, path: str) -> Iterator[tuple[Holder, str | None]]:
        """The holders around a module, the innermost first, and its path there; None if it is in the holder itself."""
        names = path.split(".") if path else []
        for count in range(len(names), -1, -1):
            for name, holder in self._holders.get(".".join(names[:count]), ()):
                yield holder, None if names[count : count + 1] == [name] else ".".join(names[count:])


def holders(model: nn.Module) -> list[Holder]:
    """Every holder in a network."""
    return [module for module in model.modules() if isinstance(module, Holder)]


def holder_of(module: nn.Module, kind: type[H]) -> H | None:
    """The holder of one kind that is a child of a module, or None. For what belongs to that kind alone."""
    return next((child for child in module.children() if isinstance(child, kind)), None)


def places(model: nn.Module, *, by_every_name: bool = False) -> Iterator[Occurrence]:
    """Every parameter and computed tensor of a network; what is behind them, in forms, is left out.

    Args:
        model: The network.
        by_every_name: Whether a module that has several names comes with each of them.
    """
    for path, module in model.named_modules(remove_duplicate=not by_every_name):
        if not is_list(module):
            for name in [*module._parameters, *parametrised(module)]:
                yield path, module, name


def store(where: Owners, module: nn.Module, name: str, form: Form, value: Tensor | None = None) -> None:
    """Store a parameter in a further form wherever it occurs in a network, in place.

    If the form does not store weights, forms that can be baked (as masks) are, and what remains applies to what is
    stored now: 16 bits are then those of steps.

    Args:
        where: The places of the parameters of the network.
        module: An owner of the parameter.
        name: The parameter, as "weight".
        form: The form; tied parameters share it.
        value: What is stored from now on; None for what is stored already.

    Raises:
        NetworkError: a form that is there cannot be combined with it.
    """
    here = where.of(stored(module, name))
    for _, owner, its_name in here:
        check_refusal(owner, its_name, type(form))
    if not form.of_weights:
        for _, owner, its_name in here:
            for there in forms_of(owner, its_name):
                if there.baked:
                    bake_form(owner, its_name, there)
    parameter = stored(module, name)
    if value is not None:
        parameter.data = value.to(parameter.device, parameter.dtype)
    if not form.learns:
        parameter.requires_grad_(False)
    for _, owner, its_name in here:
        parametrise(owner, its_name, form, unsafe=not form.of_weights)


def bake(model: nn.Module) -> nn.Module:
    """Make plain parameters of those whose forms can be removed before a network is traced, in place; returns it."""
    for _, module, name in list(places(model)):
        for form in forms_of(module, name):
            if form.baked:
                bake_form(module, name, form)
    return model
