"""How large the largest tensor is that a computation makes: for methods that promise to make none of some size."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Within its block, `numbers` is the most numbers that one tensor's memory holds; an expanded view holds few.

    >>> import torch
    >>> with LargestTensor() as largest:
    ...     value = (torch.ones(4, 1) * torch.ones(1, 5)).sum()
    >>> largest.numbers
    20
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // leaf.element_size())
        return made
