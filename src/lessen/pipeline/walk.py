"""A run on its way: the teacher, then step after step, each kept before the next begins, then the files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lessen.core.contracts import Operation
from lessen.core.files import write_tensors
from lessen.core.record import Record
from lessen.core.seeds import derive
from lessen.core.telling import duration, tell
from lessen.deploy import FileClock, StepNetwork, deploy_steps
from lessen.engine import run as train_stages
from lessen.engine.home import Alone, Home
from lessen.engine.track import Tracking
from lessen.engine.trials import KeptTrials
from lessen.graph import Stage
from lessen.measure import KeptOutputs, measure, pinned_threads
from lessen.operations.prune_weights import masks_of
from lessen.pipeline.folder import Kept, RunFolder, State
from lessen.pipeline.gather import gather, write_records
from lessen.pipeline.job import Job
from lessen.pipeline.networks import freeze, frozen_names
from lessen.pipeline.notes import warning_records
from lessen.pipeline.plans import encode_plans
from lessen.pipeline.steps import Course, Step, context_for, operate, restore, stages_of, title, with_masks
from lessen.report import told, write_report
from lessen.report.outcome import flat
from lessen.report.run import read_run
from lessen.surgery.copying import copy_network
from lessen.zoo import check_classes


@dataclass(frozen=True)
class Reached:
    """Where a run ends.

    Args:
        model: The network after the last step, in eval mode.
        file: The name of the file that is recommended, or None.
        records: Every measurement.
    """

    model: nn.Module
    file: str | None
    records: list[Record]


@dataclass(kw_only=True)
class Walk:
    """One run in its folder, which this process holds.

    Args:
        job: What is to be done.
        folder: Where.
        state: How far the run has come.
        resumed: Whether it was interrupted: the step that comes next may have been begun.
        networks: The network after each step, and the teacher.
        outputs: What the teacher said to the test split.
        measured: The records of the steps that this process has done.
        together: The processes that the run is shared by. All of them train; the main one does all else, writes, and
            tells the others, which read from the folder what it made.
    """

    job: Job
    folder: RunFolder
    state: State
    resumed: bool
    networks: list[StepNetwork] = field(default_factory=list)
    outputs: KeptOutputs = field(default_factory=KeptOutputs)
    measured: dict[int, list[Record]] = field(default_factory=dict)
    together: Home | Alone = field(default_factory=Alone)
    tracking: Tracking = field(init=False)

    def __post_init__(self) -> None:
        asked = self.job.recipe() if self.job.track else {}
        parameters = {name: value for name, value in flat(asked) if value is not None}
        name = self.folder.path.resolve().name
        self.tracking = Tracking(self.job.track, name=name, folder=self.folder.path, parameters=parameters)

    def to_the_end(self) -> Reached:
        """Do all that is left to do."""
        try:
            return self._all()
        finally:
            self.tracking.finish()

    def _all(self) -> Reached:
        self._say(f"{self.folder.path}: everything is checked, {len(self.job.steps)} steps to do")
        course = self._begin()
        for number, step in enumerate(self.job.steps, start=1):
            if number <= self.state.completed:
                course = self.restored(number)
                self._say(f"step {number} of {len(self.job.steps)}, {title(step)}: done before")
            else:
                with self._timed(f"step {number} of {len(self.job.steps)}, {title(step)}", number):
                    course = self._step(course, number, step)
            self._stand(course.network, number, f"{number} {title(step)}")
        with self._timed("files: export, verification and timing"):
            return self._finish(course)

    def reached(self) -> Reached:
        """The end of a run that is complete, read from its folder; nothing is written.

        Raises:
            RunError: a file of the run is damaged.
        """
        records = read_run(self.folder.path).records
        teacher = self.job.teacher
        teacher.load_state_dict(self.folder.read_tensors(0))
        model = self.restored(self.state.completed).network if self.state.completed else self._origin()
        teacher.eval().requires_grad_(False)
        file = next((row.file for row in records if row.figure == "recommended" and row.value), None)
        return Reached(model.eval(), file, records)

    def restored(self, number: int) -> Course:
        """The course as it was after a step that is completed."""
        return restore(self._origin(), self.folder.read_tensors(number), self.folder.read_kept(number))

    # The steps

    def _begin(self) -> Course:
        """The teacher: trained if that was asked for, and measured; and the network that the steps begin with."""
        job, teacher = self.job, self.job.teacher
        if self.state.completed >= 0:
            teacher.load_state_dict(self.folder.read_tensors(0))
        else:
            said: list[dict[str, Any]] = []
            for count, scheme in enumerate(job.train):
                where = self.folder.step(0) / f"training-{count}"
                self.tracking.prefix = (
                    f"teacher {title(scheme)}" if count == 0 else f"teacher {count + 1} {title(scheme)}"
                )
                seed = derive(job.seed, "train", count)
                said += self._train(stages_of(scheme, teacher, teacher, seed=seed), where, seed)
            with self._timed("the original network: measurement", 0):
                self.together.decide(lambda: self._keep(Course(teacher), 0, "teacher", said))
            self._completed(0)
        teacher.eval().requires_grad_(False)
        self._stand(teacher, 0, "teacher")
        return Course(self._origin())

    def _origin(self) -> nn.Module:
        """The network that the steps begin with, free to learn where it was given so."""
        name = "teacher" if self.job.student is None else "student"
        return freeze(copy_network(self.job.origin).eval(), self.state.frozen[name])

    def _step(self, course: Course, number: int, step: Step) -> Course:
        """Carry a step out and keep what it made: all processes train, and the main one alone operates."""
        made = [course]
        said: list[dict[str, Any]] = []
        if not isinstance(step, Operation):
            before = masks_of(course.network)
            seed = derive(self.job.seed, "step", number)
            stages = stages_of(step, self.job.teacher, course.network, seed=seed)
            self.tracking.prefix = f"{number} {title(step)}"
            said = self._train(stages, self.folder.step(number) / "training", seed)
            made = [with_masks(course, before, step, number)]

        def keep() -> None:
            if isinstance(step, Operation):
                made[0] = operate(course, step, self._context(number), number)
                what = f"The network after step {number} ({title(step)})"
                check_classes(made[0].network, self.job.data, what=what)
            self._keep(made[0], number, f"{number} {title(step)}", said)

        self.together.decide(keep)
        self._completed(number)
        return made[0] if self.together.main else self.restored(number)

    def _completed(self, number: int) -> None:
        self.state = self.state.advanced(completed=number)
        self.resumed = False  # the steps after this one have not begun

    def _context(self, number: int) -> Any:
        deploy, trials = self.job.deploy, KeptTrials(self.folder.trials(number))
        if trials:
            self._say(f"the search of this step goes on: {len(trials)} of its trials are stored")
        return context_for(
            self.job.data,
            count=self.job.measuring.calibration,
            device=torch.device("cpu"),
            seed=derive(self.job.seed, number),
            clock=FileClock(batch=deploy.batch_sizes[0], threads=deploy.threads or torch.get_num_threads()),
            trials=trials,
        )

    def _train(self, stages: list[Stage], where: Path, seed: int) -> list[dict[str, Any]]:
        """Run the stages of a scheme; what a person must know of how they went."""
        resume = self.resumed and where.is_dir()
        history = train_stages(
            stages,
            self.job.data,
            folder=where,
            seed=seed,
            resume=resume,
            progress=self.job.progress and self.together.main,
            device=self.job.device,
            track=self.tracking,
            on_step=self.job.on_step,
        )
        for network in (node.network for stage in stages for node in stage.graph.nodes if node.network is not None):
            network.cpu()  # everything but training is done there
        return history.warnings

    def _stand(self, network: nn.Module, number: int, name: str) -> None:
        if self.together.main:
            self.networks.append(StepNetwork(name=name, step=number, network=copy_network(network).eval()))

    def _say(self, text: str) -> None:
        if self.job.progress and self.together.main:
            tell(text)

    @contextmanager
    def _timed(self, what: str, number: int | None = None) -> Iterator[None]:
        """Say that a part of the run begins, and what came of it; `number` is that of the step it measures."""
        self._say(f"{what} ...")
        since = time.monotonic()
        yield
        found = "" if number is None or not self.together.main else told(self.measured.get(number, []))
        self._say(f"{what}: done in {duration(since)}{f', {found}' if found else ''}")

    # What is kept of them

    def _keep(self, course: Course, number: int, subject: str, said: Sequence[Mapping[str, Any]]) -> None:
        """Measure the network after a step, and write all that a resumed run needs of it.

        Args:
            course: The network, and what has been done to it.
            number: Of the step.
            subject: What the network is called.
            said: The warnings of its training.
        """
        self.measured[number] = self._measure(course.network, subject, number)
        records = [*self.measured[number], *warning_records(said, subject, number)]
        kept = Kept(
            plans=encode_plans(course.plans),
            layers=course.rows,
            records=[row.to_json() for row in records],
            frozen=frozen_names(course.network),
        )
        self.folder.write_network(number, course.network.state_dict(), kept)
        self.folder.write_state(self.state.advanced(completed=number))
        gather(self.folder, number)
        self.tracking.records(self.measured[number])

    def _measure(self, network: nn.Module, subject: str, number: int) -> list[Record]:
        job = self.job
        threads = job.measuring.threads or job.deploy.threads
        with pinned_threads(threads):
            taught = self.outputs.of(  # it changes no more, and is compared at each step
                job.teacher, job.data.test, output=job.data.output, task=job.data.task
            )
        return measure(
            network,
            job.data,
            teacher=None if number == 0 else job.teacher,
            told=taught if number == 0 else None,
            taught=None if number == 0 else taught,
            batch_sizes=job.measuring.batch_sizes or job.deploy.batch_sizes,
            threads=threads,
            repeats=job.measuring.repeats,
            subject=subject,
            step=number,
            seed=job.seed,
        )

    def _finish(self, course: Course) -> Reached:
        """Write the files and the report; the records are replaced when all of them are there."""
        job, folder, model = self.job, self.folder, course.network.eval()

        def write() -> dict[str, Any]:
            records = gather(folder, len(job.steps))
            write_tensors(folder.weights, model.state_dict())
            deployed = deploy_steps(self.networks, job.data, folder.path, settings=job.deploy, seed=job.seed)
            records += deployed.records
            records += job.targets.judge(records, deployed.recommended)
            write_records(folder, records)
            write_report(folder.path)
            self.tracking.records([record for record in records if record.file is not None])
            folder.clean()
            folder.will_forget(not job.keep_state)
            folder.write_state(self.state.advanced(finished=True))
            folder.forget_training(len(job.steps))
            return {"file": deployed.recommended, "records": [record.to_json() for record in records]}

        made = self.together.decide(write)
        return Reached(model, made["file"], [Record.from_json(row) for row in made["records"]])
