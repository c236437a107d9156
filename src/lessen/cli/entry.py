"""The entry of the command line: whatever goes wrong by a person's hand is one screen of text and exit code 2."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from lessen.cli.app import app
from lessen.cli.screen import visible
from lessen.core.errors import LessenError

INTERRUPTED = 130


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave.

    Args:
        arguments: The command-line arguments after `lessen`; None takes them from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal does not have is shown as its escape: no result is lost for it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(words)
    except LessenError as error:
        if isinstance(error, SystemExit):  # it has been told
            sys.exit(error.exit_code)
        _leave(error, str(error), words)
    except OSError as error:
        # What the library itself writes raises `LessenError`; this is a path on the command line, or a temporary file.
        place = "" if error.filename is None else f"{error.filename}: "
        said = f"{place}{error.strerror or error}. Check the permissions of the path and the free space on the disk."
        _leave(error, said, words)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _leave(error: Exception, said: str, words: Sequence[str]) -> NoReturn:
    if "--debug" in words:
        raise error
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"lessen: {visible(said)}", style="red", markup=False)
    sys.exit(error.exit_code if isinstance(error, LessenError) else LessenError.exit_code)
