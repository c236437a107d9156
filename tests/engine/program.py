"""A program that trains with everything that must survive a kill; `test_run_resume.py` runs, kills and resumes it.

Usage: program.py train FOLDER [KILL_AT] | parts FILE | agree FOLDER [RUNS]
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from lessen.core import ArrayExamples, Data, settings
from lessen.core.errors import RunError
from lessen.core.files import write_tensors
from lessen.engine import Course
from lessen.graph import (
    SGD,
    AdamW,
    Average,
    Cache,
    Edge,
    Fit,
    Graph,
    Labels,
    LastStep,
    LinearWarmup,
    MovingAverage,
    Network,
    Snapshot,
    Stage,
)
from lessen.knowledge import CrossEntropy, Hint, SoftTargets, WidthBridge


@settings
class Noise:
    """A random view: every number is scaled by its own draw."""

    draws: int = 1

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs * (0.9 + 0.2 * uniforms_NK)


@settings
class AsIs:
    """A fixed view."""

    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs


def make_data(count: int = 96, *, augment: bool = True) -> Data:
    """Random vectors whose label is a linear function of them."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(count + 64, 8, generator=drawn)
    y = (x @ torch.randn(8, 4, generator=drawn)).argmax(1)

    def part(low: int, high: int) -> ArrayExamples:
        return ArrayExamples(x[low:high], y[low:high])

    return Data(
        train=part(0, count),
        validation=part(count, count + 32),
        test=part(count + 32, count + 64),
        classes=tuple("abcd"),
        augment=Noise() if augment else None,
    )


def make_network(hidden: int, seed: int, *, noisy: bool = True) -> nn.Sequential:
    """Two layers; `noisy` puts batch norm and dropout between them."""
    torch.manual_seed(seed)
    middle: list[nn.Module] = [nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Dropout(0.3)] if noisy else [nn.ReLU()]
    return nn.Sequential(nn.Linear(8, hidden), *middle, nn.Linear(hidden, 4))


def make_stages(folder: Path, student: nn.Module) -> list[Stage]:
    """Two stages: offline with a bridge, a cache, a schedule and a moving average; then a snapshot of the last step."""
    teacher = make_network(16, 1)
    fit = Fit(batch=16, optimizer=AdamW(rate=0.01), checkpoint_steps=4, clip=1.0)
    first = Graph(
        nodes=[
            Labels(),
            Network(name="teacher", module=teacher, learns=False, view=AsIs(), cache=Cache(folder=folder / "cache")),
            Network(name="student", module=student, learns=True),
            Snapshot(name="average", of="student", when=MovingAverage(decay=0.9)),
        ],
        edges=[
            Edge(source="labels", target="student", objective=CrossEntropy()),
            Edge(source="teacher", target="student", objective=SoftTargets(), schedule=LinearWarmup()),
            Edge(
                source="teacher",
                target="student",
                objective=Hint(),
                source_tap="1",
                target_tap="1",
                bridge=WidthBridge(),
            ),
            Edge(source="average", target="student", objective=SoftTargets(), weight=0.5),
        ],
    )
    second = Graph(
        nodes=[
            Labels(),
            Network(name="student", module=student, learns=True, optimizer=SGD(rate=0.02)),
            Snapshot(name="past", of="student", when=LastStep()),
        ],
        edges=[
            Edge(source="labels", target="student", objective=CrossEntropy()),
            Edge(source="past", target="student", objective=SoftTargets(), weight=0.5),
        ],
    )
    return [
        Stage(name="offline", graph=first, epochs=3, fit=fit),
        Stage(name="snapshot", graph=second, steps=9, fit=Fit(batch=16)),
    ]


def train(folder: Path, kill_at: int | None = None) -> nn.Module:
    """Train, or go on; kill this process without warning after some steps."""
    student = make_network(8, 2)
    course = Course(make_stages(folder, student), make_data(), folder=folder, device="cpu", resume=True)
    for count, _ in enumerate(course.steps(), start=1):
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    write_tensors(folder / "final.safetensors", student.state_dict())
    return student


