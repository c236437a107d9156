"""How a network is looked at after every step."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MinLen
from pydantic import Field, PositiveInt

from lessen.core.settings import settings


@settings
class Measuring:
    """How the network is measured after every step, in PyTorch; files are timed by `Deploy`.

    Args:
        batch_sizes: At which batch sizes to time; None: at those of `Deploy`, so that all times can be compared.
        threads: How many threads; None: as many as `Deploy` says.
        repeats: Timed repeats, interleaved with the teacher.
        calibration: How many training examples operations may look at.
    """

    batch_sizes: Annotated[tuple[PositiveInt, ...], MinLen(1)] | None = None
    threads: PositiveInt | None = None
    repeats: Annotated[int, Field(ge=6)] = 20
    calibration: PositiveInt = 512
