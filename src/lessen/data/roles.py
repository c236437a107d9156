"""Which parts of an item are inputs and which is the label: by key, by position, or as their names say.

An item, a batch that a `collate_fn` made, and a set of columns are taken apart alike. What is found is either one
value, several in a tuple (given to the network by position) or several in a dict (given by name).
"""

from __future__ import annotations

import enum
import numbers
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lessen.core.batch import IGNORED
from lessen.core.errors import DataError, did_you_mean

LABEL_NAMES = ("label", "labels", "target", "targets", "y")
"""Keys that name the label where no roles were given."""

PADDING: Mapping[str, int] = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}
"""What the columns of tokenizers are padded with, where an attention mask says which tokens count."""


class Unsaid(enum.Enum):
    """The default of a role: nothing was said."""

    UNSAID = "unsaid"


UNSAID = Unsaid.UNSAID

Key = int | str
"""A key or a position; "a.b" is the key b of what is at the key a."""


@dataclass(frozen=True)
class Roles:
    """What the parts of an item are, and what is done where items differ in length.

    Args:
        inputs: One place, several (by position where they are numbers, else by the last part of their key), or a dict
            that gives the name of each as the network knows it. Unsaid: all but the label.
        labels: The place of the label; None for examples without labels. Unsaid: what is called as one of
            `LABEL_NAMES`, or the second of two.
        pad: What inputs that differ in length are filled up with: a number, or one by name ("labels" is the label's).
            None refuses them, except the columns of a tokenizer with an attention mask. Labels are padded with -100.
        mask: The name under which the network gets a mask of what is not padding, shape (N, L), int64.
        ignored: The label of positions that do not count, as 255 in maps of classes; it becomes -100.
    """

    inputs: Any = UNSAID
    labels: Any = UNSAID
    pad: float | Mapping[str, float] | None = None
    mask: str | None = None
    ignored: int | None = None

    def __post_init__(self) -> None:
        for place in self.places():
            if isinstance(place, bool) or not isinstance(place, int | str) or place == "":
                raise DataError(
                    f"A role is a key or a position, but got {place!r}. Give inputs=('image', 'mask'), labels='y', or "
                    "inputs=0, labels=1."
                )

    def places(self) -> Iterator[Any]:
        """Every key or position that was named."""
        for role in (self.inputs, self.labels):
            if isinstance(role, Mapping):
                yield from role.values()
            elif isinstance(role, list | tuple):
                yield from role
            elif role is not UNSAID and role is not None:
                yield role

    @property
    def said(self) -> bool:
        """Whether inputs or labels were named."""
        return self.inputs is not UNSAID or self.labels is not UNSAID

    def apart(self, item: Any, what: str) -> tuple[Any, Any]:
        """The inputs of an item, as one value, a tuple or a dict of values, and its label, or None.

        Args:
            item: An item, a batch of items, or columns.
            what: What to call it in an error.

        Raises:
            DataError: the roles do not fit the item, or it has none that are obvious; the text shows how to name them.
        """
        item = fields(item)
        inputs, label = self._said(item, what) if self.said else self._usual(item, what)
        return flat(inputs, what), None if label is None else single(label, what)

    def _usual(self, item: Any, what: str) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            found = self._label_of(item, what)
            return self._rest(item, [] if found is None else [found]), None if found is None else item[found]
        if is_value(item) and not isinstance(item, tuple):
            return item, None
        if isinstance(item, tuple | list) and len(item) in {1, 2}:
            return item[0], item[1] if len(item) == 2 else None
        if isinstance(item, tuple | list):
            raise DataError(
                f"{what} has {len(item)} elements ({shown(item)}), and nothing says which is the label. Name the "
                f"roles: load(data, inputs=(0, 1), labels={len(item) - 1}) gives the network elements 0 and 1."
            )
        raise _no_value(item, what)

    def _label_of(self, item: Mapping[str, Any], what: str) -> str | None:
        found = [name for name in item if is_label_name(name)]
        if len(found) > 1:
            raise DataError(
                f"{what} has {' and '.join(map(repr, found))}, and nothing says which is the label. Name it: "
                f"load(data, labels={found[0]!r})."
            )
        return found[0] if found else None

    def _rest(self, item: Any, taken: list[Any]) -> Any:
        if isinstance(item, Mapping):
            rest = {name: value for name, value in item.items() if name not in taken}
            return next(iter(rest.values())) if len(rest) == 1 and taken else rest
        left = [value for number, value in enumerate(item) if number not in taken]
        return left[0] if len(left) == 1 else tuple(left)

    def _said(self, item: Any, what: str) -> tuple[Any, Any]:
        label: Any = None
        taken: list[Any] = []
        if self.labels is UNSAID:
            if isinstance(item, Mapping):
                used = [str(place).partition(".")[0] for place in self.places()]
                found = self._label_of({name: value for name, value in item.items() if name not in used}, what)
                label = None if found is None else item[found]
        elif isinstance(self.labels, list | tuple | Mapping):
            raise DataError(
                f"labels={self.labels!r} names several, but the label is one array. Name one of them, as "
                "labels='boxes', or give labels=None and let the network learn from its teacher alone."
            )
        elif self.labels is not None:
            label = at(item, self.labels, what)
            taken = [self.labels]
        if self.inputs is UNSAID:
            nested = [place for place in taken if isinstance(place, str) and not _has(item, place)]
            if nested:
                raise DataError(
                    f"The label of {what.lower()} is inside ({nested[0]!r}), so its inputs have to be named too: "
                    f"load(data, inputs=..., labels={nested[0]!r}). It has {shown(item)}."
                )
            whole = not isinstance(item, Mapping | list | tuple)
            return (item if whole or (not taken and is_value(item)) else self._rest(item, taken)), label
        if isinstance(self.inputs, Mapping):
            return {str(name): at(item, place, what) for name, place in self.inputs.items()}, label
        if not isinstance(self.inputs, list | tuple):
            return at(item, self.inputs, what), label
        values = [at(item, place, what) for place in self.inputs]
        if any(isinstance(place, int) for place in self.inputs):
            return (values[0] if len(values) == 1 else tuple(values)), label
        names = [place.rpartition(".")[2] for place in self.inputs]
        if len(set(names)) < len(names) or any(name.isdecimal() for name in names):
            raise DataError(
                f"inputs={self.inputs!r} gives the network the names {', '.join(names)}. Say how the network calls "
                "them: inputs={'image': 'a.x', 'mask': 'b.x'}."
            )
        return dict(zip(names, values, strict=True)), label

    def padding(self, name: str | None, known: Mapping[str, Any] | tuple[Any, ...]) -> float | None:
        """What an input is filled up with where lengths differ, or None.

        Args:
            name: How the network calls it, or None.
            known: All inputs.
        """
        if name is not None and name == self.mask:
            return 0
        if name in {"attention_mask", "token_type_ids"} and (self.pad is not None or name == "attention_mask"):
            return self.pad.get(name, 0) if isinstance(self.pad, Mapping) else 0
        if isinstance(self.pad, Mapping):
            return self.pad.get(name or "inputs")
        if self.pad is None and isinstance(known, Mapping) and "attention_mask" in known:
            return PADDING.get(name or "")
        return self.pad

    def check_unpadded(self, what: str) -> None:
        """Whether nothing was said about padding, for data that is not padded here.

        Raises:
            DataError: something was.
        """
        if self.pad is not None or self.mask is not None:
            said = f"mask={self.mask!r}" if self.pad is None else f"pad={self.pad!r}"
            raise DataError(
                f"{said} was given, but {what}. Leave it out; a mask of your own can be another of the inputs."
            )

    @property
    def label_padding(self) -> float:
        """What labels are filled up with where lengths differ."""
        return self.pad.get("labels", IGNORED) if isinstance(self.pad, Mapping) else IGNORED


