"""Finding and replacing the parts of a network by name, with what is shared kept shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from lessen.core.errors import NetworkError, did_you_mean


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
    old = get_module(model, path)
    if old is model:
        raise NetworkError("The whole network cannot be replaced in itself; use the new module instead.")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new


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


def set_tensors(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put new tensors, of any shape, in the place of parameters and buffers; what was tied stays tied.

    A parameter stays a parameter, with its `requires_grad`; a buffer stays a buffer.

    Raises:
        NetworkError: a name does not exist.
    """
    names = tensor_names(model)
    for name, value in values.items():
        old = get_tensor(model, name)
        new: Tensor = value
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(value.detach(), requires_grad=old.requires_grad)
        for alias in names[id(old)]:
            path, _, last = alias.rpartition(".")
            owner = get_module(model, path)
            (owner._parameters if isinstance(old, nn.Parameter) else owner._buffers)[last] = new


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
