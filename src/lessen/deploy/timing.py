"""Time files against each other, in one run: every program gets the same inputs, in shuffled order, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lessen.core.data import Examples
from lessen.deploy.runtimes import Program
from lessen.measure.latency import time_networks
from lessen.measure.timings import Timings


def time_files(
    programs: Mapping[str, Program],
    examples: Examples,
    *,
    batch_sizes: Sequence[int] = (1,),
    rounds: int = 30,
    warm_up: int = 2,
    seed: int = 0,
) -> dict[int, Timings]:
    """The times of loaded files at each batch size; `Timings.ratio` compares any two of them, paired within rounds.

    Args:
        programs: What to time, by name, each loaded with the same number of threads.
        examples: Where the inputs come from.
        batch_sizes: Examples at a time.
        rounds: How many times each is timed, at least 6.
        warm_up: How many untimed rounds come first.
        seed: Of the order within the rounds.

    Raises:
        SettingError: nothing to time, or too few rounds for an interval.
    """
    timings = {}
    for size in batch_sizes:
        inputs = examples.fetch(torch.arange(size) % len(examples)).inputs
        timings[size] = time_networks(programs, inputs, rounds=rounds, warm_up=warm_up, seed=seed)
    return timings
