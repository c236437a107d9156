"""The entry of the command line: whatever goes wrong by a person's hand is one screen of text and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from lessen.cli.app import app
from lessen.core.errors import LessenError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave.

    Args:
        arguments: What stands behind `lessen`; None takes it from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words)
    except LessenError as error:
        if "--debug" in words:
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"lessen: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)
