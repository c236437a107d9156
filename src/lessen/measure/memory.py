"""The most memory that a forward pass holds at once, from the tensors that are alive.

Every operator that PyTorch dispatches is watched; the memory behind each tensor it makes is followed until it is
freed. The peak is the largest sum of weights, inputs and living activations after any operator. It is exact and
repeatable, the same on a busy machine and on an idle one, and it says what the *network* needs: the scratch space
inside an operator (an unfolded convolution, a packed weight), the allocator's rounding and PyTorch itself are not in
it, so a process takes more.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lessen.core.data import Inputs, map_inputs
from lessen.measure.evaluate import device_of, evaluating, run_once


def peak_memory(model: nn.Module, inputs: Inputs) -> int:
    """Bytes held at the worst moment of one forward pass on these inputs: weights, inputs and living activations.

    >>> layers = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU())  # 128 bytes of weights
    >>> peak_memory(layers, torch.zeros(1, 4))  # + 16 of inputs, 32 before and 32 after the ReLU
    208
    """
    device = device_of(model)
    held = map_inputs(inputs, lambda value: value.to(device))
    watching = _Watching()
    with evaluating(model), watching:
        watching.keep((*model.parameters(), *model.buffers()))
        watching.keep(tree_iter(held))
        run_once(model, held)
    return watching.peak


class _Watching(TorchDispatchMode):
    """Follows the memory behind tensors: `alive` bytes now, `peak` bytes at the worst moment."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: int = 0
        self.peak: int = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def keep(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        self.peak = max(self.peak, self.alive)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.keep(tree_iter(result))
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: object) -> None:
            self.alive -= size
            del self._known[key]

        # PyTorch keeps one Python object a storage for as long as the memory lives, so its end is the memory's end.
        self._known[key] = weakref.ref(storage, freed)
        self.alive += size
