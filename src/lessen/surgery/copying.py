"""Copies of networks. Operations work on a copy, so a network that comes in is never changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lessen.core.errors import NetworkError

N = TypeVar("N", bound=nn.Module)


def copy_network(model: N, known: dict[int, Any] | None = None) -> N:
    """A deep copy of a network.

    A tensor that a module keeps as an attribute and that is part of a graph of gradients (the features of the last
    call) is copied without that graph: it is no weight of the network. What a module derives from its weights and
    keeps until they change type or device (a table of position biases) the copy derives anew.

    Args:
        model: The network; it is not changed.
        known: As `memo` of `copy.deepcopy`: what to put in the place of some objects, by their `id`. After the call it
            also holds the copies.

    Raises:
        NetworkError: something in the network cannot be copied; the text names the attribute.
    """
    memo: dict[int, Any] = {} if known is None else known
    try:
        with _Detached():
            new = copy.deepcopy(model, memo)
        # Modules that keep such a thing forget it in `_apply`, which runs for every change of type or device.
        new._apply(_as_it_is)  # type: ignore[no-untyped-call]
        return new
    except Exception as error:  # whatever an object of the user's network raises
        place, value = _culprit(model) or ("something in it", None)
        kind = "" if value is None else f" (a {type(value).__module__}.{type(value).__qualname__})"
        raise NetworkError(
            f"{type(model).__name__} cannot be copied, because of {place}{kind}: {str(error).strip()[:200]}. "
            "Operations work on a copy of the network. Keep this object outside the network, set the attribute to None "
            "first, or give its class a __deepcopy__."
        ) from error


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def derive_anew(model: nn.Module) -> None:
    """Let modules derive anew what they derive from their weights when they change to evaluation mode, in place.

    To be called once tensors have been put in the place of others. The modes stay as they are.
    """
    modes = [(module, module.training) for module in model.modules()]
    for module, mode in modes:
        if type(module).train is not nn.Module.train:
            module.train(not mode)
            module.train(mode)
    for module, mode in modes:
        module.training = mode


class _Detached(TorchFunctionMode):
    """In force while a network is copied: tensors that are the result of a computation are copied as constants."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = made = tensor.detach().clone()
            return made
        return func(*args, **(kwargs or {}))


def _culprit(model: nn.Module) -> tuple[str, Any] | None:
    """The first attribute or hook that cannot be copied by itself, and its value."""
    for place, value in _contents(model):
        try:
            with _Detached():
                copy.deepcopy(value)
        except Exception:  # noqa: BLE001  (whatever the object raises)
            return place, value
    return None


def _contents(model: nn.Module) -> Iterator[tuple[str, Any]]:
    # The innermost module first: an attribute may refer to the whole network.
    for path, module in reversed(list(model.named_modules())):
        for name, value in vars(module).items():
            if name.endswith("_hooks") and isinstance(value, dict):
                for hook in value.values():
                    yield f"a hook of {path or 'the network itself'}", hook
            elif name not in {"_modules", "_parameters"}:
                yield f"the attribute {f'{path}.{name}' if path else name!r}", value
