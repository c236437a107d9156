"""Trackers: send what is logged to TensorBoard or MLflow as well, through accelerate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lessen.core.errors import need
from lessen.core.settings import settings
from lessen.engine.home import Home


@runtime_checkable
class Tracker(Protocol):
    """A settings object that opens a tracker of accelerate."""

    def open(self, name: str, folder: Path | None, /) -> Any:
        """A tracker with `log(values, step)` and `finish()`.

        Raises:
            MissingExtraError: its package is not installed.
        """


@settings
class TensorBoard:
    """Write event files for TensorBoard.

    Args:
        folder: Where. None: `tensorboard` in the folder of the run.
    """

    folder: Path | None = None

    def open(self, name: str, folder: Path | None, /) -> Any:
        need("tensorboard", "track")
        from accelerate.tracking import TensorBoardTracker

        return TensorBoardTracker(name, logging_dir=str(self.folder or (folder or Path()) / "tensorboard"))


@settings
class MLflow:
    """Send to an MLflow server, or write to a folder.

    Args:
        where: The tracking address. None: what the environment says.
        experiment: The name of the experiment.
    """

    where: str | None = None
    experiment: str = "lessen"

    def open(self, name: str, folder: Path | None, /) -> Any:
        mlflow = need("mlflow", "track")
        if self.where is not None:
            mlflow.set_tracking_uri(self.where)
        from accelerate.tracking import MLflowTracker

        return MLflowTracker(experiment_name=self.experiment, run_name=name)


class Trackers:
    """The open trackers of one stage; nothing on processes other than the main one."""

    def __init__(self, settings: Sequence[Tracker], name: str, folder: Path | None, home: Home) -> None:
        self._home = home
        with home.inside():
            self._open = [one.open(name, folder) for one in settings] if home.main else []
            for tracker in self._open:
                tracker.start()

    def __bool__(self) -> bool:
        return bool(self._open)

    def send(self, rows: Sequence[dict[str, Any]]) -> None:
        """Send lines of the log."""
        with self._home.inside():
            for tracker in self._open:
                for row in rows:
                    tracker.log(flat(row), step=row["step"])

    def finish(self) -> None:
        """Close them."""
        if not self._open:
            return
        with self._home.inside():
            for tracker in self._open:
                tracker.finish()


def flat(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a log line under one name each, as trackers want them.

    >>> flat({"kind": "step", "loss": {"s": 1.0}, "edges": {"a->s": {"loss": 2.0}}, "rate": {"s": 0.1}})
    {'loss/s': 1.0, 'edges/a to s/loss': 2.0, 'rate/s': 0.1}
    """
    found: dict[str, float] = {}

    def go(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                go(f"{name}/{key}", inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            # MLflow takes no other signs in a name.
            found[re.sub(r"[^\w\-. :/]", "-", name.replace("->", " to "))] = float(value)

    for key in ("loss", "edges", "rate", "figures"):
        if key in row:
            go(key, row[key])
    return found
