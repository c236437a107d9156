"""One door for data: a name, a folder, arrays, loaders, or settings."""

from __future__ import annotations

from typing import Any

from lessen.core.data import Data
from lessen.core.errors import DataError, did_you_mean
from lessen.data.digits import Digits


def load(what: Any, **settings: Any) -> Data:
    """Whatever a person calls their data, as three splits.

    Raises:
        DataError: there is no such data, or it is empty or damaged.
    """
    if isinstance(what, Data):
        return what
    if what == "digits":
        return Digits(**settings).load()
    raise DataError(f"There is no data set {what!r}: {did_you_mean(str(what), ['digits'])}")
