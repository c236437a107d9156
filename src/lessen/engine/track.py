"""Trackers: send what is logged to TensorBoard, MLflow or any other tracker of accelerate as well.

A tracker gets the parameters of the run, the log with each stage under a name of its own, and in a pipeline the
measurements after each step. It never ends a training: what it fails with is said once, and the log has all of it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lessen.core.errors import LessenError, SettingError, did_you_mean, need
from lessen.core.record import Record
from lessen.core.settings import settings
from lessen.engine.home import Home, processes
from lessen.graph.stage import Precision

_SAY = logging.getLogger("lessen")
_PATIENCE = 3
"""How often in a row a tracker may fail before it is given up; until then what was not sent is sent again."""


@runtime_checkable
class Tracker(Protocol):
    """A settings object that opens a tracker."""

    def open(self, name: str, folder: Path | None, /) -> Any:
        """A tracker with `log(values, step)` and `finish()`.

        If it has them, `start()` is called first, then `store_init_configuration(parameters)`.

        Args:
            name: Of the run.
            folder: Of the run, or None.

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
        where: The address of a server, or a folder. None: what the environment says (MLFLOW_TRACKING_URI).
        experiment: The name of the experiment.
    """

    where: str | None = None
    experiment: str = "lessen"

    def open(self, name: str, folder: Path | None, /) -> Any:
        # A server that is away would hold up the training for minutes at each call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        mlflow = need("mlflow", "track")
        if self.where is not None:
            if "://" not in self.where or self.where.startswith("file:"):
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions refuse folders without it
            mlflow.set_tracking_uri(self.where)
        from accelerate.tracking import MLflowTracker

        return MLflowTracker(experiment_name=self.experiment, run_name=name)


@settings
class Tracked:
    """Any tracker of accelerate, by its name there: "wandb", "comet_ml", "aim", "clearml", "dvclive", "swanlab", ...

    Args:
        name: Of the tracker.
        project: The project that its runs belong to.
        settings: More arguments of accelerate's tracker.
    """

    name: str
    project: str = "lessen"
    settings: dict[str, Any] = field(default_factory=dict)

    def open(self, name: str, folder: Path | None, /) -> Any:
        from accelerate import tracking

        known = tracking.LOGGER_TYPE_TO_CLASS
        if self.name not in known:
            raise SettingError(f"accelerate has no tracker {self.name!r}: {did_you_mean(self.name, known)}")
        if not getattr(tracking, f"is_{self.name}_available", lambda: True)():
            raise SettingError(f"The package of the tracker {self.name!r} is not installed; install {self.name}.")
        kind = known[self.name]
        given = dict(self.settings)
        if kind.requires_logging_directory:
            given.setdefault("logging_dir", str((folder or Path()) / self.name))
        return kind(self.project, **given)


def as_trackers(given: Any) -> tuple[Tracker, ...]:
    """Trackers as a person names them: objects, or words as "tensorboard"; one, or several in a sequence.

    Raises:
        SettingError: it is none, and there is no tracker of this name.
    """
    if given is None:
        return ()
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    return tuple(_as_tracker(one) for one in several)


def _as_tracker(one: Any) -> Tracker:
    own: dict[str, Any] = {"tensorboard": TensorBoard, "mlflow": MLflow}
    if isinstance(one, str):
        if one.lower() in own:
            made: Tracker = own[one.lower()]()
            return made
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if one.lower() not in LOGGER_TYPE_TO_CLASS:
            raise SettingError(f"There is no tracker {one!r}: {did_you_mean(one.lower(), LOGGER_TYPE_TO_CLASS)}")
        return Tracked(name=one.lower())
    if not isinstance(one, Tracker) or isinstance(one, type):
        raise SettingError(
            f"track is {one!r}, but a tracker was expected: a word, as 'tensorboard' or 'mlflow', or an object with "
            "open(name, folder) that gives one with log(values, step) and finish()."
        )
    return one


class _Sink:
    """One open tracker, and what could not be sent to it yet."""

    def __init__(self, tracker: Any, name: str) -> None:
        self.tracker, self.name = tracker, name
        self.waiting: list[tuple[dict[str, float], int]] = []
        self.failed = 0
        self.said = False

    def send(self) -> None:
        """Send what waits; what fails is sent again with the next."""
        if self.failed >= _PATIENCE:
            self.waiting.clear()
            return
        try:
            while self.waiting:
                values, step = self.waiting[0]
                self.tracker.log(values, step=step)
                self.waiting.pop(0)
            self.failed = 0
        except Exception as error:  # noqa: BLE001  # a curve on a server is not worth a training
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Count it, and say it once."""
        self.failed += 1
        if not self.said:
            self.said = True
            said = " ".join(str(error).split())[:200]
            _SAY.warning(
                "The tracker %s failed (%s: %s). The run goes on without it; its log has every number.",
                self.name,
                type(error).__name__,
                said,
            )


