"""The progress bar of a run, where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

_EVERY = 10


class Bar:
    """A bar for each stage on the standard error stream, if that is a terminal."""

    def __init__(self, *, show: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        quiet = not show or not sys.stderr.isatty()
        self._bar = Progress(*columns, TextColumn("{task.fields[says]}"), console=Console(stderr=True), disable=quiet)
        self._show, self._quiet = show, quiet
        self._task: int | None = None

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, name: str, *, done: int, total: int) -> None:
        """A new bar."""
        self._task = self._bar.add_task(name, total=total, completed=done, says="")

    def say(self, text: str) -> None:
        """Print a sentence that must be seen, whoever looks."""
        if self._show:
            self._bar.console.print(Text(f"! {text}"), soft_wrap=True)

    def move(self, done: int, *, total: int, says: Callable[[], str]) -> None:
        """How far it is, and what there is to say; only every few steps, and the last, are drawn."""
        if not self._quiet and self._task is not None and (done % _EVERY == 0 or done == total):
            self._bar.update(TaskID(self._task), completed=done, says=says())