def parts(file: Path) -> None:
    """Twenty steps with mutual edges and a learning bridge, in as many processes as there are; the main one writes.

    The losses are those of the log: means over all processes.
    """
    one, two = make_network(8, 2, noisy=False), make_network(12, 3, noisy=False)
    graph = Graph(
        nodes=[
            Labels(),
            Network(name="one", module=one, learns=True),
            Network(name="two", module=two, learns=True, optimizer=AdamW(rate=0.01)),
        ],
        edges=[
            Edge(source="labels", target="one", objective=CrossEntropy()),
            Edge(source="labels", target="two", objective=CrossEntropy()),
            Edge(source="two", target="one", objective=SoftTargets(temperature=1.0)),
            Edge(source="one", target="two", objective=SoftTargets(temperature=1.0)),
            Edge(source="two", target="one", objective=Hint(), source_tap="1", target_tap="1", bridge=WidthBridge()),
        ],
    )
    stage = Stage(name="mutual", graph=graph, steps=20, fit=Fit(batch=32, keep_best=False))
    course = Course([stage], make_data(), folder=file.parent / "run", device="cpu", resume=True)
    finish(course, file, one, two)


def norm(file: Path) -> None:
    """Ten steps of a network with batch norm, synchronised in one file and not in the other."""
    for synchronised in (True, False):
        torch.manual_seed(4)
        network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        graph = Graph(
            nodes=[Labels(), Network(name="s", module=network, learns=True)],
            edges=[Edge(source="labels", target="s", objective=CrossEntropy())],
        )
        fit = Fit(batch=32, keep_best=False, sync_batchnorm=synchronised)
        course = Course([Stage(name="norm", graph=graph, steps=10, fit=fit)], make_data(augment=False), device="cpu")
        finish(course, file.with_suffix(f".{synchronised}.safetensors"), network)
    if torch.distributed.is_initialized():
        # Leave together: a peer that is already gone makes gloo's threads abort this process.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def agree(folder: Path, runs: int) -> None:
    """Runs with batch norm, patience and the best epoch kept; each process says how it ended.

    The processes are given folders, seeds and first weights of their own, and no device: those of the main one count.
    """
    from lessen.engine import run
    from lessen.surgery.digest import digest

    rank, told = int(os.environ.get("RANK", "0")), []
    for number in range(runs):
        network = make_network(6, 10 * number + rank)
        graph = Graph(
            nodes=[
                Labels(),
                Network(name="s", module=network, learns=True),
                Snapshot(name="average", of="s", when=MovingAverage(decay=0.5)),
            ],
            edges=[
                Edge(source="labels", target="s", objective=CrossEntropy()),
                Edge(source="average", target="s", objective=SoftTargets()),
            ],
        )
        average = Average(decay=0.5) if number % 2 else None
        fit = Fit(batch=16, patience=1, optimizer=SGD(rate=0.3), average=average)
        stage = Stage(name="agree", graph=graph, epochs=12, fit=fit)
        history = run([stage], make_data(), folder=folder / f"run-{number}-{rank}", seed=number + rank, progress=False)
        told.append([digest(network), history.steps, history.best("s")])
    try:  # the folder of the main process holds a run, that of the other none
        run([stage], make_data(), folder=folder / f"run-0-{rank}", progress=False)
    except RunError as error:
        told.append(str(error))
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))


def finish(course: Course, file: Path, *networks: nn.Module) -> None:
    """Make all steps, then let the main process write the networks."""
    rank = 0
    for training in course.steps():
        rank = training.home.rank
    if rank == 0:
        write_tensors(file, {f"{i}.{k}": v for i, m in enumerate(networks) for k, v in m.state_dict().items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, where = sys.argv[1], Path(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else None
    if what == "train":
        train(where, count)
    elif what == "agree":
        agree(where, count or 20)
    else:
        agree(where.parent, 2)
        parts(where)
        norm(where)
