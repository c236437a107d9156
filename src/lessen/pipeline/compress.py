"""The whole path: a trained network goes in, a smaller file that runs comes out, with the evidence beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lessen.core.contracts import Operation
from lessen.core.data import Data
from lessen.core.errors import NetworkError, RunError
from lessen.core.files import append_line, read_lines, write_json, write_tensors, write_text
from lessen.core.record import Record
from lessen.core.seeds import derive
from lessen.core.settings import encode
from lessen.data import load as load_data
from lessen.deploy import Deploy, FileClock, Stand, deploy_stands
from lessen.engine import run as train_stages
from lessen.measure import measure
from lessen.operations.prune_weights import masks_of
from lessen.pipeline.folder import RunFolder
from lessen.pipeline.measuring import Measuring
from lessen.pipeline.preflight import preflight
from lessen.pipeline.steps import (
    Course,
    Step,
    cast_for,
    check_steps,
    context_for,
    describe_network,
    encode_steps,
    keep,
    operate,
    restore,
    title,
    with_masks,
)
from lessen.pipeline.targets import Targets
from lessen.report import summary, write_report
from lessen.schemes import Scheme
from lessen.surgery.copying import copy_network


@dataclass(frozen=True)
class Compressed:
    """What came out of a run.

    Args:
        run: The folder of the run.
        model: The network after the last step, in PyTorch, in eval mode.
        teacher: The network that came in, in eval mode.
        file: The fastest file that passed verification; None where none did.
        records: Every measurement.
        report: The page that explains it.
    """

    run: Path
    model: nn.Module
    teacher: nn.Module
    file: Path | None
    records: tuple[Record, ...]
    report: Path

    def __str__(self) -> str:
        return summary(self.records)


def compress(
    teacher: nn.Module,
    data: Any,
    *,
    steps: Sequence[Step],
    run: str | Path | None = None,
    student: nn.Module | None = None,
    train: Sequence[Scheme] = (),
    targets: Targets | None = None,
    deploy: Deploy | None = None,
    measuring: Measuring | None = None,
    seed: int = 0,
    progress: bool = True,
    asked: Mapping[str, Any] | None = None,
) -> Compressed:
    """Make a network smaller, step by step, and leave behind files that run and a report.

    Everything is checked before anything long starts and before anything is written: the data, the number of classes,
    every tap and bridge, and whether each operation can reach its target on this network.

    Args:
        teacher: The trained network; it is not changed. It is the teacher of the schemes among the steps.
        data: A `Data`, the name of a data set, a folder of images, arrays or loaders (see `lessen.data.load`).
        steps: Operations and schemes, in order.
        run: The folder to leave everything in; it must not exist yet. None: a new one below `runs/`.
        student: Another network to start from; None: a copy of the teacher.
        train: Schemes that train the teacher first, if it is not trained; it is then changed.
        targets: The budget; judged at the end.
        deploy: Which files are made, how they are verified and timed.
        measuring: How the network is measured after every step.
        seed: Of everything that is drawn.
        progress: Whether to show progress bars.
        asked: The recipe this came from, to be kept in the run; None: written from the arguments.

    Raises:
        LessenError: bad input, with a text that says what came, what was expected and what to do.
    """
    return _Path(
        teacher=teacher,
        data=load_data(data),
        steps=check_steps(steps),
        student=student,
        train=tuple(train),
        targets=targets or Targets(),
        deploy=deploy or Deploy(),
        measuring=measuring or Measuring(),
        seed=seed,
        progress=progress,
    ).start(RunFolder(run if run is not None else _new_folder(teacher)), asked)


def resume(
    run: str | Path,
    *,
    teacher: nn.Module,
    data: Any,
    steps: Sequence[Step],
    student: nn.Module | None = None,
    train: Sequence[Scheme] = (),
    targets: Targets | None = None,
    deploy: Deploy | None = None,
    measuring: Measuring | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Continue a run that was interrupted, and end with the same numbers as one that was not.

    The arguments are those of `compress`; a network need only be built the same way, its weights come from the run.

    Raises:
        RunError: the folder is not a run, another process works on it, or it was started with other steps.
    """
    return _Path(
        teacher=teacher,
        data=load_data(data),
        steps=check_steps(steps),
        student=student,
        train=tuple(train),
        targets=targets or Targets(),
        deploy=deploy or Deploy(),
        measuring=measuring or Measuring(),
        seed=seed,
        progress=progress,
    ).go_on(RunFolder(run))


