"""The checkpoints that a run has kept, for whoever wants to look at them: trajectories, averages of weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lessen.core.errors import RunError
from lessen.core.files import parse_json, read_described
from lessen.engine.checkpoint import under

_NAME = re.compile(r"checkpoint-(\d+)-(\d+)\.safetensors")


@dataclass(frozen=True)
class Kept:
    """A checkpoint of a training.

    Args:
        path: Its file.
        stage: The number of the stage that it belongs to. The one at the end of a stage is the next stage's step 0.
        step: Steps of the stage that were made.
    """

    path: Path
    stage: int
    step: int

    def networks(self) -> dict[str, dict[str, Tensor]]:
        """The states of the networks that learned, by the names of their nodes, for `load_state_dict`.

        With `Fit(average=...)` these are the averages.

        Raises:
            WeightsError: the file is damaged.
            RunError: it is no checkpoint of this version of lessen.
        """
        tensors, held = read_described(self.path)
        about = parse_json(held.get("about", "null"), f"The header of {self.path}")
        if not isinstance(about, dict) or "networks" not in about:
            raise RunError(f"{self.path} is not a checkpoint of this version of lessen.")
        tensors = under("shipped", tensors) or tensors
        return {name: under(f"network/{number}", tensors) for name, number in about["networks"].items()}


def kept_checkpoints(folder: Path | str) -> list[Kept]:
    """The checkpoints in the folder of a run, oldest first. `Fit(keep_checkpoints=5)` keeps five of each stage.

    Args:
        folder: As given to `run`, or the folder of one training of `compress` (with `keep_state=True`), as
            `runs/mine/checkpoints/step-1/training`.

    Raises:
        RunError: there are none.
    """
    files = sorted((Path(folder) / "checkpoints").glob("checkpoint-*.safetensors"))
    found = [(path, match) for path in files if (match := _NAME.fullmatch(path.name))]
    if not found:
        raise RunError(
            f"{folder} has no checkpoints of a training. Give the folder of a run of `engine.run`, or of one training "
            "of `compress(keep_state=True)`, as runs/mine/checkpoints/step-1/training."
        )
    return [Kept(path, int(match[1]), int(match[2])) for path, match in found]