def is_label_name(name: Any) -> bool:
    """Whether a key says that it is the label's.

    >>> is_label_name("Labels"), is_label_name("image")
    (True, False)
    """
    return str(name).lower() in LABEL_NAMES


def fields(item: Any) -> Any:
    """A named tuple as a dict, where a name says which is the label; anything else as it is."""
    names = getattr(item, "_fields", None)
    if isinstance(item, tuple) and names and any(map(is_label_name, names)):
        return dict(zip(names, item, strict=True))
    return item


def at(item: Any, place: Key, what: str) -> Any:
    """What is at a place of an item.

    Raises:
        DataError: nothing is; the text lists what there is.
    """
    steps: list[Any] = [place] if isinstance(place, int) or _has(item, place) else place.split(".")
    value = item
    for step in steps:
        try:
            if isinstance(value, Mapping):
                value = value[step]
            elif hasattr(value, "_fields") and step in value._fields:
                value = getattr(value, step)
            elif isinstance(value, list | tuple):
                value = value[int(step)]
            else:
                raise KeyError(step)
        except (KeyError, IndexError, ValueError) as error:
            known = value if isinstance(value, Mapping) else getattr(value, "_fields", ())
            near = did_you_mean(str(step), map(str, known)) if known else f"it has {shown(item)}."
            raise DataError(f"{what} has nothing at {place!r}: {near}") from error
    return value


