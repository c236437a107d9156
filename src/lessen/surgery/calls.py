"""What a network computes, function by function, and where: seen from outside while it runs.

The network stays as it is. A `Watch` is in force while the network runs, meets every function that is called on a
tensor (through `TorchFunctionMode`), and knows in which module that happens (through hooks on all modules that stand
only as long as the watch). `trace` writes it all down; other watches may change what passes.

A place in a network is called a *site*:

    "layer1.0.conv1"        what this module gives; a module called again is "layer1.0.relu@1" the second time
    "layer1.0:add:0"        what the first `add` gives that is called in the forward function of layer1.0 itself
    "input:0"               the first tensor that the network is given
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lessen.core.data import Inputs, call
from lessen.core.tree import parts


class Place(NamedTuple):
    """Where a function is called.

    Args:
        op: The function's name, "conv2d" or "add"; one that writes in place has the same name.
        path: The module in whose forward function it is called.
        site: The name of what it gives.
    """

    op: str
    path: str
    site: str


class Watch(TorchFunctionMode):
    """In force inside `with`, around one forward pass of `model`. Subclasses change `function` and `gives`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._path = [""]
        self._entered: Counter[str] = Counter()
        self._called: Counter[str] = Counter()
        self._hooks: list[Any] = []

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A function is called: run it and give its result.

        Args:
            place: Which function, and where.
            run: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        return run(*args, **kwargs)

    def gives(self, site: str, module: nn.Module, output: Any) -> Any:
        """A module is done: give what it is to be taken to have given."""
        return output

    def __enter__(self) -> Self:
        self._hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        op, path = func.__name__, self._path[-1]
        if not op.startswith("__"):
            op = op.rstrip("_")
        site = f"{path}:{op}"
        count = self._called[site]
        self._called[site] += 1
        return self.function(Place(op, path, f"{site}:{count}"), func, args, kwargs or {})

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._path.append(self._names.get(id(module), self._path[-1]))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        path = self._path.pop()
        if id(module) not in self._names or output is None:
            return None
        count = self._entered[path]
        self._entered[path] += 1
        return self.gives(f"{path}@{count}" if count else path, module, output)


@dataclass
class Call:
    """One function that was called on what came from the network's inputs, floating or not, and gave floating tensors.

    Args:
        op: The function's name.
        path: The module in whose forward function it was called.
        site: The name of what it gives; that of the module if it is all that the module gives.
        inputs: The numbers of the floating tensors it was given, in order; None for one that does not depend on the
            network's inputs, as weights. What an embedding is given are whole numbers and a weight: [None].
        outputs: The numbers of the floating tensors it gave.
        plain: Whether no keyword could change what the operation is (as `alpha` does to `add`).
    """

    op: str
    path: str
    site: str
    inputs: list[int | None]
    outputs: list[int]
    plain: bool = True


@dataclass
class Trace:
    """What one forward pass did.

    Args:
        calls: The functions, in order.
        inputs: The numbers of the network's floating inputs.
        outputs: The numbers of what the network gave.
        times: How often each module was called, by its path.
    """

    calls: list[Call] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)

    def consumers(self) -> dict[int, list[Call]]:
        """Which calls take each tensor."""
        found: dict[int, list[Call]] = {}
        for one in self.calls:
            for number in dict.fromkeys(number for number in one.inputs if number is not None):
                found.setdefault(number, []).append(one)
        return found

    def makers(self) -> dict[int, Call]:
        """Which call made each tensor."""
        return {number: one for one in self.calls for number in one.outputs}


class _Tracer(Watch):
    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__(model)
        self.trace = Trace()
        self._numbers: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an id is only an identity while the tensor lives
        self._count = 0
        self._derived = {id(value) for value in _tensors(inputs)}
        self.trace.inputs = [self._number(value) for value in floating(inputs)]

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        given = list(_tensors((args, kwargs)))
        numbers = [self._numbers.get(id(value)) for value in floating(given)]
        self._alive += given
        result = run(*args, **kwargs)
        if any(id(value) in self._derived for value in given):
            self._derived |= {id(value) for value in _tensors(result)}
            self._alive += _tensors(result)
            made = [self._number(value) for value in floating(result)]
            if made:
                plain = not {"alpha", "out"} & set(kwargs)
                self.trace.calls.append(Call(*place, numbers, made, plain))
        return result

    def gives(self, site: str, module: nn.Module, output: Any) -> Any:
        path = site.partition("@")[0]
        self.trace.times[path] += 1
        last = self.trace.calls[-1] if self.trace.calls else None
        whole = isinstance(output, Tensor) and last is not None and last.outputs == [self._numbers.get(id(output))]
        if whole and last is not None and last.path == path and not any(True for _ in module.children()):
            last.site = site
        return output

    def _number(self, value: Tensor) -> int:
        # A function that writes in place gives a new number to the same tensor.
        self._alive.append(value)
        self._numbers[id(value)] = self._count
        self._count += 1
        return self._count - 1

    def numbers_of(self, values: Any) -> list[int]:
        found = [self._numbers.get(id(value)) for value in floating(values)]
        return [number for number in found if number is not None]


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Run a network once, in eval mode, and write down what it computed. The network is left as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), _Tracer(model, inputs) as tracer:
            output = call(model, inputs)
        tracer.trace.outputs = tracer.numbers_of(output)
        return tracer.trace
    finally:
        for module, mode in modes.items():
            module.training = mode


def floating(values: Any) -> Iterator[Tensor]:
    """The floating tensors anywhere in nested tuples, lists, dicts and data classes, in order."""
    return (value for value in _tensors(values) if value.is_floating_point())


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            yield value
        else:
            yield from parts(value).values()
