"""Time files against each other, in one run, with the reference among them.

`lessen.measure.timing` shuffles and pairs; here every program gets the same inputs and the same number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lessen.core.data import Examples
from lessen.core.errors import SettingError, did_you_mean
from lessen.deploy.runtimes import Program
from lessen.measure.intervals import Estimate
from lessen.measure.timing import interleave


@dataclass(frozen=True, kw_only=True)
class FileTiming:
    """How long one file takes at one batch size.

    Args:
        name: Which file.
        batch: Examples at a time.
        milliseconds: Median over the rounds, with its 95 % interval.
        speedup: How many times faster than the reference, paired within each round, with its 95 % interval.
    """

    name: str
    batch: int
    milliseconds: Estimate
    speedup: Estimate


def time_files(
    programs: Mapping[str, Program],
    examples: Examples,
    *,
    reference: str,
    batch_sizes: Sequence[int] = (1,),
    rounds: int = 30,
    warm_up: int = 3,
    seed: int = 0,
) -> list[FileTiming]:
    """Time loaded files on the same inputs, interleaved in shuffled order, batch size by batch size.

    Args:
        programs: What to time, by name, each loaded with the same number of threads.
        examples: Where the inputs come from.
        reference: The name of the one that the others are compared with.
        batch_sizes: Examples at a time.
        rounds: How many times each is timed, at least 6.
        warm_up: How many untimed rounds come first.
        seed: Of the order within the rounds.

    Raises:
        SettingError: the reference is not among the programs, or too few rounds for an interval.
    """
    if reference not in programs:
        raise SettingError(
            f"The reference {reference!r} is not among what is timed: {did_you_mean(reference, programs)}"
        )
    timings = []
    for size in batch_sizes:
        inputs = examples.fetch(torch.arange(size) % len(examples)).inputs
        runs = {name: functools.partial(program, inputs) for name, program in programs.items()}
        taken = interleave(runs, rounds=rounds, warm_up=warm_up, seed=seed)
        timings += [
            FileTiming(
                name=name,
                batch=size,
                milliseconds=taken.estimate(name),
                speedup=Estimate(*taken.ratio(reference, name)),
            )
            for name in programs
        ]
    return timings
