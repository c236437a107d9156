"""Examples whose items are anything that torch's `default_collate` takes: tensors, numbers, dicts, tuples, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.core.ahead import Loading
from lessen.core.batch import Batch
from lessen.core.errors import DataError, LessenError
from lessen.core.seeds import Drawing, Generators, generators_of
from lessen.data.roles import Roles, is_picture
from lessen.data.stored import Stored, StoredInputs, as_input, label_of, map_stored, stored, stored_inputs

Parts = tuple[StoredInputs, Stored | None]
"""The inputs and labels of some examples, in the types in which they came."""


@dataclass(frozen=True)
class ItemExamples:
    """Examples of any map-style dataset.

    Inputs and labels become what `StoredExamples` makes of arrays: pixels (uint8) float32 on the scale of 0 to 1, other
    integers int64, all else float32. PIL pictures become channels first; grey ones have one channel, others three.

    Args:
        dataset: Items by index.
        roles: Which parts of an item are inputs and which is the label.
        collate: Makes a batch of a list of items, as in a `DataLoader`; None stacks them.
        loader: The loader that it came with, whose worker processes then fetch.
        labels: Of all examples, where they are known without fetching; shape (N,).
    """

    dataset: Any
    roles: Roles = field(default_factory=Roles)
    collate: Callable[[list[Any]], Any] | None = None
    loader: Any = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def loading(self) -> Loading:
        """By the loader's workers; else when asked for, because a dataset need not be safe to use in threads."""
        return Loading(loader=self.loader, foreign=True)

    @cached_property
    def _generators(self) -> Generators:
        return generators_of(self.dataset, self.collate)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order.

        Raises:
            DataError: the dataset or the `collate_fn` raises an error, or the items do not fit together or their roles.
        """
        inputs, labels = self.parts(index_N)
        return batch_of(inputs, labels, index_N, self.roles)

    def parts(self, index_N: Tensor) -> Parts:
        """The examples with these numbers, in the types in which they come."""
        numbers = index_N.tolist()
        with Drawing(self._generators) as drawing:
            items = _items(self.dataset, numbers, drawing)
            if self.collate is not None:
                return self._collated(items, numbers)
        return collated(items, self.roles, numbers, type(self.dataset).__name__)

    def _collated(self, items: list[Any], numbers: Sequence[int]) -> Parts:
        assert self.collate is not None
        try:
            made = self.collate(items)
        except Exception as error:
            raise DataError(
                f"The collate_fn of the loader cannot collate items {_some(numbers)} ({type(error).__name__}: "
                f"{_first_line(error)}). It must return (inputs, labels), or a dict."
            ) from error
        return checked(made, self.roles, len(items), "What the collate_fn of the loader returns")


def checked(made: Any, roles: Roles, count: int | None, what: str) -> Parts:
    """The parts of a batch that was made by others.

    Args:
        made: The batch.
        roles: Which parts of it are what.
        count: How many examples it must hold; None: any.
        what: What to call it in an error.

    Raises:
        DataError: it is not `count` examples, or not of arrays.
    """
    inputs, label = roles.apart(made, what)
    found = stored_inputs(inputs), None if label is None else stored(label, "labels")
    lengths = {array.shape[0] if array.ndim else -1 for array in _each(found)}
    if len(lengths) != 1 or lengths != {min(lengths) if count is None else count} or -1 in lengths:
        raise DataError(
            f"{what} holds {', '.join(map(str, sorted(lengths)))} examples along its first axes, but "
            f"{'the same number everywhere' if count is None else count} was expected. Put examples along axis 0."
        )
    return found


def _each(parts: Parts) -> list[Stored]:
    inputs, labels = parts
    values: Iterable[Stored]
    values = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else [inputs]
    return [*values, *([] if labels is None else [labels])]


def batch_of(inputs: StoredInputs, labels: Stored | None, index_N: Tensor, roles: Roles) -> Batch:
    """A batch as networks take it."""
    return Batch(map_stored(inputs, as_input), index_N, None if labels is None else label_of(labels, roles.ignored))


def _items(dataset: Any, numbers: Sequence[int], drawing: Drawing) -> list[Any]:
    items = []
    for i in numbers:
        drawing.item(i)
        try:
            items.append(dataset[i])
        except LessenError:
            raise
        except Exception as error:
            raise DataError(
                f"Item {i} of the {type(dataset).__name__} cannot be read ({type(error).__name__}: "
                f"{_first_line(error)}). Repair it or remove it."
            ) from error
    return items


def collated(items: Sequence[Any], roles: Roles, numbers: Sequence[int], name: str) -> Parts:
    """Items put together, one array for each of their parts.

    Args:
        items: At least one.
        roles: Which parts of them are what.
        numbers: What number each item has, for errors.
        name: What the dataset is called in errors.

    Raises:
        DataError: they do not fit together; the text names two that do not.
    """
    apart = [roles.apart(item, f"Item {i} of the {name}") for i, item in zip(numbers, items, strict=True)]
    first, label = apart[0]
    for i, (inputs, other) in zip(numbers, apart, strict=True):
        if _form(inputs) != _form(first) or (other is None) != (label is None):
            raise DataError(
                f"The items of the {name} do not hold the same: item {numbers[0]} has {_said(first, label)}, item {i} "
                f"has {_said(inputs, other)}. Give all of them the same parts."
            )
    stack = _Stack(roles, numbers, name)
    made: StoredInputs
    if isinstance(first, dict):
        made = {key: stack.inputs([inputs[key] for inputs, _ in apart], key, first) for key in first}
    elif isinstance(first, tuple):
        made = tuple(stack.inputs([inputs[place] for inputs, _ in apart], None, first) for place in range(len(first)))
    else:
        made = stack.inputs([inputs for inputs, _ in apart], None, ())
    labels = None if label is None else stack.labels([label for _, label in apart])
    return _masked(made, first, stack.lengths, roles), labels


def _masked(made: StoredInputs, first: Any, lengths: list[int] | None, roles: Roles) -> StoredInputs:
    """The inputs, with the mask that was asked for."""
    if roles.mask is None:
        return made
    if lengths is None:
        raise DataError(f"mask={roles.mask!r} was asked for, but no input has a length.")
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    if isinstance(made, dict):
        return made | {roles.mask: mask}
    if isinstance(made, tuple):
        return (*made, mask)
    name = roles.inputs.rpartition(".")[2] if isinstance(roles.inputs, str) else None
    return (made, mask) if name is None else {name: made, roles.mask: mask}


class _Stack:
    """Puts the values of one part of all items together."""

    def __init__(self, roles: Roles, numbers: Sequence[int], name: str) -> None:
        self.roles, self.numbers, self.name = roles, numbers, name
        self.lengths: list[int] | None = None

    def inputs(self, values: Sequence[Any], key: str | None, known: Any) -> Stored:
        what = "the inputs" if key is None else repr(key)
        arrays = [
            _array(_pixels(value) if is_picture(value) else value, self._at(i, what)) for i, value in enumerate(values)
        ]
        if self.lengths is None and arrays[0].ndim:
            self.lengths = [int(array.shape[0]) for array in arrays]
        return self._stacked(arrays, what, self.roles.padding(key, known))

    def labels(self, values: Sequence[Any]) -> Stored:
        arrays = [
            _array(_classes(value) if is_picture(value) else value, self._at(i, "the label"))
            for i, value in enumerate(values)
        ]
        return self._stacked(arrays, "the labels", self.roles.label_padding)

    def _at(self, i: int, what: str) -> str:
        return f"{what} of item {self.numbers[i]} of the {self.name}"

    def _stacked(self, arrays: list[Stored], what: str, pad: float | None) -> Stored:
        shapes = [tuple(array.shape) for array in arrays]
        other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if other is not None:
            alike = all(len(shape) == len(shapes[0]) >= 1 and shape[1:] == shapes[0][1:] for shape in shapes)
            if not alike or pad is None:
                raise DataError(
                    f"The items of the {self.name} cannot be collated: {what} of item {self.numbers[0]} have shape "
                    f"{shapes[0]}, of item {self.numbers[other]} {shapes[other]}. {_advice(shapes, alike)}"
                )
            arrays = [_filled(array, max(shape[0] for shape in shapes), pad) for array in arrays]
        if all(isinstance(array, Tensor) for array in arrays):
            tensors: list[Any] = list(arrays)
            return torch.stack(tensors)
        return np.stack([np.asarray(array) for array in arrays])


def _advice(shapes: list[tuple[int, ...]], alike: bool) -> str:
    if max(map(len, shapes)) >= 3:
        return (
            "Bring all of them to one shape in the dataset: pictures with torchvision's Resize((height, width)) and "
            ".convert('RGB'), or give a collate_fn."
        )
    if alike:
        return "Give pad= (what to fill shorter ones up with; mask= names a mask of what counts), or a collate_fn."
    return "Bring all of them to one shape in the dataset, or give a collate_fn."


def _filled(array: Stored, length: int, pad: float) -> Stored:
    missing = length - array.shape[0]
    if isinstance(array, Tensor):
        return torch.cat([array, array.new_full((missing, *array.shape[1:]), pad)])
    return np.concatenate([array, np.full((missing, *array.shape[1:]), pad, array.dtype)])


def _array(value: Any, what: str) -> Stored:
    """One value of one item as an array that can be stacked."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what[0].upper()}{what[1:]} cannot be made an array ({_first_line(error)}).") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{what[0].upper()}{what[1:]} is of type {array.dtype}, but numbers were expected. Convert it in the "
            "dataset, or name the other parts with inputs= and labels=."
        )
    return array