class Tracking:
    """The trackers of a run, opened at its first stage; nothing on processes other than the main one.

    Args:
        track: What is tracked with, as `as_trackers` takes it.
        name: Of the run, for its trackers.
        folder: Of the run, or None.
        parameters: What the run is set with, by name.

    Raises:
        SettingError: there is no such tracker.
    """

    def __init__(self, track: Any, *, name: str, folder: Path | None, parameters: Mapping[str, Any]) -> None:
        self._settings = as_trackers(track)
        self._name, self._folder, self._parameters = name, folder, parameters
        self._sinks: list[_Sink] | None = None
        self._home: Home | None = None
        self.prefix = ""

    def begin(self, home: Home | None = None) -> None:
        """Open the trackers, if they are not open.

        Args:
            home: Whose state of accelerate they use; None: one of this process alone.

        Raises:
            LessenError: a tracker does not exist here.
        """
        if self._sinks is not None or not self._settings:
            return
        if home is None and processes() > 1:
            return  # the first stage opens them
        self._home = home if home is not None else Home(device="cpu", precision=Precision.FULL)
        self._sinks = []
        if not self._home.main:
            return
        plain = {_word(name): _plain(value) for name, value in self._parameters.items()}
        with self._inside():
            for one in self._settings:
                sink = _Sink(None, type(one).__name__)
                try:
                    sink.tracker = one.open(self._name, self._folder)
                    for method, given in (("start", ()), ("store_init_configuration", (plain,))):
                        if hasattr(sink.tracker, method):
                            getattr(sink.tracker, method)(*given)
                except LessenError:
                    raise
                except Exception as error:  # noqa: BLE001  # the server is away
                    sink.fail(error)
                    continue
                self._sinks.append(sink)

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def send(self, rows: Sequence[dict[str, Any]], stage: str = "") -> None:
        """Send lines of the log.

        Args:
            rows: The lines.
            stage: What the names of their numbers begin with; "": nothing.
        """
        start = "/".join(part for part in (self.prefix, stage) if part)
        self._give([(_under(start, flat(row)), row["step"]) for row in rows])

    def records(self, records: Sequence[Record]) -> None:
        """Send measurements, at the step of the pipeline that they belong to."""
        self.begin()
        found: dict[int, dict[str, float]] = {}
        for record in records:
            if record.value is not None:
                subject = "network" if record.file is None else f"file {record.file}"
                batch = record.settings.get("batch")
                name = _word(f"{subject}/{record.figure}" + ("" if batch is None else f" batch {batch}"))
                found.setdefault(record.step, {})[name] = float(record.value)
        self._give([(values, step) for step, values in sorted(found.items())])

    def _give(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        if not self._sinks:
            return
        with self._inside():
            for sink in self._sinks:
                sink.waiting += [(values, step) for values, step in rows if values]
                sink.send()

    def finish(self) -> None:
        """Close them."""
        if not self._sinks:
            return
        with self._inside():
            for sink in self._sinks:
                try:
                    sink.tracker.finish()
                except Exception as error:  # noqa: BLE001
                    sink.fail(error)
        self._sinks = None

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if self._home is None:
            yield
            return
        with self._home.inside():
            yield


def stage_labels(names: Sequence[str]) -> list[str]:
    """What the numbers of each stage are put under: its name, with a number where several have it; "" for one alone.

    >>> stage_labels(["offline", "hints", "offline"]), stage_labels(["offline"])
    (['offline', 'hints', 'offline 2'], [''])
    """
    if len(names) == 1:
        return [""]
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if count == 1 else f"{name} {count}" for name, count in zip(names, counts, strict=True)]


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
            found[_word(name)] = float(value)

    for key in ("loss", "edges", "rate", "figures"):
        if key in row:
            go(key, row[key])
    return found


def _word(name: str) -> str:
    # MLflow takes no other signs in a name.
    return re.sub(r"[^\w\-. :/]", "-", name.replace("->", " to "))


def _under(start: str, values: dict[str, float]) -> dict[str, float]:
    return values if not start else {f"{_word(start)}/{name}": value for name, value in values.items()}


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
