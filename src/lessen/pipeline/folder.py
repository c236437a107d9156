"""The folder of a run: where each file is, who may write, and how far the run has come.

A run begins with the weights that were given; `state.json` is written after them, and makes the folder a run. Every
file is written whole or not at all, small ones carry a checksum, and nothing in them is believed before it was checked.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from lessen.core.documents import Document
from lessen.core.errors import RunError
from lessen.core.files import read_tensors, read_text, write_tensors, write_text, writing
from lessen.core.identity import differences, identify
from lessen.core.sealed import read_sealed, write_sealed
from lessen.zoo import is_own

_ANOTHER = "Choose another folder with --run (run= in Python)."
KIND: Final = "lessen run, version 2"
T = TypeVar("T", bound=BaseModel)
RESTORE = "Restore it from a copy of the run, or start the run again in another folder."
_LEFT_BEHIND = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
_FILLING = ".filling-*"
_LIMITS: Final = {"most": 100_000, "deepest": 200}
"""Of a recipe: a run that was started from Python may have more settings than one from a file."""


class State(BaseModel):
    """How far a run has come.

    Args:
        kind: What wrote it.
        job: What the run was started with, as `identity` tells it.
        asked: The text of its `recipe.yaml`.
        given: Digests of the weights that it was started with, by file.
        frozen: The names of the weights that may not learn, for the network and the student.
        completed: The last step that is done; 0 is the measuring of the original network, -1 is nothing.
        finished: Whether everything is written.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Literal["lessen run, version 2"]
    job: dict[str, Any]
    asked: str
    given: dict[str, str]
    frozen: dict[str, list[str]]
    completed: int = Field(ge=-1)
    finished: bool

    @classmethod
    def new(cls, **fields: Any) -> State:
        """The state of a run that has done nothing yet."""
        return cls(kind=KIND, completed=-1, finished=False, **fields)

    def advanced(self, **changes: Any) -> State:
        """The state with some fields changed."""
        return self.model_copy(update=changes)