def _pixels(picture: Any) -> Any:
    """A PIL picture, channels first: uint8, or float32 on the scale of 0 to 1 where it has more than 8 bits."""
    if picture.mode in {"L", "1"}:
        return np.asarray(picture.convert("L"), np.uint8)[None]
    if picture.mode.startswith("I;16"):
        return np.asarray(picture).astype(np.float32)[None] / np.float32(65535)
    if picture.mode in {"F", "I"}:
        raise DataError(
            f"A picture is of mode {picture.mode!r}, whose scale is not known. Turn it into an array of float32 on the "
            "scale of 0 to 1 in the dataset."
        )
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8).transpose(2, 0, 1))


def _classes(picture: Any) -> Any:
    """A PIL picture as a map of classes, shape (H, W): its values or the numbers in its palette."""
    if len(picture.getbands()) > 1 or picture.mode == "F":
        raise DataError(
            f"A label is a picture of mode {picture.mode!r}. Turn its colours into numbers of classes in the dataset, "
            "one for each pixel."
        )
    return np.asarray(picture).astype(np.int64)


def _form(inputs: Any) -> Any:
    return list(inputs) if isinstance(inputs, dict) else len(inputs) if isinstance(inputs, tuple) else None


def _said(inputs: Any, label: Any) -> str:
    form = _form(inputs)
    said = "one input" if form is None else f"{form} inputs" if isinstance(form, int) else f"inputs {', '.join(form)}"
    return said + (" and no label" if label is None else " and a label")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (" …" if len(numbers) > 4 else "")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
