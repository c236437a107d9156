"""One door for data: a name, a folder, a file, arrays, loaders, or settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lessen.core.data import Data
from lessen.core.errors import DataError, did_you_mean
from lessen.data.arrays import Arrays, from_splits
from lessen.data.debian import DebianDescriptions
from lessen.data.digits import Digits
from lessen.data.emoji import Emoji
from lessen.data.fashion_mnist import FashionMNIST
from lessen.data.folder import ImageFolder
from lessen.data.huggingface import HuggingFace
from lessen.data.mnist1d import Mnist1d
from lessen.data.reading import splits_of
from lessen.data.roles import Roles

NAMED = {
    "digits": Digits,
    "mnist1d": Mnist1d,
    "fashion_mnist": FashionMNIST,
    "emoji": Emoji,
    "debian_descriptions": DebianDescriptions,
}


@runtime_checkable
class Source(Protocol):
    """Settings that say where data is; a recipe names one."""

    def load(self) -> Data:
        """The three splits."""


def load(what: Any, **settings: Any) -> Data:
    """Whatever a person calls their data, as three splits.

    Args:
        what: "digits", "mnist1d", "fashion_mnist", "emoji", "debian_descriptions" or "huggingface:NAME"; a folder of
            images; a `.npz` or `.npy` file; `(inputs, labels)` as arrays (also mapped ones), tensors or lists, where
            inputs may be several in a tuple or dict; a list of items; a dataset of any items, a loader, a
            `datasets.Dataset`; a pair of these for train and test, or a dict with one a split; settings as
            `FashionMNIST(limit=1000)`; or loaded data.
        settings: Those of the source, as `limit=1000`; of `from_splits` for arrays, datasets and loaders, as
            `inputs=("image", "mask"), labels="y"`.

    Raises:
        DataError: there is no such data, it is empty, does not fit together, or is not finite.
        SettingError: the source has no such setting.

    >>> data = load("digits")
    >>> len(data.train), len(data.validation), len(data.test)
    (1078, 270, 449)
    """
    if isinstance(what, Data) or (isinstance(what, Source) and not isinstance(what, type)):
        if settings:
            raise DataError(
                f"{type(what).__name__} already has its settings; {', '.join(settings)} cannot be given as well."
            )
        return what if isinstance(what, Data) else what.load()
    if isinstance(what, str | Path):
        return _source(str(what), settings).load()
    roles = Roles(**{name: settings[name] for name in ("inputs", "labels") if name in settings})
    return from_splits(splits_of(what, roles), **settings)


def _source(name: str, settings: Mapping[str, Any]) -> Source:
    if name in NAMED:
        made: Source = NAMED[name](**settings)
        return made
    kind, _, rest = name.partition(":")
    if kind == "huggingface" and rest:
        return HuggingFace(name=rest, **settings)
    path = Path(name).expanduser()
    if path.is_dir():
        return ImageFolder(folder=path, **settings)
    if path.suffix in {".npz", ".npy"}:
        return Arrays(file=path, **settings)
    known = did_you_mean(name, NAMED)
    raise DataError(f"There is no data set, folder, .npz or .npy file {name!r}: {known} 'huggingface:NAME' also works.")