class Kept(BaseModel):
    """What is kept of a step next to the weights.

    Args:
        plans: The encoded plans that lead to the network's structure.
        layers: The rows of the layer table.
        records: What was measured.
        frozen: The names of the weights that may not learn.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    plans: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    records: list[dict[str, Any]]
    frozen: list[str]


class RunFolder:
    """Paths and state of one run.

    A folder is a run when its `checkpoints/state.json` says so. A run that was killed can always be resumed from the
    last step that was completed; one that was killed before its state was written is begun again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.plan = self.path / "plan.json"
        self.layers = self.path / "layers.json"
        self.weights = self.path / "weights.safetensors"
        self.records = self.path / "records.jsonl"
        self.log = self.path / "log.jsonl"
        self.graph = self.path / "graph.json"
        self.report = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.state = self.checkpoints / "state.json"

    # Beginning

    def check_free(self) -> None:
        """Whether a run can begin here: nothing is at this path, or only what a beginning left that was cut short.

        Raises:
            RunError: there is something else at this path.
        """
        try:
            there = self.path.exists() or self.path.is_symlink()
        except (OSError, ValueError) as error:
            raise RunError(f"{str(self.path)[:200]!r} cannot be a folder: {_why(error)}. {_ANOTHER}") from error
        if not there:
            self._check_writable()
            return
        if not self.path.is_dir():
            raise RunError(f"{self.path} already exists and is not a folder. Choose another folder for the run.")
        if self.state.exists():
            try:
                how = self.continuation(self.open())
            except RunError:
                how = f"lessen resume {shlex.quote(str(self.path))}"
            raise RunError(
                f"{self.path} already contains a run. Continue it with: {how}. Or choose another folder, or remove "
                "this one."
            )
        strange = next(self._strange(), None)
        if strange is not None:
            raise RunError(
                f"{self.path} already exists and is not empty: it contains {strange}. Choose another folder for the "
                "run."
            )

    def _check_writable(self) -> None:
        """Whether the folder can be made: it is made, with those above it, and removed again.

        Raises:
            RunError: it cannot.
        """
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        made: list[Path] = []
        try:
            for path in reversed(missing):
                path.mkdir()
                made.append(path)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except FileExistsError:
            pass  # another process makes it just now; the lock tells whose it is
        except OSError as error:
            raise RunError(f"A run cannot be written to {self.path}: {_why(error)}. {_ANOTHER}") from error
        finally:
            for path in reversed(made):
                with suppress(OSError):
                    path.rmdir()

    def _strange(self) -> Iterator[Path]:
        """What is in the folder and was not left by a beginning that was cut short."""
        ours = {self.recipe, self.checkpoints / ".lock", self.given("teacher"), self.given("student")}
        folders = {self.checkpoints, self.step(0)}
        for path in sorted(self.path.rglob("*")):
            known = path in folders if path.is_dir() and not path.is_symlink() else path in ours
            if not known and not (_LEFT_BEHIND.fullmatch(path.name) and path.parent in {self.path, *folders}):
                yield path.relative_to(self.path)

    def begin(self, state: State, given: Mapping[Path, Mapping[str, Tensor]]) -> None:
        """Write what a run starts from, its state last; only inside `locked`.

        Args:
            state: Of a run that has done nothing yet.
            given: The weights that were given, by their file.

        Raises:
            RunError: there is something at this path already, or the disk is full.
        """
        self.check_free()
        self.clean()
        for path, tensors in given.items():
            write_tensors(path, tensors)
        write_text(self.recipe, state.asked)
        self.write_state(state)

    # State

    def open(self) -> State:
        """The state of an existing run.

        Raises:
            RunError: the folder is missing, is not a run, never began, holds links, or its state is damaged.
        """
        if self.path.is_file():
            raise RunError(f"{self.path} is a file. Give the folder of a run, as runs/mine.")
        if not self.path.is_dir():
            raise RunError(f"There is no folder {self.path}. Give the folder of a run, as runs/mine.")
        self._check_links()
        if not self.state.exists():
            if self.checkpoints.is_dir() and next(self._strange(), None) is None:
                raise RunError(
                    f"The run in {self.path} was stopped before its first step; there is nothing to continue. Start it "
                    "again in the same folder, with `lessen run` or lessen.compress."
                )
            raise RunError(
                f"{self.path} is not the folder of a run: it has no checkpoints/state.json. Runs are made by `lessen "
                "run` or lessen.compress(..., run=...)."
            )
        found = read_sealed(self.state, advice=RESTORE)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            kind = found.get("kind") if isinstance(found, dict) else None
            raise RunError(
                f"{self.path} was written by another version of lessen, or by another program: it says that it is "
                f"{kind!r:.60}, and {KIND!r} was expected. Read it with the version that wrote it."
            )
        return _checked(State, found, self.state)

    def _check_links(self) -> None:
        """Refuse symbolic links: a run that goes on would write to where they lead, whoever put them there."""
        for place, folders, files in os.walk(self.path):
            for path in (Path(place, name) for name in (*folders, *files)):
                if path.is_symlink():
                    raise RunError(
                        f"{path} is a symbolic link, and no run makes one. Put what it leads to in its place, or take "
                        "it out."
                    )

    def continuation(self, state: State) -> str:
        """What continues this run: a command if a recipe started it, a call if Python did."""
        try:
            asked = self.asked(state)
        except RunError:
            asked = {}
        builds = [build for name in ("network", "student") if isinstance(build := asked.get(name), Mapping)]
        if not builds or not all("build" in build for build in builds):
            call = f"lessen.resume({str(self.path)!r}, teacher=..., data=..., steps=...)"
            return f"{call}, with the arguments of the first call"
        allowed = " --allow-import" if asked.get("use") or any(is_own(str(build["build"])) for build in builds) else ""
        return f"lessen resume {shlex.quote(str(self.path))}{allowed}"

    def write_state(self, state: State) -> None:
        """Replace the state in one step."""
        write_sealed(self.state, state.model_dump(mode="json"))

    def read_recipe(self) -> dict[str, Any]:
        """The recipe of the run as data.

        Raises:
            RunError: it is missing or damaged.
        """
        advice = f"Delete it and resume the run: it is then written again from {self.state}."
        try:
            return _as_settings(read_text(self.recipe, expected="a YAML file"), self.recipe)
        except RunError as error:
            said = " ".join(str(error).split())
            raise RunError(f"The recipe of the run, {self.recipe}, cannot be read ({said}). {advice}") from error

    def check_recipe(self, state: State) -> None:
        """Whether `recipe.yaml` is what the run was started from; where it is missing, it is written again.

        Raises:
            RunError: it was edited, or is damaged; the text names what differs.
        """
        if not self.recipe.exists():
            self.asked(state)
            write_text(self.recipe, state.asked)
            return
        differs = list(differences(identify(self.asked(state)), identify(self.read_recipe())))
        if differs:
            raise RunError(
                f"{self.recipe} was edited after the run was started, and a run can only continue unchanged. Before "
                f"and now: {listed(differs)}. Put it back (or delete it and resume the run, which writes it again), or "
                "start another run."
            )

    def asked(self, state: State) -> dict[str, Any]:
        """The recipe that a run was started from, as data.

        Raises:
            RunError: the state is damaged.
        """
        try:
            return _as_settings(state.asked, self.state)
        except RunError as error:
            raise RunError(f"{self.state} is damaged: its recipe cannot be read. {RESTORE}") from error

    # Steps

    def given(self, name: str) -> Path:
        """The file of the weights that the "teacher" or the "student" came with."""
        return self.step(0) / f"{'given' if name == 'teacher' else name}.safetensors"

    def step(self, number: int) -> Path:
        """The folder of one step's checkpoints."""
        return self.checkpoints / f"step-{number}"

    def trials(self, number: int) -> Path:
        """The file of what the search of a step has found out."""
        return self.step(number) / "trials.json"

    def write_network(self, number: int, tensors: Mapping[str, Tensor], kept: Kept) -> None:
        """Keep the network as it is after a step, with what leads to its structure and what was measured of it."""
        write_tensors(self.step(number) / "network.safetensors", tensors)
        write_sealed(self.step(number) / "step.json", kept.model_dump(mode="json"))

    def read_tensors(self, number: int) -> dict[str, Tensor]:
        """The weights after a step.

        Raises:
            WeightsError: they are missing or damaged.
        """
        return read_tensors(self.step(number) / "network.safetensors")

    def read_kept(self, number: int) -> Kept:
        """What was kept of a step next to the weights.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.step(number) / "step.json"
        return _checked(Kept, read_sealed(path, advice=RESTORE), path)

    # Order

    def clean(self) -> None:
        """Remove what a kill left half written; only inside `locked`, where nobody else writes."""
        with writing(self.path):
            for folder in (self.path, *(self.path / name for name in ("steps", "reference"))):
                if folder.is_dir():
                    _remove(path for path in folder.iterdir() if _LEFT_BEHIND.fullmatch(path.name))
            if self.checkpoints.is_dir():
                _remove(path for path in self.checkpoints.rglob(".*.part") if _LEFT_BEHIND.fullmatch(path.name))
                for path in list(self.checkpoints.rglob(_FILLING)):
                    shutil.rmtree(path, ignore_errors=True)

    def forgettable(self, last: int) -> list[Path]:
        """What a finished run no longer needs: training checkpoints and caches, trials, networks between steps.

        What the run began with, and the original network and that after the last step, are not among them: a finished
        run can be read, packed and loaded.

        Args:
            last: The number of the last step.
        """
        trained = list(self.checkpoints.glob("step-*/training*"))
        paths = [training / name for training in trained for name in ("checkpoints", "cache")]
        paths += [self.step(number) / "network.safetensors" for number in range(1, last)]
        paths += [self.trials(number) for number in range(1, last + 1)]
        return [path for path in paths if path.exists()]

    @property
    def forgetting(self) -> Path:
        """A file that is there while a finished run has to remove what `forgettable` names."""
        return self.checkpoints / "forgetting"

    def will_forget(self, told: bool) -> None:
        """Say, before a run is finished, whether it then removes what `forgettable` names; only inside `locked`."""
        if told:
            write_text(self.forgetting, "")
        else:
            self.forgetting.unlink(missing_ok=True)  # of an attempt that was killed, and was told otherwise

    def forget_training(self, last: int) -> None:
        """Where `will_forget` said so: remove what `forgettable` names, and then the file; only inside `locked`."""
        if not self.forgetting.exists():
            return
        with writing(self.path):
            for path in self.forgettable(last):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            self.forgetting.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; a second process that wants it gets an error instead of a mixed folder.

        Raises:
            RunError: another process works on this run, or the disk is full or read-only.
        """
        with lock(self.checkpoints, self.path):
            yield


