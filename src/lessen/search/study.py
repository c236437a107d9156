"""Which settings to try next: optuna's samplers, asked one trial at a time, with all that was tried in one file.

One process asks and tells; a study that was killed is opened again and gives the trials that were not told first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessen.core.errors import SettingError, did_you_mean, need
from lessen.core.seeds import derive

_STEADY = {"Grid", "QMC", "CmaEs", "BruteForce"}
"""Samplers that find in the study how far they have come. The others are made anew for each trial, with a seed of its
number, so that a study that was killed goes on as it would have."""


@dataclass(frozen=True)
class Values:
    """A setting that takes one of some values.

    Args:
        values: Numbers, texts, or anything that JSON can hold.
    """

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number between two ends.

    Args:
        low: The smallest.
        high: The largest.
        whole: Whether it is an integer.
        logarithmic: Whether its logarithm is drawn evenly.
    """

    low: float
    high: float
    whole: bool = False
    logarithmic: bool = False


Space = Mapping[str, Values | Range]


def samplers() -> list[str]:
    """The names of optuna's samplers, without "Sampler".

    Raises:
        MissingExtraError: optuna is not installed.
    """
    known = need("optuna", "search").samplers
    names = [name.removesuffix("Sampler") for name in dir(known) if name.endswith("Sampler")]
    return [name for name in names if name not in {"BaseGA", "Base", "PartialFixed"}]


class Study:
    """The trials of one search.

    Args:
        file: Where they are kept; it is made, or opened again.
        space: What is searched.
        sampler: The name of one of optuna's samplers, as "Grid", "Random", "TPE".
        higher: Whether more is better.
        seed: Of what the sampler draws.

    Raises:
        MissingExtraError: optuna is not installed.
        SettingError: there is no such sampler, or it cannot draw from this space.
    """

    def __init__(self, file: Path, space: Space, *, sampler: str = "Grid", higher: bool = True, seed: int = 0) -> None:
        optuna = need("optuna", "search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        known = {name.lower(): name for name in samplers()}
        if sampler.lower().removesuffix("sampler") not in known:
            raise SettingError(f"There is no sampler {sampler!r}: {did_you_mean(sampler, known.values())}")
        self._optuna, self._space, self._seed = optuna, space, seed
        self.sampler = known[sampler.lower().removesuffix("sampler")]
        ranges = [name for name, options in space.items() if isinstance(options, Range)]
        if self.sampler == "Grid" and ranges:
            raise SettingError(
                f"A grid needs the values of {ranges[0]!r} one by one, as {ranges[0]}=1,2,4. For a range, choose a "
                "sampler, as Random or TPE."
            )
        self._choices = {
            name: {_choice(value): value for value in options.values}
            for name, options in space.items()
            if isinstance(options, Values)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        journal = optuna.storages.journal
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(journal.JournalFileBackend(str(file))),
            study_name="sweep",
            sampler=self._made(0),
            direction="maximize" if higher else "minimize",
            load_if_exists=True,
        )

    @property
    def size(self) -> int | None:
        """How many different trials there are; None: no end."""
        if any(isinstance(options, Range) for options in self._space.values()):
            return None
        count = 1
        for options in self._choices.values():
            count *= len(options)
        return count

    def open(self) -> list[tuple[int, dict[str, Any]]]:
        """The trials that were asked for and not told, as number and settings; there are some after a kill."""
        running = self._optuna.trial.TrialState.RUNNING
        found = []
        for trial in self._study.get_trials(deepcopy=False, states=[running]):
            if set(trial.params) == set(self._space):
                found.append((trial.number, self._settings(trial.params)))
            else:  # the kill came while it was drawn: it is drawn again
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        return found

    def told(self) -> list[tuple[int, dict[str, Any]]]:
        """The trials that were told, as number and settings."""
        done = self._optuna.trial.TrialState.COMPLETE
        trials = self._study.get_trials(deepcopy=False, states=[done])
        return [(trial.number, self._settings(trial.params)) for trial in trials]

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The number and the settings of the next trial."""
        self._study.sampler = self._made(len(self._study.get_trials(deepcopy=False)))
        trial = self._study.ask()
        for name, options in self._space.items():
            if isinstance(options, Values):
                trial.suggest_categorical(name, list(self._choices[name]))
            elif options.whole:
                trial.suggest_int(name, int(options.low), int(options.high), log=options.logarithmic)
            else:
                trial.suggest_float(name, options.low, options.high, log=options.logarithmic)
        return trial.number, self._settings(trial.params)

    def tell(self, number: int, value: float | None) -> None:
        """What a trial came to; None: it failed."""
        state = self._optuna.trial.TrialState.FAIL if value is None else None
        # At the end of its grid, optuna's sampler stops a loop that is not there. The trial is kept before.
        with suppress(RuntimeError):
            self._study.tell(number, value, state=state)

    def _settings(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._choices[name][found[name]] if name in self._choices else found[name] for name in self._space
        }

    def _made(self, number: int) -> Any:
        kind = getattr(self._optuna.samplers, f"{self.sampler}Sampler")
        seed = self._seed if self.sampler in _STEADY else derive(self._seed, "trial", number)
        if self.sampler == "Grid":
            return kind({name: list(choices) for name, choices in self._choices.items()}, seed=seed % 2**32)
        return kind(seed=seed % 2**32)


def _choice(value: Any) -> Any:
    """A value as optuna keeps it: what is no plain value, as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def combinations(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of values, the last setting changing fastest.

    >>> combinations({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    found: list[dict[str, Any]] = [{}]
    for name, values in space.items():
        found = [{**one, name: value} for one in found for value in values]
    return found
