"""Every error a person can cause, in one place, each saying what came, what was expected and what to do next."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class LessenError(Exception):
    """The base of all errors that bad input causes; the command line prints its text and exits with `exit_code`."""

    exit_code = 2


class SettingError(LessenError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class ShapeError(LessenError, ValueError):
    """Two tensors do not fit together; the text names both shapes."""


class TapError(LessenError, LookupError):
    """A tap names a module that does not exist, or that fired never or more than once."""


class GraphError(LessenError, ValueError):
    """A transfer graph is not valid: an unknown node, no node learns, a cycle of snapshots."""


class DataError(LessenError, ValueError):
    """Data is empty, not finite, of the wrong shape, or its labels do not fit the network."""


class DivergedError(DataError):
    """A loss, a weight or a figure of a training is not a finite number.

    Args:
        what: Where, and what happened.
        remedy: What would make the training calmer.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what} {remedy}".rstrip())
        self.what = what


class WeightsError(LessenError, ValueError):
    """Weights are of another architecture, damaged, or in a format that would execute code."""


class NetworkError(LessenError, ValueError):
    """A network cannot be found, built, traced or run on the example inputs."""


class PlanError(LessenError, ValueError):
    """An operation cannot do what was asked of this network, or a plan does not belong to it."""


class ExportError(LessenError, RuntimeError):
    """A network cannot be written for a runtime, or the written file does not agree with it."""


class BusyError(LessenError, RuntimeError):
    """The machine was too busy for a time to be believed."""


class RunError(LessenError, ValueError):
    """A folder is not a run, is complete, is in use, or was written by something else."""


class RecipeError(LessenError, ValueError):
    """A recipe cannot be read; the text names the file and the line."""


class MissingExtraError(LessenError, ImportError):
    """An optional part of lessen was used without its extra being installed."""


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """A clause that lists the closest known names, or all of them when there are few.

    >>> did_you_mean("layr3", ["layer1", "layer3", "head"])
    "did you mean 'layer3', 'layer1'?"
    >>> did_you_mean("zzz", ["a", "b"])
    "known are 'a', 'b'."
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.6)
    if close:
        return "did you mean " + ", ".join(repr(n) for n in close) + "?"
    shown = ", ".join(repr(n) for n in names[:12])
    if not names:
        return "none are known."
    return f"known are {shown}{' …' if len(names) > 12 else ''}."


def need(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed, and this needs it. "
            f"Install it with: pip install 'lessen[{extra}]'"
        ) from error
