"""Run stages: the one way to train anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lessen.core.data import Data
from lessen.engine.history import History
from lessen.engine.training import Training
from lessen.graph.stage import Stage

_LOG_EVERY = 50


def run(
    stages: Sequence[Stage],
    data: Data,
    *,
    folder: Path | str | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    device: torch.device | str | None = None,
    track: Sequence[object] = (),
) -> History:
    """Run stages one after another; learning networks are changed in place and end in eval mode."""
    history = History(folder=Path(folder) if folder is not None else None)
    for _ in walk(stages, data, history, seed=seed, device=device):
        pass
    return history


def walk(
    stages: Sequence[Stage], data: Data, history: History, *, seed: int = 0, device: torch.device | str | None = None
) -> Iterator[Training]:
    """The run, one step at a time: each item is the stage after one more optimizer step."""
    path = None if history.folder is None else history.folder / "log.jsonl"
    for number, stage in enumerate(stages):
        training = Training(stage, number, data, seed=seed, device=device, log=path)
        try:
            while not training.done:
                training.advance()
                history.steps += 1
                if training.at_end_of_epoch:
                    row = training.end_epoch()
                    if row is not None:
                        history.validations.append(row)
                elif len(training.log) >= _LOG_EVERY:
                    training.log.flush()
                history.last = training.log.last
                yield training
            training.finish()
        finally:
            training.close()
