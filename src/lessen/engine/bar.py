"""The progress of a run: a bar where somebody looks, and a line for each epoch where nobody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lessen.core.telling import duration, seen, tell

_EVERY = 10


class Bar:
    """A bar for each stage on the standard error stream if that is a terminal; otherwise one line for each epoch.

    Args:
        show: Whether to show anything.
    """

    def __init__(self, *, show: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        drawn = show and seen()
        self._bar = Progress(
            *columns, TextColumn("{task.fields[says]}"), console=Console(stderr=True), disable=not drawn
        )
        self._show, self._drawn, self._told = show, drawn, show and not drawn
        self._task: int | None = None
        self._name, self._since = "", time.monotonic()

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, name: str, *, done: int, total: int) -> None:
        """A new stage."""
        self._name, self._since = name, time.monotonic()
        self._task = self._bar.add_task(name, total=total, completed=done, says="")

    def say(self, text: str) -> None:
        """Print a sentence that must be seen, whoever looks."""
        if self._show:
            self._bar.console.print(Text(f"! {text}"), soft_wrap=True)

    def move(self, done: int, *, total: int, says: Callable[[], str]) -> None:
        """How far it is, and what there is to say; only every few steps, and the last, are drawn."""
        if self._drawn and self._task is not None and (done % _EVERY == 0 or done == total):
            self._bar.update(TaskID(self._task), completed=done, says=says())

    def epoch(self, number: int, *, epochs: int, done: int, total: int, says: Callable[[], str]) -> None:
        """An epoch has ended: a line in a log, nothing in a terminal, where the bar says it.

        Args:
            number: Of the epoch, from 1.
            epochs: How many there are.
            done: Steps of the stage so far.
            total: Steps of the whole stage.
            says: What there is to say.
        """
        if self._told:
            said = says()
            after = f"{self._name}: epoch {number} of {epochs}, step {done} of {total}, after {duration(self._since)}"
            tell(f"{after}: {said}" if said else after)
