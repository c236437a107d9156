"""What a person calls their data, read as splits, and each split as examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from lessen.core.errors import DataError
from lessen.core.examples import Examples, SubsetExamples
from lessen.data.items import ItemExamples
from lessen.data.labels import agree, is_rows, known_labels
from lessen.data.loaders import chosen_by, collected, is_stream
from lessen.data.roles import UNSAID, Roles, is_array, is_label_name, is_value
from lessen.data.split import split_name
from lessen.data.stored import StoredExamples, same_length, stored, stored_inputs


def splits_of(what: Any, roles: Roles) -> dict[str, Any]:
    """The splits that a person means, each as they gave it.

    `(inputs, labels)` are told from `(train, test)` by what they are: datasets, loaders and pairs are splits; arrays
    with an array of as many labels are one split.

    Raises:
        DataError: it can be read in two ways, or in none; the text shows how to write it.
    """
    if isinstance(what, Mapping):
        return {"train": what} if _are_columns(what) else dict(what)
    if _is_whole(what) or (is_array(what) and not isinstance(what, np.generic)):
        return {"train": what}
    if not isinstance(what, tuple | list) or not what:
        raise DataError(
            f"Data of type {type(what).__name__} is not known. Give a name, a folder, (inputs, labels), a (train, "
            "test) pair of loaders or datasets, or a dict with one entry per split."
        )
    if len(what) in {2, 3} and all(_is_split(part) for part in what):
        names = ("train", "test") if len(what) == 2 else ("train", "validation", "test")
        return dict(zip(names, what, strict=True))
    if isinstance(what, list) and not _is_pair(what):
        _check_list(what)
        return {"train": what}
    if len(what) == 2 or roles.said:
        return {"train": tuple(what)}
    raise DataError(
        f"{len(what)} arrays came, and nothing says what they are. For one set name their roles: load(data, "
        f"inputs=(0, 1), labels={len(what) - 1}). For splits give {{'train': (x, y), 'validation': ..., 'test': ...}}."
    )


def _is_whole(value: Any) -> bool:
    """Whether something can be nothing but a set of examples."""
    if isinstance(value, DataLoader | Dataset) or is_rows(value) or is_stream(value):
        return True
    plain = isinstance(value, Mapping | list | tuple | str | bytes) or is_array(value)
    return not plain and (isinstance(value, Examples) or (hasattr(value, "__getitem__") and hasattr(value, "__len__")))


def _is_split(value: Any) -> bool:
    """Whether something is a set of examples: data, a pair of inputs and as many labels, or columns with a label."""
    if _is_whole(value):
        return True
    if isinstance(value, Mapping):
        return _are_columns(value) and any(map(is_label_name, value))
    return isinstance(value, tuple | list) and len(value) == 2 and _is_pair(value)


def _is_pair(value: Any) -> bool:
    """Whether this is (inputs, labels): the second is an array of as many as every input holds, or None."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    inputs, labels = value
    if isinstance(value, list) and is_value(inputs) and is_value(labels) and _shape(inputs) == _shape(labels):
        return False
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    several = isinstance(parts, list | tuple) and not is_value(inputs) and len(parts) > 0
    counts = {_length(part) for part in (parts if several else [inputs])}
    return len(counts) == 1 and None not in counts and (labels is None or counts == {_length(labels)})


def _length(value: Any) -> int | None:
    """How many examples an array, or a list of numbers, holds."""
    if not is_value(value):
        return None
    shape = _shape(value)
    return shape[0] if shape else None


def _shape(value: Any) -> tuple[int, ...]:
    if is_array(value):
        return tuple(value.shape)
    return (len(value), *_shape(value[0])) if isinstance(value, list | tuple) and value else ()


def _are_columns(what: Mapping[str, Any]) -> bool:
    """Whether a dict holds one array for each part of the examples, and no splits."""
    if not what or any(split_name(str(name)) for name in what):
        return False
    lengths = {_length(value) for value in what.values()}
    return len(lengths) == 1 and None not in lengths and len(what) > 1


def _check_list(what: list[Any]) -> None:
    """Whether a list is one of examples."""
    if is_value(what) and not isinstance(what[0], list):
        raise DataError(
            "A list of numbers is ambiguous. Make arrays: (numpy.asarray(inputs), numpy.asarray(labels)), or "
            "numpy.asarray(inputs) for inputs alone."
        )
    if len(what) == 2 and all(is_value(part) and _shape(part) for part in what):
        raise DataError(
            f"A list of two arrays of shapes {_shape(what[0])} and {_shape(what[1])} can be two examples, or inputs "
            "and labels. Write (inputs, labels) as a tuple of as many inputs as labels; two examples are too few."
        )


