"""Where the files of a data set are looked for when nobody has named their folder."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(".cache") / "lessen"
"""In the home folder: where files of data sets are put."""


def usual(name: str) -> list[Path]:
    """The folders of a data set: `$LESSEN_DATA/NAME` if the variable is set, then `~/.cache/lessen/NAME`."""
    own = os.environ.get("LESSEN_DATA")
    return [*([Path(own) / name] if own else []), Path.home() / CACHE / name]
