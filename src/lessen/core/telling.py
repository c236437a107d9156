"""What a run says on its way: one line at a time on the standard error stream, whoever reads it."""

from __future__ import annotations

import sys
import time
import unicodedata

__all__ = ["duration", "seen", "tell"]


def tell(text: str) -> None:
    """Write one line to the standard error stream at once: files and pipes hold back nothing.

    A stream that is closed, or a pipe that nobody reads any more, stops no run.
    """
    stream = sys.stderr
    if stream is None:
        return
    line = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in text)
    coding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(line.encode(coding, "backslashreplace").decode(coding), file=stream, flush=True)
    except (OSError, ValueError):
        return


def seen() -> bool:
    """Whether the standard error stream is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def duration(since: float) -> str:
    """How long ago a moment of `time.monotonic` was, for people.

    >>> duration(time.monotonic() - 75.2)
    '1 min 15 s'
    """
    seconds = time.monotonic() - since
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
