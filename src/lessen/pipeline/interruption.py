"""Ctrl-C and SIGTERM during a run: both end it at once and say how it continues."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lessen.core.telling import tell
from lessen.engine.stopping import GO_ON, Stopped
from lessen.pipeline.folder import RunFolder, State


class _Terminated(KeyboardInterrupt):
    """SIGTERM came. Like Ctrl-C it is no `Exception`: code that reports errors of a step must not report this one."""


class _Ended(Stopped, SystemExit):
    """SIGTERM ended the run, and has been told: a script that does not catch this leaves without a traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = self.exit_code


@contextmanager
def continuable(folder: RunFolder, state: State, *, says: bool = True) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, and say which command continues the run.

    Args:
        folder: Of the run, which has begun.
        state: What it was started with.
        says: Whether this process is the one that speaks.

    Raises:
        KeyboardInterrupt: Ctrl-C; the text names the command.
        Stopped: SIGTERM; the text names the command. A script that does not catch it leaves with code 143.
    """
    how = f"Continue the run with: {folder.continuation(state)}"

    def told(text: str) -> str:
        if says:
            tell(text)
        return text

    try:
        with _heard():
            yield
    except _Terminated:
        raise _Ended(told(f"The run was stopped by SIGTERM. {how}")) from None
    except Stopped as error:
        raise _Ended(told(f"{str(error).removesuffix(GO_ON)}{how}")) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(told(f"Interrupted. {how}")) from None


@contextmanager
def _heard() -> Iterator[None]:
    """Make SIGTERM an exception in the main thread; training hears it for itself and finishes its step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
