"""The folder of a run: what stands where, who may write, and how far the run has come."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from lessen.core.errors import RunError
from lessen.core.files import read_tensors, write_json, write_tensors, write_text

KIND = "lessen run, version 1"


class RunFolder:
    """Paths and state of one run.

    A folder is a run when its `checkpoints/state.json` says so. Everything is written whole or not at all, so a run
    that was killed can always be resumed from the last step that was completed.
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

    def check_free(self) -> None:
        """Whether a run can begin here: there is nothing at this path, or an empty folder.

        Raises:
            RunError: there is something at this path already.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            if self.state.is_file():
                raise RunError(
                    f"{self.path} is a run already. Continue it with `lessen resume {self.path}`, or choose another."
                )
            raise RunError(f"{self.path} is there already and is not empty. Choose another folder for the run.")

    def create(self, recipe: Mapping[str, Any]) -> None:
        """Make the folder; nothing that was there is touched.

        Raises:
            RunError: there is something at this path already.
        """
        self.check_free()
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_text(self.recipe, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
        self.write_state({"kind": KIND, "completed": -1, "finished": False})

    def open(self) -> dict[str, Any]:
        """The state of an existing run.

        Raises:
            RunError: the folder is missing or is not a run.
        """
        if not self.path.is_dir():
            raise RunError(f"There is no folder {self.path}. Give the folder of a run, as runs/mine.")
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(
                f"{self.path} is not the folder of a run: it has no readable checkpoints/state.json. "
                "A run is what `lessen run` or lessen.compress(..., run=...) leaves behind."
            ) from error
        if not isinstance(state, dict) or state.get("kind") != KIND:
            raise RunError(f"{self.path} was written by another version or program: expected {KIND!r}.")
        return state

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state in one step."""
        write_json(self.state, dict(state))

    def read_recipe(self) -> dict[str, Any]:
        """The recipe of the run as data."""
        found = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}

    def step(self, number: int) -> Path:
        """The folder of one step's checkpoints."""
        return self.checkpoints / f"step-{number}"

    def write_network(self, number: int, tensors: Mapping[str, Tensor], plans: list[Any], rows: list[Any]) -> None:
        """Keep the network as it is after a step, with the plans that lead to its structure."""
        folder = self.step(number)
        write_tensors(folder / "network.safetensors", tensors)
        write_json(folder / "plans.json", plans)
        write_json(folder / "layers.json", rows)

    def read_network(self, number: int) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
        """What `write_network` kept: tensors, encoded plans, rows of the layer table."""
        folder = self.step(number)
        plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
        rows = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
        return read_tensors(folder / "network.safetensors"), plans, rows

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; a second process that wants it gets an error instead of a mixed folder.

        Raises:
            RunError: another process works on this run.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.checkpoints / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"Another process is working on {self.path}. Wait for it, or stop it first.") from error
            yield
        finally:
            os.close(descriptor)