def examples_of(part: Any, *, what: str, roles: Roles | None = None) -> Examples:
    """Examples from arrays, lists, a dataset, rows of Hugging Face, or a loader.

    Args:
        part: Any of them, or examples.
        what: What to call it in errors.
        roles: Which parts of an item are inputs and which is the label.

    Raises:
        DataError: it is none of these, does not fit together, or not to the roles.
    """
    roles = Roles() if roles is None else roles
    if is_stream(part):
        return collected(part, roles, what)
    if isinstance(part, DataLoader):
        collate = None if part.collate_fn is default_collate else part.collate_fn
        chosen = chosen_by(part, what)
        made = _of_dataset(part.dataset, roles, part, collate)
        return made if chosen is None else SubsetExamples(made, chosen)
    if isinstance(part, Examples) and not isinstance(part, np.ndarray | Tensor | tuple | list | Mapping):
        if roles != Roles():
            raise DataError(
                f"{what[0].upper()}{what[1:]} already knows its inputs and labels; roles cannot be given as well."
            )
        return part
    if hasattr(part, "to_numpy") and hasattr(part, "columns"):
        raise DataError(
            f"{what[0].upper()}{what[1:]} is a {type(part).__name__}. Give its arrays: "
            "(table[['a', 'b']].to_numpy('float32'), table['y'].to_numpy())."
        )
    if isinstance(part, list) and not _is_pair(part) and not (is_value(part) and not isinstance(part[0], list)):
        return _of_items(part, roles, None, None)
    if _is_whole(part):
        return _of_dataset(part, roles, None, None)
    return _of_columns(part, roles, what)


def _of_columns(part: Any, roles: Roles, what: str) -> Examples:
    roles.check_unpadded(f"the examples of arrays, as in {what}, all have the same length")
    if isinstance(part, tuple | list) and len(part) == 2 and not roles.said:
        inputs, label = stored_inputs(part[0]), part[1]
    else:
        given, label = roles.apart(part, f"The data of {what}")
        inputs = stored_inputs(given)
    if isinstance(label, Mapping):
        raise DataError(
            f"The labels of {what} are a dict of {', '.join(map(str, label))}, but labels are one array. Give the one "
            "that is to be learned, or None to learn from the teacher alone."
        )
    labels = None if label is None else stored(label, "labels")
    same_length(inputs, labels, what)
    return StoredExamples(inputs, labels, roles.ignored)


def _of_dataset(dataset: Any, roles: Roles, loader: Any, collate: Any) -> Examples:
    if collate is not None:
        roles.check_unpadded("the collate_fn of the loader puts the items together")
    if collate is None and type(dataset) is TensorDataset:
        roles.check_unpadded("the examples of a TensorDataset all have the same length")
        inputs, label = roles.apart(tuple(dataset.tensors), "An item of the TensorDataset")
        return StoredExamples(stored_inputs(inputs), None if label is None else stored(label, "labels"), roles.ignored)
    if collate is None and type(dataset) is Subset and type(dataset.dataset) is TensorDataset:
        whole = _of_dataset(dataset.dataset, roles, loader, None)
        return SubsetExamples(whole, torch.as_tensor(list(dataset.indices), dtype=torch.int64))
    return _of_items(dataset, roles, loader, collate)


def _needed_columns(rows: Any, roles: Roles) -> Any:
    """Rows of Hugging Face with the columns alone that are asked for: the others are then not decoded."""
    if not roles.said or roles.inputs is UNSAID or dict(getattr(rows, "format", {})).get("type") == "custom":
        return rows
    names = [str(place).partition(".")[0] for place in roles.places()]
    names += [name for name in rows.column_names if roles.labels is UNSAID and is_label_name(name)]
    known = [name for name in rows.column_names if name in names]
    return rows.select_columns(known) if known and hasattr(rows, "select_columns") else rows


def _of_items(dataset: Any, roles: Roles, loader: Any, collate: Any) -> Examples:
    if is_rows(dataset) and collate is None:
        dataset = _needed_columns(dataset, roles)
    examples = ItemExamples(dataset, roles, collate, loader)
    labels = known_labels(dataset, roles) if len(examples) > 0 and roles.ignored is None else None
    return examples if labels is None or not agree(examples, labels) else replace(examples, labels=labels)
