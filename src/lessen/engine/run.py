"""Run stages: the one way to train anything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lessen.core.calling import public
from lessen.core.data import Data
from lessen.core.errors import DivergedError, RunError, SettingError
from lessen.core.files import write_json
from lessen.core.identity import identify
from lessen.engine.advice import restarted
from lessen.engine.bar import Bar
from lessen.engine.checkpoint import Checkpoints, Saved
from lessen.engine.history import History
from lessen.engine.home import meet
from lessen.engine.keeping import go_back, load, load_networks, networks_of, numbers_of, place_of, save, standing
from lessen.engine.log import Position, cut_log, read_log
from lessen.engine.step_done import OnStep, StepDone, check_on_step
from lessen.engine.stopping import GO_ON, Asked, Stopped
from lessen.engine.track import Tracking, stage_labels
from lessen.engine.training import Training
from lessen.graph.check import check
from lessen.graph.draw import draw
from lessen.graph.stage import Stage
from lessen.measure.task import task_or_none
from lessen.report.outcome import flat

_FLUSH_EVERY = 50


@public
def run(
    stages: Sequence[Stage],
    data: Data,
    *,
    folder: Path | str | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    device: torch.device | str | None = None,
    track: Any = (),
    on_step: OnStep | None = None,
) -> History:
    """Run stages one after another. Learning networks are changed in place and end in eval mode.

    Everything random (order, views, dropout, weights of new bridges) follows from the seed and the position, so a run
    that was killed and resumed ends with the same weights, bit for bit, on the same machine with as many processes.

    Args:
        stages: What to run, in order.
        data: To learn from, and to choose the best epoch by; its test split is not looked at.
        folder: Where `log.jsonl`, `graph.json` and `checkpoints/` go; None writes nothing.
        seed: For everything random.
        resume: Continue from the newest checkpoint in the folder, if there is one. The networks given must be built as
            they were for the first call.
        progress: Whether to show a progress bar if the standard error stream is a terminal, and one line for each epoch
            if it is not.
        device: Where to compute; None: what accelerate finds.
        track: What gets the log as well: "tensorboard", "mlflow", the name of another tracker of accelerate, a settings
            object as `MLflow(where=...)`, or several of these. A server that is away ends nothing.
        on_step: Called with a `StepDone` after every step (of several processes, in each): its losses, rates and
            networks, to look at. What it raises ends the run unchanged. A run that is resumed may have another.

    With `Fit(keep_checkpoints=5)` the newest five checkpoints of a stage stay in the folder, and
    `kept_checkpoints(folder)` lists them: `student.load_state_dict(kept_checkpoints(folder)[0].networks()["student"])`.
    The newest one is the end of the run; without those behind it, a run is resumed from an older one.

    Raises:
        GraphError, TapError, ShapeError, SettingError: a stage is not valid; raised before its first step.
        DataError: labels do not fit, or a loss is not finite; the text names stage, step and edge.
        RunError: the folder holds another run, or cannot be written.
        Stopped: SIGTERM came; a checkpoint was written first, where there is a folder.
    """
    course = Course(stages, data, folder=folder, seed=seed, resume=resume, device=device, track=track, on_step=on_step)
    with Bar(show=progress) as bar, Asked() as asked, torch.random.fork_rng(devices=[]):
        shown: Training | None = None
        said = len(course.history.warnings)
        for training in course.steps(asked):
            if training is not shown:
                shown = training
                bar.begin(training.stage.name, done=training.step, total=training.steps)
            bar.move(training.step, total=training.steps, says=course.says)
            said = _say(bar, course.history, said)
            if training.at_end_of_epoch:
                epoch, epochs = (math.ceil(steps / training.epoch_steps) for steps in (training.step, training.steps))
                bar.epoch(epoch, epochs=epochs, done=training.step, total=training.steps, says=course.says)
        _say(bar, course.history, said)
    return course.history


class Course:
    """A run that can be walked step by step: two of them, walked in turn, do what each does alone."""

    def __init__(
        self,
        stages: Sequence[Stage],
        data: Data,
        *,
        folder: Path | str | None = None,
        seed: int = 0,
        resume: bool = False,
        device: torch.device | str | None = None,
        track: Any = (),
        on_step: OnStep | None = None,
    ) -> None:
        check_on_step(on_step)
        if not stages:
            raise SettingError("There are no stages to run; give at least one.")
        for stage in stages:
            check(stage)
        told_of, data = data, _with_task(data, stages)  # what is guessed follows from the rest
        self.stages, self.data, self.seed, self.device = list(stages), data, seed, device
        self.on_step = on_step
        # Several processes agree on what the main one was given, and on whether it can go on.
        home = meet(device)
        given: list[Any] = [None if folder is None else str(folder), seed, resume]
        folder, self.seed, resume = home.decide(lambda: given)
        self.folder = None if folder is None else Path(folder)
        self.history = History(folder=self.folder, task=data.task)
        self.learned = _learners(self.stages)
        self._own = not isinstance(track, Tracking)
        self.tracking = self._track(track) if self._own else track
        self._checkpoints: Checkpoints | None = None
        self._resumed: Saved | None = None
        if self.folder is not None:
            told = _told(self.stages, told_of, self.seed, self.learned)
            keep = [stage.fit.keep_checkpoints for stage in self.stages]
            self._checkpoints = checkpoints = Checkpoints(self.folder / "checkpoints", told, keep)
            checkpoints.fingerprint = home.decide(lambda: checkpoints.fingerprint)
            if home.processes > 1:
                home.decide(lambda: self._look_up(checkpoints, resume=resume) and None)
            self._resumed = self._look_up(checkpoints, resume=resume)
            if self._resumed is not None:
                self._pick_up(self._resumed, self.folder)

    def _track(self, track: Any) -> Tracking:
        parameters: dict[str, Any] = {"seed": self.seed, "data": self.data.name}
        for number, stage in enumerate(self.stages if track else ()):
            start = stage.name if len(self.stages) == 1 else f"{number} {stage.name}"
            told = {"epochs": stage.epochs, "steps": stage.steps, "fit": identify(stage.fit)}
            for edge in draw([stage])[0]["edges"]:
                told[edge["name"]] = {name: edge[name] for name in ("objective", "weight", "schedule")}
            parameters |= {f"{start}.{name}": value for name, value in flat(told) if value is not None}
        name = self.stages[0].name if self.folder is None else self.folder.resolve().name
        return Tracking(track, name=name, folder=self.folder, parameters=parameters)

    def _look_up(self, checkpoints: Checkpoints, *, resume: bool) -> Saved | None:
        if not resume:
            if checkpoints.folder.is_dir() and any(checkpoints.folder.glob("checkpoint-*")):
                raise RunError(f"{self.folder} already contains a run. Resume it, or choose another folder.")
            return None
        return checkpoints.newest()

    def _pick_up(self, saved: Saved, folder: Path) -> None:
        load_networks(self.learned, saved)
        rows = read_log(folder / "log.jsonl")
        rows = [row for row in rows if place_of(saved).behind(row)]
        self.history.validations = [row for row in rows if row["kind"] == "validation"]
        self.history.warnings = [row for row in rows if row["kind"] == "warning"]

    def steps(self, asked: Asked | None = None) -> Generator[Training, None, None]:
        """Run, and give the stage after every optimizer step. Files are written only from here on.

        Each step seeds torch's global generator for itself, and leaves it as it is; `run` puts it back at the end.
        """
        try:
            yield from self._stages(asked)
        finally:
            if self._own:
                self.tracking.finish()

    def _stages(self, asked: Asked | None) -> Iterator[Training]:
        first = 0 if self._resumed is None else int(self._resumed.about["stage"])
        started = False
        for number in range(first, len(self.stages)):
            saved = self._resumed if number == first else None
            training = self._start(number, saved)
            if not started and (folder := self.folder) is not None:
                training.home.decide(lambda: self._open_folder(training, folder))  # noqa: B023  # called at once
            started = True
            try:
                self.tracking.begin(training.home)
                training.log.keep = bool(self.tracking)
                if not training.begun:
                    self.history.validations.append(training.begin())
                for _ in self._advance(training, asked):
                    if training.log.keep:
                        self._send(training)
                    yield training
                self.history.warnings += training.finish()
                self._send(training)
            finally:
                training.close()
            self._keep_between(training)

    def _send(self, training: Training) -> None:
        if self.tracking:
            names = [stage.name for stage in self.stages]
            self.tracking.send(training.log.take(), stage_labels(names)[training.number])

    def says(self) -> str:
        """The last look at the validation split, in a few words."""
        if not self.history.validations:
            return ""
        figures = self.history.validations[-1]["figures"]
        return "  ".join(
            f"{node} {name.replace('_', ' ')} {value:.4g}"
            for node, found in figures.items()
            for name, value in found.items()
        )

    def _start(self, number: int, saved: Saved | None) -> Training:
        log = None if self.folder is None else self.folder / "log.jsonl"
        stage = self.stages[number]
        data = self.data if stage.data is None else _with_task(stage.data, [stage])
        training = Training(stage, number, data, seed=self.seed, device=self.device, log=log, folder=self.folder)
        if saved is not None and place_of(saved).begun and self._checkpoints is not None:
            load(training, self.learned, saved, self._checkpoints)
            training.compare(saved.about["gives"])
        return training

    def _open_folder(self, training: Training, folder: Path) -> None:
        if self._checkpoints is not None and self._resumed is None:
            self._checkpoints.begin()
        write_json(folder / "graph.json", draw(self.stages))
        cut_log(folder / "log.jsonl", training.place)

    def _advance(self, training: Training, asked: Asked | None) -> Iterator[None]:
        if training.stage.fit.restarts and training.good is None:
            self._keep_good(training)
        while not training.done:
            try:
                self._step(training)
                stop = asked is not None and self._agreed(training, asked)
                self._keep_if_time(training, now=stop)
            except DivergedError as error:
                if training.good is None or training.restarts >= training.stage.fit.restarts:
                    raise
                self._restart(training, training.good, error)
                stop = False
            else:
                if self.on_step is not None:
                    self._call(self.on_step, training)
            if stop:
                raise Stopped(
                    f"Asked to stop after step {training.step} of stage {training.stage.name!r}. "
                    + (f"The checkpoint is written. {GO_ON}" if self.folder else "Nothing was kept.")
                )
            yield

    def _step(self, training: Training) -> None:
        """Make one step, and look at the validation split where it is time."""
        training.advance()
        self.history.steps += 1
        row = training.pause() if training.at_look else None
        if row is not None:
            self.history.validations.append(row)
            if training.stage.fit.restarts and (row["best"] or not row["figures"]):
                self._keep_good(training)
        if len(training.log) >= (_FLUSH_EVERY if self.on_step is None else 1):
            training.log.flush()
        self.history.last = training.log.last or self.history.last

    def _call(self, on_step: OnStep, training: Training) -> None:
        """Show a step to the caller; what he raises is his."""
        row = training.log.last
        assert row is not None  # it was flushed after the step
        on_step(
            StepDone(
                stage=row["name"],
                number=training.number,
                epoch=row["epoch"],
                step=row["step"],
                steps=training.steps,
                losses=row["loss"],
                edges=row["edges"],
                rates=row["rate"],
                networks={n: u.network for n, u in training.flow.units.items() if u.network is not None},
            )
        )
        training.flow.set_mode(training=True)

    def _keep_if_time(self, training: Training, *, now: bool) -> None:
        every = training.stage.fit.checkpoint_steps
        if now or (training.at_end_of_epoch if every is None else training.step % every == 0):
            self._keep(training)

    def _keep_good(self, training: Training) -> None:
        training.good, training.good_file = standing(training, self.learned), None

    def _restart(self, training: Training, good: Saved, error: DivergedError) -> None:
        """Go back to the best state, and on with a lower rate; what came after it is taken out of the log."""
        number = training.number
        go_back(training, self.learned, good)
        here = Position(number, training.step, begun=True, restarts=training.restarts)
        self.history.validations = [row for row in self.history.validations if here.behind(row)]
        if (folder := self.folder) is not None:
            training.home.decide(lambda: cut_log(folder / "log.jsonl", here))
        training.restarts += 1
        said = restarted(training.flow, error, step=training.step, count=training.restarts)
        self.history.warnings.append(training.log.warning(training.epoch, training.step, said))

    def _agreed(self, training: Training, asked: Asked) -> bool:
        """Whether to stop; several processes ask each other only now and then, at the same step."""
        if training.home.processes == 1:
            return asked.stop
        if training.step % _FLUSH_EVERY and not training.at_end_of_epoch:
            return False
        said = torch.tensor([float(asked.stop)], device=training.home.device)
        with training.home.inside():
            return bool(training.home.mean(said) > 0)

    def _keep(self, training: Training) -> None:
        if (checkpoints := self._checkpoints) is None:
            return
        training.log.flush()
        training.check_weights()

        def write() -> None:
            checkpoints.write(training.number, training.step, save(training, self.learned, checkpoints))

        training.home.decide(write)

    def _keep_between(self, training: Training) -> None:
        """After a stage only its networks matter: the next one starts from them."""
        if (checkpoints := self._checkpoints) is None:
            return
        about = {"best": training.best, "best_files": {}, "networks": numbers_of(training, self.learned)}
        saved = Saved(networks_of(self.learned), about)
        training.home.decide(lambda: checkpoints.write(training.number + 1, 0, saved))


def _with_task(data: Data, stages: Sequence[Stage]) -> Data:
    """The data with its task, guessed from the first network that learns if the data does not say."""
    if data.task is not None:
        return data
    for node in (node for stage in stages for node in stage.graph.nodes):
        if node.network is not None and node.can_learn() and node.takes_batch:
            return task_or_none(data, node.network)
    return data


def _told(stages: Sequence[Stage], data: Data, seed: int, learned: Collection[nn.Module]) -> Any:
    """What a run is, as JSON data; the weights of what learns are left out, for they come from the checkpoint."""
    parts = {part.name: getattr(data, part.name) for part in dataclasses.fields(data) if part.name != "about"}
    return identify({"stages": list(stages), "seed": seed, "data": parts}, moving=learned)


def _learners(stages: Sequence[Stage]) -> list[nn.Module]:
    """All modules that were given and may learn, each once, in the order of the stages."""
    found: dict[int, nn.Module] = {}
    for stage in stages:
        for node in stage.graph.nodes:
            frozen = None if node.can_learn() else node.network
            found |= {id(part): part for part in node.parts if part is not frozen}
        for edge in stage.graph.edges:
            for part in (edge.bridge, edge.objective, edge.gate):
                if isinstance(part, nn.Module):
                    found[id(part)] = part
    return list(found.values())


def _say(bar: Bar, history: History, said: int) -> int:
    """Print the warnings that are new; how many there are now."""
    for row in history.warnings[said:]:
        bar.say(row["says"])
    return len(history.warnings)
