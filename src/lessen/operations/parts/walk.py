"""Forward passes that wait at one layer after another until its weights have been changed.

A method that is sequential gives each layer the inputs that come out of the layers changed before it. Running the
network anew up to each layer costs the square of its depth. A walk runs each calibration batch once: the pass waits at
a layer, the layer is changed in place, and the pass goes on with what it is now.

What a walk shows is what a new pass would show. Where a pass has read a weight before it was changed (a layer that is
called several times, a weight that is standardised before it multiplies), all passes begin anew afterwards.

In memory is what each batch has in flight at one place of the network, however deep it is: as much as one pass over all
batches side by side.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lessen.core import Inputs
from lessen.core.data import call
from lessen.operations.parts.pausing import Pausable, ThreadWatch
from lessen.surgery.calls import Place
from lessen.surgery.forms.registering import stored
from lessen.surgery.modules import get_module

W = TypeVar("W", bound="Walker")


class Walk(Generic[W]):
    """One pass for each batch. Subclasses say what runs (`prepare`) and how it is watched (`watch`).

    To be used in a `with` statement, behind which no pass waits any more.

    Args:
        batches: Inputs of the network, on its device.
        weights: The names of the parameters that are going to change, in the network that runs.
    """

    def __init__(self, batches: Iterable[Inputs], weights: Iterable[str] = ()) -> None:
        self._batches = list(batches)
        self.waiting = dict.fromkeys(weights)
        """Those that have not been changed."""
        self._stale = False
        self.wanted: Any = None
        self.walkers: list[W] = []
        self.unread: dict[int, str] = {}

    def prepare(self) -> nn.Module:
        """The network that runs, with all changes so far."""
        raise NotImplementedError

    def watch(self, model: nn.Module, inputs: Inputs) -> W:
        """What watches one pass."""
        raise NotImplementedError

    def go(self, wanted: Any) -> list[W]:
        """Take each pass to where it has seen what is wanted, or to its end."""
        if self._stale or not self.walkers or any(wanted in walker.past for walker in self.walkers):
            self._begin()
        self.wanted = wanted
        for walker in self.walkers:
            walker.turns.resume()
        return self.walkers

    def changed(self, names: Iterable[str]) -> None:
        """These parameters are now what they are going to be: what passes have computed from them before is void."""
        for name in names:
            self.waiting.pop(name, None)
            self._stale |= any(name in walker.read for walker in self.walkers)
        self.unread = {place: name for place, name in self.unread.items() if name in self.waiting}

    def close(self) -> None:
        """End all passes."""
        for walker in self.walkers:
            walker.turns.close()
        self.walkers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _begin(self) -> None:
        self.close()
        model = self.prepare()
        self.unread = {_place(_stored(model, name)): name for name in self.waiting}
        self.walkers = [self.watch(model, inputs) for inputs in self._batches]
        self._stale = False


class Walker(ThreadWatch):
    """One pass of a walk. Subclasses add what they come past to `past`, and call `halt` where the walk wanted that.

    Args:
        walk: Which.
        model: What runs.
        inputs: What it is given.
    """

    def __init__(self, walk: Walk[Any], model: nn.Module, inputs: Inputs) -> None:
        super().__init__(model)
        self.walk, self.model, self._inputs = walk, model, inputs
        self.turns = Pausable(self._run)
        self.past: set[Any] = set()
        """What it came past, of what the walk may want."""
        self.read: set[str] = set()
        """The weights from which it has computed something before they were changed."""

    def halt(self) -> None:
        """Wait here until the walk goes on."""
        self.turns.pause()

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.turns.check()
        result = run(*args, **kwargs)
        if self.walk.unread:
            self._note((args, kwargs), result)
        return result

    def shares(self, given: Any, name: str) -> bool:
        """Whether a tensor is a parameter of the network, or a view of it."""
        return isinstance(given, Tensor) and _place(given) == _place(_stored(self.model, name))

    def _note(self, given: Any, result: Any) -> None:
        """A weight of which something is computed before it was changed has been read early. A view is only a view."""
        read = {_place(leaf) for leaf in tree_leaves(given) if isinstance(leaf, Tensor)} & self.walk.unread.keys()
        if read:
            made = {_place(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
            self.read |= {self.walk.unread[place] for place in read if made - {place}}

    def _run(self) -> None:
        self.thread = threading.get_ident()
        # Where no weight changes there is nothing to note, and PyTorch takes the kernels that it takes without a watch.
        with torch.no_grad(), self if self.walk.waiting else contextlib.nullcontext():
            call(self.model, self._inputs)


def _place(tensor: Tensor) -> int:
    """Where the numbers of a tensor are in memory; 0 where there is no such place."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _stored(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    return stored(get_module(model, path), last)
