"""The whole path: from a trained network to a smaller file that runs, with the evidence next to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lessen.core.calling import public
from lessen.core.errors import SettingError
from lessen.core.record import Record
from lessen.core.task import Task
from lessen.deploy import Deploy
from lessen.engine import StepDone
from lessen.engine.home import meet
from lessen.pipeline.folder import RunFolder, State
from lessen.pipeline.interruption import continuable
from lessen.pipeline.job import Job
from lessen.pipeline.load import load_given
from lessen.pipeline.measuring import Measuring
from lessen.pipeline.preflight import preflight
from lessen.pipeline.steps import Step
from lessen.pipeline.targets import Targets
from lessen.pipeline.walk import Reached, Walk
from lessen.report import records_frame, shown_records, summary
from lessen.schemes import Scheme


@dataclass(frozen=True, repr=False)
class Compressed:
    """The result of a run.

    Args:
        run: The folder of the run.
        model: The network after the last step, in PyTorch, in eval mode.
        teacher: The teacher, in eval mode: a copy of the given network, trained if requested.
        file: The file to use: the fastest that passed verification, and the smallest of those that are equally fast;
            None if none passed.
        records: Every measurement.
        report: The report page.
    """

    run: Path
    model: nn.Module
    teacher: nn.Module
    file: Path | None
    records: tuple[Record, ...]
    report: Path

    def __str__(self) -> str:
        return summary(self.records)

    def __repr__(self) -> str:
        file = None if self.file is None else str(self.file)
        return f"Compressed(run={str(self.run)!r}, file={file!r}, {len(self.records)} records)"

    def _repr_html_(self) -> str:
        return shown_records(self.records, self.report)

    def frame(self) -> Any:
        """The records as a pandas DataFrame, one line each; `lessen.frame(run, "log")` has the training.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return records_frame(self.records)


@public
def compress(
    teacher: nn.Module,
    data: Any,
    steps: Sequence[Step] | Step,
    *,
    run: str | Path | None = None,
    student: nn.Module | None = None,
    train: Sequence[Scheme] = (),
    targets: Targets | None = None,
    deploy: Deploy | None = None,
    measuring: Measuring | None = None,
    seed: int = 0,
    progress: bool = True,
    device: str | None = None,
    keep_state: bool = False,
    output: str | None = None,
    asked: Mapping[str, Any] | None = None,
    task: str | Task | None = None,
    metric: Any = None,
    track: Any = (),
    on_step: Callable[[StepDone], Any] | None = None,
) -> Compressed:
    """Make a network smaller, step by step, and write files that run and a report.

    Everything is checked before anything long starts and before anything is written: the data, the number of classes,
    every tap and bridge, and whether each operation can reach its target on this network.

    Started by `torchrun`, several processes train together in one folder; the main one does everything else.

    Neither network is changed: the run works on copies. Weights that are frozen (`requires_grad` is False) stay as they
    are in every training, and in the resulting network. If a whole network is frozen, all its weights are trained.

    Args:
        teacher: The trained network. It is the teacher of the schemes among the steps.
        data: A `Data`, the name of a data set, a folder of images, arrays or loaders (see `lessen.data.load`).
        steps: Operations and schemes, in order; a single one needs no list.
        run: The output folder; it must not exist yet. None: a new one below `runs/`.
        student: Another network to start from; None: a copy of the teacher.
        train: Schemes that train the run's copy of the teacher first, if it is not trained.
        targets: The budget; judged at the end.
        deploy: Which files are made, how they are verified and timed.
        measuring: How the network is measured after every step.
        seed: Of everything that is drawn.
        progress: Whether to say how far the run is: a line for each step, and for each epoch a bar or a line.
        device: Where to train: "cpu", "cuda", "mps". None: what accelerate finds. Everything else runs on the CPU.
        keep_state: Whether a finished run keeps checkpoints and caches of training, and the networks between the steps.
            They are removed otherwise; nothing that reads a finished run needs them.
        output: Which output is compared with the labels and the teacher, and learns from the teacher unless a tap says
            otherwise, where the network returns several (a dict, a tuple, a dataclass): its name, as "scores" or "0".
            None: `logits`, or the only one. All outputs are written to the files and verified.
        asked: The recipe this came from, to be kept in the run; None: written from the arguments.
        task: What outputs and labels mean: "single_label", "multi_label", "binary", "dense" (a class at every pixel or
            token), "regression", "language", "masked_language", "retrieval", "none" (only the teacher teaches), or an
            object as `lessen.tasks` has them. None: guessed from labels and outputs, and printed with the reason.
        metric: `(function, "max")` or `(function, "min")`, the function as `(outputs, labels) -> number` for a whole
            split: what the best epoch, targets and report are judged by. None: the first metric of the task.
        track: What gets parameters, logs and measurements as well: "tensorboard", "mlflow", the name of another tracker
            of accelerate, a settings object as `MLflow(where=...)`, or several of these.
        on_step: Called after every step of every training, as that of `lessen.engine.run`.

    Raises:
        LessenError: bad input; the text tells what was given, what was expected and what to do.
        Stopped: SIGTERM came. After it, and after Ctrl-C, the run can be resumed.
    """
    together = meet(device)
    if not isinstance(run, str | os.PathLike | None):
        raise SettingError(f"run is a {type(run).__name__}; the path of a folder was expected, as run='runs/mine'.")
    folder = RunFolder(together.decide(lambda: str(run if run is not None else _new_folder(teacher))))
    together.decide(folder.check_free)
    job = Job.of(
        teacher=teacher,
        data=data,
        steps=steps,
        student=student,
        train=train,
        targets=targets,
        deploy=deploy,
        measuring=measuring,
        seed=seed,
        progress=progress,
        device=device,
        keep_state=keep_state,
        output=output,
        task=task,
        metric=metric,
        track=track,
        on_step=on_step,
    )

    def check() -> dict[str, Any]:
        state = job.state(asked)
        preflight(job)
        return state.model_dump(mode="json")

    state = State.model_validate(together.decide(check))
    if progress and task is None and together.main:
        print(job.reason, file=sys.stderr)
    with ExitStack() as held:
        given = {folder.given(name): network.state_dict() for name, network in job.networks().items()}
        together.decide(lambda: held.enter_context(folder.locked()))
        together.decide(lambda: folder.begin(state, given))
        if not together.main:
            load_given(folder, state, job.networks())
        walk = Walk(job=job, folder=folder, state=state, resumed=False, together=together)
        with continuable(folder, state, says=together.main):
            return _compressed(job, folder, walk.to_the_end())


