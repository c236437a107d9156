"""What a search has found out so far, in a file: a search that is interrupted goes on from its last candidate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from lessen.core.contracts import Clock, Times
from lessen.core.data import Inputs
from lessen.core.errors import RunError
from lessen.core.sealed import read_sealed, write_sealed
from lessen.core.trials import Trials

KIND: Final = "lessen trials, version 1"


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    question: str
    answer: Any


class _Written(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Literal["lessen trials, version 1"]
    rows: list[_Row]


class KeptTrials:
    """Answers in a file that is replaced after each new one.

    Args:
        path: The file; it may be missing.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = _read(path) if path.exists() else []
        self._next = 0

    def __len__(self) -> int:
        return len(self._rows)

    def recall(self, question: Any, answer: Callable[[], Any], /) -> Any:
        """The stored answer, or a new one, which is stored."""
        asked = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        if self._next < len(self._rows) and self._rows[self._next].question == asked:
            self._next += 1
            return self._rows[self._next - 1].answer
        found = answer()
        self._rows = [*self._rows[: self._next], _Row(question=asked, answer=found)]
        write_sealed(self.path, _Written(kind=KIND, rows=self._rows).model_dump(mode="json"))
        self._next += 1
        return found


class KeptClock:
    """A clock whose times are stored, so that a search that is begun again sees those on which it has decided.

    Args:
        clock: Times networks.
        trials: Where times are stored.
    """

    def __init__(self, clock: Clock, trials: Trials) -> None:
        self._clock, self._trials = clock, trials

    def times(self, networks: Sequence[nn.Module], inputs: Inputs) -> Times:
        """The time of each network: stored, or measured now."""

        def measured() -> dict[str, Any]:
            found = self._clock.times(networks, inputs)
            return {"milliseconds": list(found.milliseconds), "note": found.note}

        shapes = [{name: list(value.shape) for name, value in network.state_dict().items()} for network in networks]
        found = self._trials.recall({"times": shapes, "by": self.says()}, measured)
        return Times(milliseconds=tuple(found["milliseconds"]), note=found["note"])

    def says(self) -> str:
        """What is timed, for people."""
        return self._clock.says()


def _read(path: Path) -> list[_Row]:
    advice = "Remove it and resume the run: the search of this step then begins again."
    try:
        return _Written.model_validate(read_sealed(path, advice=advice)).rows
    except ValidationError as error:
        raise RunError(f"{path} is damaged, or was written by another version of lessen. {advice}") from error