@dataclass(kw_only=True)
class _Path:
    """One run, from the network that came in to the files that go out."""

    teacher: nn.Module
    data: Data
    steps: tuple[Step, ...]
    student: nn.Module | None
    train: tuple[Scheme, ...]
    targets: Targets
    deploy: Deploy
    measuring: Measuring
    seed: int
    progress: bool

    def start(self, folder: RunFolder, asked: Mapping[str, Any] | None) -> Compressed:
        if not isinstance(self.teacher, nn.Module):
            raise NetworkError(f"The teacher is a {type(self.teacher).__name__}; a torch.nn.Module was expected.")
        folder.check_free()
        preflight(
            self.teacher,
            self.student,
            self.data,
            train=self.train,
            steps=self.steps,
            seed=self.seed,
            deploy=self.deploy,
            calibration=self.measuring.calibration,
        )
        folder.create(asked if asked is not None else self._recipe())
        with folder.locked():
            write_tensors(folder.step(0) / "given.safetensors", self.teacher.state_dict())
            if self.student is not None:
                write_tensors(folder.step(0) / "student.safetensors", self.student.state_dict())
            return self._walk(folder, completed=-1, resumed=False)

    def go_on(self, folder: RunFolder) -> Compressed:
        state = folder.open()
        asked = folder.read_recipe().get("steps")
        if asked is not None and asked != encode_steps(self.steps):
            raise RunError(
                f"{folder.path} was started with other steps. Resume it with the recipe it holds, {folder.recipe}."
            )
        with folder.locked():
            from lessen.pipeline.load import load_given

            load_given(folder, self.teacher, self.student)
            return self._walk(folder, completed=int(state["completed"]), resumed=True)

    def _walk(self, folder: RunFolder, *, completed: int, resumed: bool) -> Compressed:
        course = self._teach_the_teacher(folder, completed, resumed)
        stands = [Stand(name="teacher", step=0, network=self.teacher)]
        for number, step in enumerate(self.steps, start=1):
            if number <= completed:
                origin = self.student if self.student is not None else self.teacher
                course = restore(origin, *folder.read_network(number))
            else:
                course = self._step(course, number, step, folder, resumed=resumed and number == completed + 1)
                self._measure(course.network, f"{number} {title(step)}", number, folder)
                folder.write_network(number, *keep(course))
                self._completed(folder, number)
            stands.append(
                Stand(name=f"{number} {title(step)}", step=number, network=copy_network(course.network).eval())
            )
        return self._finish(course, stands, folder)

    def _teach_the_teacher(self, folder: RunFolder, completed: int, resumed: bool) -> Course:
        if completed >= 0:
            tensors, _, _ = folder.read_network(0)
            self.teacher.load_state_dict(tensors)
        else:
            for count, scheme in enumerate(self.train):
                stages = scheme.stages(cast_for(self.teacher, self.teacher))
                where = folder.step(0) / f"training-{count}"
                train_stages(
                    stages,
                    self.data,
                    folder=where,
                    seed=derive(self.seed, "train", count),
                    resume=resumed and where.is_dir(),
                    progress=self.progress,
                )
            self._measure(self.teacher, "teacher", 0, folder)
            folder.write_network(0, dict(self.teacher.state_dict()), [], [])
            self._completed(folder, 0)
        self.teacher.eval().requires_grad_(False)
        origin = self.student if self.student is not None else self.teacher
        return Course(copy_network(origin).requires_grad_(True))

    def _step(self, course: Course, number: int, step: Step, folder: RunFolder, *, resumed: bool) -> Course:
        if isinstance(step, Operation):
            context = context_for(
                self.data,
                count=self.measuring.calibration,
                device=torch.device("cpu"),
                seed=derive(self.seed, number),
                clock=FileClock(
                    batch=self.deploy.batch_sizes[0], threads=self.deploy.threads or torch.get_num_threads()
                ),
            )
            return operate(course, step, context, number)
        where, before = folder.step(number) / "training", masks_of(course.network)
        train_stages(
            step.stages(cast_for(self.teacher, course.network)),
            self.data,
            folder=where,
            seed=derive(self.seed, "step", number),
            resume=resumed and where.is_dir(),
            progress=self.progress,
        )
        return with_masks(course, before, step, number)

    def _measure(self, network: nn.Module, subject: str, number: int, folder: RunFolder) -> None:
        """Keep the records of a step in a file of its own, so that a resumed run has each of them once."""
        rows = measure(
            network,
            self.data,
            teacher=None if number == 0 else self.teacher,
            batch_sizes=self.measuring.batch_sizes or self.deploy.batch_sizes,
            threads=self.measuring.threads or self.deploy.threads,
            repeats=self.measuring.repeats,
            subject=subject,
            step=number,
            seed=self.seed,
        )
        write_json(folder.step(number) / "records.json", [row.to_json() for row in rows])

    def _completed(self, folder: RunFolder, number: int) -> None:
        state = folder.open()
        folder.write_state({**state, "completed": number})
        self._gather(folder, number)

    def _gather(self, folder: RunFolder, last: int) -> list[Record]:
        """Write what the steps have left so far to the files at the top of the run."""
        import json

        rows: list[dict[str, Any]] = []
        lines: list[str] = []
        graphs: list[Any] = []
        for number in range(last + 1):
            where = folder.step(number)
            rows += json.loads((where / "records.json").read_text(encoding="utf-8"))
            for training in sorted(where.glob("training*")):
                first = len(graphs)
                if (training / "graph.json").is_file():
                    drawn = json.loads((training / "graph.json").read_text(encoding="utf-8"))
                    graphs += [{**graph, "stage": first + graph["stage"], "pipeline_step": number} for graph in drawn]
                for line in read_lines(training / "log.jsonl"):
                    lines.append(json.dumps({**line, "stage": first + line["stage"], "pipeline_step": number}))
        write_text(folder.records, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(folder.log, "".join(line + "\n" for line in lines))
        write_json(folder.graph, graphs)
        _, plans, layers = folder.read_network(last)
        write_json(folder.plan, plans)
        write_json(folder.layers, layers)
        return [Record.from_json(row) for row in rows]

    def _finish(self, course: Course, stands: list[Stand], folder: RunFolder) -> Compressed:
        model = course.network.eval()
        records = self._gather(folder, len(self.steps))
        write_tensors(folder.weights, model.state_dict())
        deployed = deploy_stands(stands, self.data, folder.path, settings=self.deploy, seed=self.seed)
        found = [*records, *deployed.records]
        found += self.targets.judge(found, deployed.fastest)
        for record in found[len(records) :]:
            append_line(folder.records, record.to_json())
        folder.write_state({**folder.open(), "finished": True})
        report = write_report(folder.path)
        return Compressed(
            run=folder.path,
            model=model,
            teacher=self.teacher,
            file=None if deployed.fastest is None else folder.path / deployed.fastest,
            records=tuple(found),
            report=report,
        )

    def _recipe(self) -> dict[str, Any]:
        return {
            "network": describe_network(self.teacher),
            "student": None if self.student is None else describe_network(self.student),
            "data": {"name": self.data.name, **self.data.about},
            "train": encode_steps(self.train),
            "steps": encode_steps(self.steps),
            "targets": encode(self.targets),
            "deploy": encode(self.deploy),
            "measuring": encode(self.measuring),
            "seed": self.seed,
        }


def _new_folder(teacher: nn.Module) -> Path:
    name, number = type(teacher).__name__.lower(), 1
    while (path := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return path