@public
def resume(run: str | Path, **arguments: Any) -> Compressed:
    """Continue a run that was interrupted, with the same result as if it had not been.

    A complete run is only read; nothing in its folder is changed.

    Args:
        run: The folder of the run.
        arguments: Those that `compress` was called with, all but `run` and `asked`. A network need only be built the
            same way: its weights, and which of them are frozen, come from the run.

    Raises:
        RunError: the folder is not a run or is damaged, another process works on it, or it was started with something
            else: another network, other data, steps, settings or seed, or another version of lessen, torch or Python.
    """
    together = meet(arguments.get("device"))
    folder = RunFolder(together.decide(lambda: str(run)))
    together.decide(lambda: folder.check_recipe(folder.open()))
    job = Job.of(**arguments)

    def check() -> dict[str, Any]:
        state = folder.open()
        job.check_same(state, folder)
        return state.model_dump(mode="json")

    state = State.model_validate(together.decide(check))
    load_given(folder, state, job.networks())
    if state.finished:
        together.decide(lambda: _forget_the_rest(folder, state))
        return _compressed(job, folder, Walk(job=job, folder=folder, state=state, resumed=True).reached())
    with ExitStack() as held:
        together.decide(lambda: held.enter_context(folder.locked()))
        together.decide(folder.clean)
        state = State.model_validate(together.decide(lambda: folder.open().model_dump(mode="json")))
        walk = Walk(job=job, folder=folder, state=state, resumed=True, together=together)
        with continuable(folder, state, says=together.main):
            return _compressed(job, folder, walk.to_the_end())


def _forget_the_rest(folder: RunFolder, state: State) -> None:
    """Go on where a kill interrupted a finished run that removed what only training needs."""
    if folder.forgetting.exists():
        with folder.locked():
            folder.forget_training(state.completed)


def _compressed(job: Job, folder: RunFolder, reached: Reached) -> Compressed:
    return Compressed(
        run=folder.path,
        model=reached.model,
        teacher=job.teacher,
        file=None if reached.file is None else folder.path / reached.file,
        records=tuple(reached.records),
        report=folder.report,
    )


def _new_folder(teacher: nn.Module) -> Path:
    name, number = type(teacher).__name__.lower(), 1
    while (path := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return path
