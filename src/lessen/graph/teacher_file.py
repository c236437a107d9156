"""A teacher that is a file: what it said to each example, stored once by whoever could run it.

Shapes: N examples.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lessen.core.data import Data
from lessen.core.errors import DataError
from lessen.core.files import check_regular

_SPLITS = ("train", "validation")
_ADVICE = "Store them in the order of the split, as numpy.savez(path, train=logits_NC)."


@runtime_checkable
class ByIndex(Protocol):
    """A network that is not called with inputs, but answers by the numbers of the examples."""

    def answers(self, index_N: Tensor, *, training: bool) -> Any:
        """What it says to examples of the training split, or of the validation split."""

    def check(self, data: Data) -> None:
        """Whether it has an answer for each example.

        Raises:
            DataError: it has not.
        """


class TeacherFile(nn.Module):
    """The outputs of a teacher from a file, as the frozen network of a node.

    Row i belongs to example i of the training split as it comes without augmentation; whatever view the student sees,
    the answer stays. Values keep their type, so a student learns the same, bit for bit, as from the live teacher whose
    outputs these are.

    Args:
        path: An `.npy` file with one array, (N, ...), or an `.npz` file with the arrays `train` and, if the stage is
            judged by a loss and not by labels, `validation`; a single array of any name is `train`.

    Raises:
        DataError: the file is missing, damaged, holds no numbers, or has no outputs of the training split.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(path)
        self._arrays = _read(Path(path))
        # Tensors of a module are no part of the identity of a run; these are.
        self.content = {name: hashlib.sha256(rows.numpy().tobytes()).hexdigest() for name, rows in self._arrays.items()}

    def answers(self, index_N: Tensor, *, training: bool) -> Tensor:
        """The rows of these examples, on their device.

        Raises:
            DataError: there are none for this split.
        """
        split = "train" if training else "validation"
        if split not in self._arrays:
            raise DataError(
                f"{self.path} has no outputs for the {split} split. Add an array {split!r}, or judge by labels."
            )
        rows: Tensor = self._arrays[split].index_select(0, index_N.cpu()).to(index_N.device)
        return rows

    def check(self, data: Data) -> None:
        for name, array in self._arrays.items():
            expected = len(getattr(data, name))
            if len(array) != expected:
                raise DataError(
                    f"{self.path} has {len(array)} rows for the {name} split, which has {expected} examples. {_ADVICE}"
                )

    def forward(self, *inputs: Any, **named: Any) -> NoReturn:
        raise DataError(
            f"The teacher in {self.path} cannot be called with inputs: it knows its answers by the numbers of the "
            "examples. Use it as the teacher of a scheme in lessen.engine.run; compress needs a network that runs."
        )


def _read(path: Path) -> dict[str, Tensor]:
    check_regular(path, error=DataError, expected="an .npz or .npy file with a teacher's outputs")
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {"train": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path} cannot be read as an .npz or .npy file: {error}. {_ADVICE}") from error
    if len(arrays) == 1 and next(iter(arrays)) not in _SPLITS:
        arrays = {"train": next(iter(arrays.values()))}
    if "train" not in arrays:
        raise DataError(
            f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}, but 'train' was expected. {_ADVICE}"
        )
    tensors = {}
    for name in _SPLITS:
        if name not in arrays:
            continue
        array = arrays[name]
        if array.dtype.kind != "f" or array.ndim < 2:
            raise DataError(
                f"{path}: {name!r} has the shape {array.shape} and the type {array.dtype}; floating-point numbers of "
                f"shape (N, ...) were expected. {_ADVICE}"
            )
        tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
    return tensors