@contextmanager
def lock(folder: Path, work: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, for this process; the lock ends with the process.

    Args:
        folder: Where the lock is.
        work: What is worked on, for the error.

    Raises:
        RunError: another process holds it, or the disk is full or read-only.
    """
    with writing(work):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"Another process is working on {work}. Wait for it, or stop it first.") from error
        yield
    finally:
        os.close(descriptor)


def as_recipe(asked: Mapping[str, Any]) -> str:
    """The text of a recipe."""
    return yaml.safe_dump(dict(asked), sort_keys=False, allow_unicode=True, width=120)


def _as_settings(text: str, source: Path) -> dict[str, Any]:
    found = Document(text, source, RunError, **_LIMITS).plain()
    if not isinstance(found, dict):
        raise RunError("it contains no settings")
    return found


def listed(differs: list[str], *, most: int = 6) -> str:
    """What differs, as one line that does not grow for ever."""
    more = len(differs) - most
    return "; ".join(differs[:most]) + (f"; and {more} more" if more > 0 else "")


def _checked(kind: type[T], found: Any, path: Path) -> T:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise RunError(
            f"{path} is damaged: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}. {RESTORE}"
        ) from error


def _why(error: Exception) -> str:
    return str((error.strerror if isinstance(error, OSError) else None) or error).lower()


def _remove(paths: Iterator[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
