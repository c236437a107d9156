"""Taps: read what a module computes, by its address, without touching the network.

A tap survives wrapping (DistributedDataParallel, torch.compile), modules that stand in several places, modules
called more than once, and activations that write over what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lessen.core.errors import NetworkError, ShapeError, TapError, did_you_mean
from lessen.core.settings import settings
from lessen.core.tree import part_of
from lessen.core.usable import unwrap

_WRAPPERS = ("_orig_mod", "module")


@settings
class Tap:
    """An address in a network.

    Args:
        path: The dotted name of a module, as `named_modules` gives it; "" is the whole network.
        side: What the module gives, or what it is given; of a batch norm also "state", the moments of the batch and the
            running ones: two tensors (N, 2, C), mean and variance, the same for all N examples.
        call: Which of several calls in one forward pass, as an index (-1 is the last). None: it must be called just
            once.
        part: Which of several tensors that are given, by its name in `core.tree.parts`: "boxes", "0.1". None: all of
            them; of the whole network, the output that counts.

    >>> str(Tap(path="layer1", call=0)), str(Tap(part="boxes"))
    ('layer1[0]', '@boxes')
    """

    path: str = ""
    side: Literal["output", "input", "state"] = "output"
    call: int | None = None
    part: str | None = None

    def __str__(self) -> str:
        text = self.path if self.side == "output" else f"{self.path}.{self.side}"
        text = text if self.call is None else f"{text}[{self.call}]"
        return text if self.part is None else f"{text}@{self.part}"


@settings
class Taps:
    """Several addresses in one network, read together: a tuple of values, in this order.

    Args:
        of: The taps; a string is the path of a module's output.

    >>> str(Taps(of=("layer1", Tap(path="layer2", side="input"))))
    'layer1+layer2.input'
    """

    of: tuple[Tap | str, ...]

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.of:
            raise ValueError("of is empty; name at least one tap")
        return self

    def __str__(self) -> str:
        return "+".join(str(as_tap(where)) for where in self.of)


Address = Tap | Taps | str


def taps(*of: Tap | str) -> Taps:
    """Several addresses read together, as `taps("layer1", "layer2")`."""
    return Taps(of=of)


def each_tap(where: Address) -> tuple[Tap, ...]:
    """The single taps of an address.

    >>> [str(tap) for tap in each_tap(taps("layer1", "layer2"))]
    ['layer1', 'layer2']
    """
    return tuple(as_tap(one) for one in where.of) if isinstance(where, Taps) else (as_tap(where),)


def reader(where: Address) -> Callable[[Mapping[Tap, Any]], Any]:
    """What gives the value at an address, from the values of single taps: one value, or a tuple of them.

    >>> values = {Tap(path="a"): 1, Tap(path="b"): 2}
    >>> reader(taps("a", "b"))(values), reader("a")(values)
    ((1, 2), 1)
    """
    found = each_tap(where)
    return (lambda values: tuple(values[tap] for tap in found)) if isinstance(where, Taps) else itemgetter(found[0])


def as_tap(where: Tap | str) -> Tap:
    """A tap; a string is the path of a module's output.

    >>> as_tap("layer3")
    Tap(path='layer3', side='output', call=None, part=None)
    """
    return where if isinstance(where, Tap) else Tap(path=where)


def resolve(model: nn.Module, tap: Tap) -> nn.Module:
    """The module that a tap means, whatever wraps the network or a part of it.

    Raises:
        TapError: there is no such module; the text lists close names.
    """
    module = unwrap(model)
    for step in filter(None, tap.path.split(".")):
        inner = module._modules.get(step)
        if inner is None:
            if step in _WRAPPERS:
                continue
            names = [_plain(name) for name, _ in unwrap(model).named_modules() if name]
            raise TapError(f"The network has no module {tap.path!r}: {did_you_mean(tap.path, names)}")
        module = unwrap(inner)
    return module


def tensor_of(value: Any) -> Tensor:
    """The tensor that stands for what an inner module gave: itself, the logits of a model output, or the first.

    Of what a whole network returns, `core.tree.judged` gives the tensor that counts.

    Raises:
        ShapeError: there is no tensor in it.
    """
    if isinstance(value, Tensor):
        return value
    logits = getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(value, Mapping):
        parts: Sequence[Any] = [value["logits"]] if "logits" in value else list(value.values())
    else:
        parts = value if isinstance(value, tuple | list) else ()
    for part in parts:
        if isinstance(part, Tensor | tuple | list | Mapping):
            return tensor_of(part)
    raise ShapeError(f"Expected a tensor from a module, got {type(value).__name__}. Tap a module that gives a tensor.")


class Recorder:
    """Hooks that write into `seen` what the taps of one network saw in its last forward pass.

    It is cheap enough to stay in place for a whole training. The owner calls `begin` before each forward pass and
    `check`
    once: afterwards only `seen` is read.

    Args:
        model: The network, wrapped or not.
        taps: What to read. `Tap()` is read by a hook like any other.
        copies: The taps whose value is written over later in the same pass, and must be copied when it is seen.
        on_path: The taps of outputs that are not copied: the network goes on with the copy, and what is seen leads to
            its output.

    Raises:
        TapError: there is no such module, or it has no state that can be tapped.
    """

    def __init__(
        self, model: nn.Module, taps: Collection[Tap], copies: Collection[Tap] = (), on_path: Collection[Tap] = ()
    ) -> None:
        self.seen: dict[Tap, Any] = {}
        self.copies = set(copies)
        self._on_path = set(on_path)
        self._taps = tuple(dict.fromkeys(taps))
        self._calls: dict[Tap, list[tuple[Any, int]]] = {tap: [] for tap in self._taps}
        self._active = False
        self._handles = []
        for tap in self._taps:
            module = resolve(model, tap)
            if tap.side == "output":
                handle = module.register_forward_hook(self._output_hook(tap))
            elif tap.side == "state":
                handle = module.register_forward_pre_hook(self._state_hook(tap, with_moments(module, tap)))
            else:
                handle = module.register_forward_pre_hook(self._input_hook(tap), with_kwargs=True)
            self._handles.append(handle)

    def begin(self) -> None:
        """Forget the last pass and listen to the next."""
        self.forget()
        self._active = True

    def forget(self) -> None:
        """Let go of what was seen, and of the memory behind it."""
        self._active = False
        self.seen.clear()
        for calls in self._calls.values():
            calls.clear()

    def end(self) -> None:
        """Stop listening, so that a recomputation during the backward pass is not taken for a second call."""
        self._active = False
        for tap, calls in self._calls.items():
            if calls and tap.call is not None and -len(calls) <= tap.call < len(calls):
                self.seen[tap] = calls[tap.call][0]

    def check(self) -> None:
        """Whether each tap fired as often as it should.

        Raises:
            TapError: a module was not called, or was called more often than its tap can tell apart.
        """
        for tap, calls in self._calls.items():
            if not calls:
                raise TapError(
                    f"The module {tap.path!r} was not called in the forward pass, so its tap saw nothing. "
                    f"Tap one that is."
                )
            if tap.call is None and len(calls) > 1:
                raise TapError(
                    f"The module {tap.path!r} was called {len(calls)} times in one forward pass. Say which "
                    f"call is meant, "
                    f"as Tap(path={tap.path!r}, call=0) for the first."
                )
            if tap.call is not None and not -len(calls) <= tap.call < len(calls):
                raise TapError(
                    f"The tap {tap} asks for call {tap.call}, but {tap.path!r} was called {len(calls)} times."
                )

    def written_over(self) -> set[Tap]:
        """The taps whose value was changed in place after it was seen; they belong in `copies`."""
        return {tap for tap, calls in self._calls.items() for value, version in calls if version != _version(value)}

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, tap: Tap, value: Any) -> None:
        if not self._active:
            return
        if tap.part is not None:
            try:
                value = part_of(value, tap.part)
            except NetworkError as error:
                raise TapError(f"The tap {tap}: {error}") from error
        if tap in self.copies and not self._goes_on(tap):
            value = _copy(value)
        self.seen[tap] = value
        self._calls[tap].append((value, _version(value)))

    def _output_hook(self, tap: Tap) -> Any:
        def hook(_module: nn.Module, _given: Any, value: Any) -> Any:
            self._keep(tap, value)
            return _copy(value) if self._active and tap in self.copies and self._goes_on(tap) else None

        return hook

    def _goes_on(self, tap: Tap) -> bool:
        """Whether the network goes on with a copy of this value."""
        return tap in self._on_path and tap.side == "output"

    def _state_hook(self, tap: Tap, norm: _BatchNorm) -> Any:
        def hook(_module: nn.Module, given: tuple[Any, ...]) -> None:
            if self._active:
                self._keep(tap, moments(norm, given[0]))

        return hook

    def _input_hook(self, tap: Tap) -> Any:
        def hook(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            values = (*given, *named.values())
            self._keep(tap, values[0] if len(values) == 1 else values)

        return hook


def with_moments(module: nn.Module, tap: Tap) -> _BatchNorm:
    """The module of a tap on a state, if it has running moments.

    Raises:
        TapError: it has none.
    """
    if isinstance(module, _BatchNorm) and module.running_mean is not None:
        return module
    raise TapError(
        f"The tap {tap} needs a batch norm with running statistics, but {tap.path!r} is a {type(module).__name__}. "
        "Name a batch norm."
    )


def moments(norm: _BatchNorm, value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of what a batch norm is given, and its running ones: each (N, 2, C), alike for all N examples.

    >>> batch, running = moments(nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0]]))
    >>> batch[0].flatten().tolist(), running[0].flatten().tolist()
    ([2.0, 1.0], [0.0, 1.0])
    """
    axes = [axis for axis in range(value.ndim) if axis != 1]
    variance_C, mean_C = torch.var_mean(value, axes, correction=0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Running moments move with the batch, so what they are now is copied.
    running_2C = torch.stack([norm.running_mean, norm.running_var])
    shape = (len(value), 2, value.shape[1])
    return torch.stack([mean_C, variance_C]).expand(shape), running_2C.expand(shape)


@contextmanager
def capture(model: nn.Module, taps: Collection[Tap]) -> Iterator[dict[Tap, Any]]:
    """Read taps during the one forward pass that is made inside the block; `seen[tap]` is what the module gave.

    Values are copied when seen, so what a later in-place operation does to them does not show.

    Raises:
        TapError: a tap names no module, or fired never or more than once; raised at the end of the block. A tap names
            a part that its module does not give.

    >>> import torch
    >>> model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    >>> with capture(model, [Tap(path="0")]) as seen:
    ...     out = model(torch.tensor([-1.0, 1.0]))
    >>> seen[Tap(path="0")]
    tensor([-1.,  1.])
    """
    recorder = Recorder(model, taps, copies=taps)
    recorder.begin()
    try:
        yield recorder.seen
        recorder.end()
        recorder.check()
    finally:
        recorder.close()


def _plain(name: str) -> str:
    return ".".join(step for step in name.split(".") if step not in _WRAPPERS)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in {tuple, list}:
        return type(value)(_copy(part) for part in value)
    return value


def _version(value: Any) -> int:
    if isinstance(value, Tensor):
        return 0 if value.is_inference() else value._version
    if isinstance(value, tuple | list):
        return sum(_version(part) for part in value)
    return 0
