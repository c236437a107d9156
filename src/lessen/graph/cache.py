"""What to keep on disk of a frozen node, so that it need not be computed again in every epoch."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lessen.core.settings import settings


class Stored(enum.Enum):
    """How a cached value is stored."""

    HALF = "half"
    FULL = "full"


@settings
class Cache:
    """Compute the taps of a frozen node once for each training example, and read them from disk afterwards.

    A cache belongs to one teacher, one view and one set of examples, and refuses any other; a random view has none.

    Args:
        folder: Where the files are. None: in the folder of the run.
        stored: Half precision (2 bytes a number, relative error 5e-4) or full.
        top_k: Of outputs of shape (N, C), or (N, L, C) at each position of a text, keep only the k largest
            log-probabilities and the mass of all others. What is read back are log-probabilities whose tail is spread
            evenly, so they sum to one; at temperatures other than 1 the tail is an approximation. None: keep all
            outputs as they are.
        key: A name that identifies the teacher: for one without weights (a service, a function), which must have one,
            or one that answers differently each time. Give a new name whenever its outputs change; outputs are then not
            compared. None: the teacher is identified by its class, its settings, its weights, and its outputs on four
            examples.
    """

    folder: Path | None = None
    stored: Stored = Stored.HALF
    top_k: Annotated[int, Field(ge=1)] | None = None
    key: Annotated[str, Field(min_length=1)] | None = None