def _has(item: Any, place: Key) -> bool:
    return isinstance(item, Mapping) and place in item


def is_value(value: Any) -> bool:
    """Whether something is one value of an example: an array, a number, a picture, or numbers in lists."""
    if is_array(value) or is_picture(value) or isinstance(value, numbers.Number):
        return True
    if isinstance(value, list | tuple) and value and not hasattr(value, "_fields"):
        if all(isinstance(part, numbers.Number | np.generic) for part in value):
            return True
        return isinstance(value, list) and all(isinstance(part, list) and is_value(part) for part in value)
    return False


def is_array(value: Any) -> bool:
    """Whether something is a tensor or a NumPy array."""
    return isinstance(value, Tensor | np.ndarray | np.generic)


def is_picture(value: Any) -> bool:
    """Whether something is a PIL image; PIL is not imported for it."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


def flat(inputs: Any, what: str) -> Any:
    """Inputs as one value, a tuple or a dict of values.

    Raises:
        DataError: they are nested deeper, or something is no value.
    """
    inputs = fields(inputs)
    if is_value(inputs):
        return inputs
    if isinstance(inputs, Mapping):
        return {str(name): _value(value, f"{name!r} of {what[0].lower()}{what[1:]}") for name, value in inputs.items()}
    if isinstance(inputs, tuple | list) and inputs:
        return tuple(
            _value(value, f"Element {number} of the inputs of {what[0].lower()}{what[1:]}")
            for number, value in enumerate(inputs)
        )
    raise _no_value(inputs, what)


def _value(value: Any, what: str) -> Any:
    if not is_value(value):
        raise _no_value(value, what)
    return value


def single(label: Any, what: str) -> Any:
    """A label as one value.

    Raises:
        DataError: it is several.
    """
    if is_value(label):
        return label
    if isinstance(label, Mapping | list | tuple) and label:
        names = [str(name) for name in label] if isinstance(label, Mapping) else [str(n) for n in range(len(label))]
        raise DataError(
            f"The label of {what[0].lower()}{what[1:]} is a {type(label).__name__} of {', '.join(names[:6])}, but the "
            f"label is one array. Name one of them, as labels='1.{names[0]}', or give labels=None and let the network "
            "learn from its teacher alone."
        )
    raise _no_value(label, f"The label of {what[0].lower()}{what[1:]}")


def _no_value(value: Any, what: str) -> DataError:
    what = f"{what[0].upper()}{what[1:]}"
    if isinstance(value, str | bytes):
        return DataError(
            f"{what} is text ({value[:30]!r}), which no network takes. Turn it into token ids with a tokenizer, or "
            "name the parts that the network takes: load(data, inputs=('input_ids', 'attention_mask'), labels='label')."
        )
    if isinstance(value, Mapping | list | tuple) and value:
        return DataError(
            f"{what} is a {type(value).__name__} inside another ({shown(value)}). Name the values that the network "
            "takes by their path: load(data, inputs=('a.x', 'a.z'), labels='b')."
        )
    return DataError(
        f"{what} is {'None' if value is None else f'a {type(value).__name__}'}, but a tensor, an array, a number or a "
        "picture was expected. Convert it in the dataset, or name the other parts with inputs= and labels=."
    )


def shown(item: Any) -> str:
    """What an item holds, in a few words."""
    if isinstance(item, Mapping):
        return ", ".join(f"{name!r}: {_kind(value)}" for name, value in list(item.items())[:6])
    if isinstance(item, list | tuple) and not is_value(item):
        return ", ".join(_kind(value) for value in item[:6])
    return _kind(item)


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return f"{kind} {tuple(shape)}" if isinstance(shape, tuple) else kind
