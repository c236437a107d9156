"""Arrays, datasets and loaders that someone already has, as examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from lessen.core.data import Data, View, check_labels
from lessen.core.errors import DataError
from lessen.core.ranges import InnerShare
from lessen.core.settings import settings
from lessen.data.files import read_npy, read_npz
from lessen.data.labels import class_names
from lessen.data.looks import check_looks
from lessen.data.reading import examples_of
from lessen.data.roles import UNSAID, Roles
from lessen.data.split import complete, split_name
from lessen.data.stored import StoredExamples
from lessen.data.transforms import AnyView


@settings
class Arrays:
    """The arrays of a `.npz` file: `x` and `y`, or `x_train`, `y_train`, `x_test` … one pair a split; or a `.npy` file.

    Inputs of type uint8 are taken for pixels and brought to the scale of 0 to 1; other integers (token ids) stay as
    they are; all else becomes float32. Labels that are integers are classes, numbered from 0. Arrays keep their type
    until a batch is fetched, and large ones stay on the disk, unless the file is compressed.

    Args:
        file: What `numpy.savez` or `numpy.save` wrote. Nothing in it is executed: arrays of Python objects are refused.
        labels: The labels of a `.npy` file of inputs, in another one; None where it has none.
        validation: Share to cut off the training examples, where there is no `x_validation`.
        test: Share to cut off for the test, where there is no `x_test`.
        seed: Which examples are cut off.
        augment: The view of a training batch, or None.
    """

    file: Path
    labels: Path | None = None
    validation: InnerShare = 0.1
    test: InnerShare = 0.2
    seed: NonNegativeInt = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits.

        Raises:
            DataError: the file is not of this form, or its arrays are empty, do not fit together or are not finite.
        """
        return from_splits(
            self._pairs(),
            validation=self.validation,
            test=self.test,
            seed=self.seed,
            augment=self.augment,
            name=self.file.stem,
        )

    def _pairs(self) -> dict[str, tuple[Any, Any]]:
        if self.file.suffix == ".npy":
            return {"train": (read_npy(self.file), None if self.labels is None else read_npy(self.labels))}
        if self.labels is not None:
            raise DataError(f"{self.file} contains labels (y), so labels={self.labels} cannot be given too.")
        held, names = read_npz(self.file, _is_used)
        pairs = {
            split: (array, held.get("y" if name == "x" else "y_" + name.removeprefix("x_")))
            for name, array in held.items()
            if (split := _split_of(name)) is not None
        }
        if "train" not in pairs:
            raise DataError(
                f"{self.file} holds {', '.join(sorted(names))}, but x and y, or x_train and y_train, were expected."
            )
        return pairs


def _split_of(name: str) -> str | None:
    return "train" if name == "x" else split_name(name.removeprefix("x_")) if name.startswith("x_") else None


def _is_used(name: str) -> bool:
    return name == "y" or _split_of(name) is not None or (name.startswith("y_") and split_name(name[2:]) is not None)


def from_splits(
    splits: Mapping[str, Any],
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    augment: View | None = None,
    name: str = "data",
    inputs: Any = UNSAID,
    labels: Any = UNSAID,
    pad: float | Mapping[str, float] | None = None,
    mask: str | None = None,
    ignored: int | None = None,
) -> Data:
    """Data from whatever each split is: `(inputs, labels)`, inputs alone, a dataset, a loader, or examples.

    Of a `DataLoader`, the dataset, `collate_fn`, worker settings and what its sampler chooses are used; order, batch
    size and `drop_last` are those of each stage (`Fit(batch=)`). What a sampler or batch_sampler would change besides
    is refused.

    Args:
        splits: By name; what is missing is cut off "train".
        validation: Share to cut off for validation.
        test: Share to cut off for the test.
        seed: Which examples are cut off.
        classes: Names of the classes; None numbers them, where the labels of the training examples are integers.
        augment: The view of a training batch.
        name: What to call the data.
        inputs: Which parts of an item the network gets: a key ("a.b" for one inside another) or a position; several,
            by name where they are keys, in order where they are positions; or a dict of a key for each name that the
            network knows. Unsaid: all parts but the label.
        labels: The key or position of the label; None for none. Unsaid: the second of a pair, or what is called
            "label", "labels", "target", "targets" or "y".
        pad: What inputs of different length are filled up with: a number, or one by name. None refuses them, except
            tokens with an attention mask. Labels are filled up with -100.
        mask: The name under which the network gets a mask of what is not padding.
        ignored: A label of positions that do not count, as 255 in maps of classes; it becomes -100.

    Raises:
        DataError: something is empty, does not fit together or is not finite, or the roles are not clear.
    """
    roles = Roles(inputs=inputs, labels=labels, pad=pad, mask=mask, ignored=ignored)
    found = {split: examples_of(part, what=f"the {split} split", roles=roles) for split, part in splits.items()}
    made = complete(found, validation=validation, test=test, seed=seed)
    check_looks(made)
    for split, examples in found.items():
        if isinstance(examples, StoredExamples):
            examples.check(f"the {split} split of {name}")
    data = Data(**made, classes=class_names(made["train"]) if classes is None else classes, augment=augment, name=name)
    for split, examples in made.items():
        check_labels(getattr(examples, "labels", None), f"the {split} split of {name}", data.classes)
    data.check(most=256)
    return data
