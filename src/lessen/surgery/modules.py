"""Finding and replacing the parts of a network by name, with what is shared kept shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lessen.core.errors import NetworkError, did_you_mean
from lessen.surgery.copying import copy_network, derive_anew
from lessen.surgery.decay import OwnDecay


def get_module(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path; `""` is the network itself.

    Raises:
        NetworkError: there is no such module; the text lists close names.

    >>> get_module(nn.Sequential(nn.ReLU()), "0")
    ReLU()
    """
    here: nn.Module | None = model
    for part in path.split(".") if path else ():
        here = None if here is None else here._modules.get(part)
    if here is None:
        names = [name for name, _ in model.named_modules() if name]
        raise NetworkError(f"{type(model).__name__} has no module {path!r}: {did_you_mean(path, names)}")
    return here


def set_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` wherever the module at `path` stands: a module that is shared stays shared.

    Raises:
        NetworkError: there is no such module, or the path is that of the whole network.
    """
    set_modules(model, {path: new})


def set_modules(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """`set_module` for several paths, in one walk over the network; none of them inside another.

    Raises:
        NetworkError: there is no such module, or a path is that of the whole network. Nothing is replaced then.
    """
    instead = {id(get_module(model, path)): module for path, module in new.items()}
    if id(model) in instead:
        raise NetworkError("The whole network cannot be replaced in itself; use the new module instead.")
    for parent in list(model.modules()) if instead else ():
        for name, child in list(parent._modules.items()):
            if id(child) in instead:
                parent._modules[name] = instead[id(child)]


def tensor_names(model: nn.Module) -> dict[int, list[str]]:
    """Every name of each parameter and buffer, keyed by the tensor's identity: tied tensors have several names."""
    names: dict[int, list[str]] = {}
    for name, tensor in _tensors(model):
        names.setdefault(id(tensor), []).append(name)
    return names


def get_tensor(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer with this name.

    Raises:
        NetworkError: there is none; the text lists close names.
    """
    path, _, last = name.rpartition(".")
    try:
        owner = get_module(model, path)
    except NetworkError:
        owner = None
    found = None if owner is None else owner._parameters.get(last, owner._buffers.get(last))
    if found is None:
        known = [known for known, _ in _tensors(model)]
        raise NetworkError(f"{type(model).__name__} has no parameter or buffer {name!r}: {did_you_mean(name, known)}")
    return found


def copy_with(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network in which some parameters and buffers are other tensors, of any shape.

    What was tied stays tied; a parameter stays a parameter, with its `requires_grad`; what is replaced is never copied.

    Raises:
        NetworkError: a name does not exist.

    >>> import torch
    >>> copy_with(nn.Linear(2, 2, bias=False), {"weight": torch.zeros(1, 2)}).weight
    Parameter containing:
    tensor([[0., 0.]], requires_grad=True)
    """
    instead: dict[int, Any] = {}
    for name, value in values.items():
        old = get_tensor(model, name)
        instead[id(old)] = _in_place_of(old, value)
    new = copy_network(model, instead)
    derive_anew(new)
    return new


def _in_place_of(old: Tensor, value: Tensor) -> Tensor:
    if isinstance(old, OwnDecay):
        return OwnDecay(value.detach(), old.requires_grad, old.decay)
    return nn.Parameter(value.detach(), old.requires_grad) if isinstance(old, nn.Parameter) else value


def copy_structure(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares every parameter and buffer with the network: to be looked at, not trained."""
    return copy_network(model, {id(tensor): tensor for _, tensor in _tensors(model)})


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
