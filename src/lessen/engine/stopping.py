"""Leaving on SIGTERM: the step in progress is finished, a checkpoint is written, then the run ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from lessen.core.errors import LessenError

GO_ON = "Resume the run to go on."
"""How the text of `Stopped` ends where a checkpoint was written."""


class Stopped(LessenError):  # noqa: N818 (it is not a mistake of anybody)
    """The run was asked to end, and can be resumed."""

    exit_code = 128 + signal.SIGTERM


class Asked:
    """Whether SIGTERM came while the block runs; only the main thread of a program can hear it."""

    def __init__(self) -> None:
        self.stop = False
        self._before: object = None

    def __enter__(self) -> Asked:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stop = True
