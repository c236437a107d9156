"""How a network is looked at after every step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from lessen.core.settings import settings


@settings
class Measuring:
    """How the network is measured after every step, in PyTorch; files are timed by `Deploy`.

    Args:
        batch_sizes: At which batch sizes to time.
        threads: How many threads; None: all cores.
        repeats: Timed repeats, interleaved with the teacher.
        calibration: How many training examples operations may look at.
    """

    batch_sizes: tuple[PositiveInt, ...] = (1,)
    threads: PositiveInt | None = None
    repeats: Annotated[int, Field(ge=6)] = 20
    calibration: PositiveInt = 512
