"""What does one training step cost with each kind of knowledge, over the same step with plain soft targets?

    python benchmarks/knowledge/cost.py [--rounds 15] [--channels 64 256] [--only NAME ...] [--write]

A step is forward and back through a small student, forward through a teacher like it, labels and soft targets on ten
classes, and Adam on all that learns; the objective's edge comes on top. The networks are three layers of 1 x 1
convolutions with as many channels on grids of 14 x 14, which is cheap for such grids: a ratio here is more than one
will see in training. A vector is the mean of the last grid, tokens are its positions.

Each method alternates with the plain step, in an order shuffled anew each round; the figure is the median over the
rounds of the ratio within a round, with its 95 % interval. Memory is the most that a step holds at once beyond what
it held before, in MiB, by torch's own account of its allocations; it does not depend on what else the machine does.
The times mean something only on a core of their own: `--write` refuses to keep them when all cores are busy.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which is asked about memory, talks

import psutil
import torch
from torch import Tensor, nn
from trials import Variant, asked, known, objectives_of

from lessen.core import Batch, TaskFacts, decode
from lessen.core.errors import LessenError
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.core.seeds import seeded
from lessen.graph import Edge, Flow, Graph, Labels, Network, Stage
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.measure import interleave
from lessen.schemes import Tap, taps

EXAMPLES, SIDE, CLASSES, MEMORY = 128, 14, 10, 65_536 + 128
"""Examples of a step, pixels along a grid, classes, and examples in a memory: enough for 16,384 negatives."""
HERE = Path(__file__).parent
BUSY = 0.15
"""Of the core that this runs on, other processes may take so much, over a few seconds before the first step."""

# Where each place of settings.yaml is in the networks.
WHERE: Mapping[str, Any] = {
    "logits": "",
    "vector": "vector",
    "before": Tap(path="third.2", side="input"),
    "map": "third",
    "hint": "third",
    "inside": "third",
    "tokens": "third",
    "maps": taps("first", "second", "third"),
    "two_maps": taps("first", "second"),
    "vector_and_logits": taps("vector", ""),
    "queries_keys": taps("query", "key"),
    "queries_keys_values": taps("query", "key", "value"),
}


class Small(nn.Module):
    """Three grids of 14 x 14 in a row, a vector and logits, at little cost; tokens are linear maps of the last grid.

    Args:
        channels: Of every grid.
        seed: For the weights.
    """

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        with seeded(seed, "cost"):
            self.stem = nn.Conv2d(1, channels, 2, stride=2)
            self.first, self.second, self.third = (layer(channels) for _ in range(3))
            self.vector = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
            self.head = nn.Linear(channels, CLASSES)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        grid_NCHW = self.third(self.second(self.first(self.stem(images_NCHW))))
        tokens_NTC = grid_NCHW.flatten(2).transpose(1, 2)
        mixed_NTC = self.query(tokens_NTC) + self.key(tokens_NTC) + self.value(tokens_NTC)
        logits: Tensor = self.head(self.vector(grid_NCHW) + 0.0 * mixed_NTC.mean(1))
        return logits


def layer(channels: int) -> nn.Sequential:
    """A convolution that sees one position, its normalisation, and an activation."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


@dataclass
class Step:
    """One training step that can be made again and again.

    Args:
        flow: The graph made ready.
        batch: What it computes.
        optimizer: Of the student and of whatever the objective learns.
    """

    flow: Flow
    batch: Batch
    optimizer: torch.optim.Optimizer

    def __call__(self) -> None:
        self.flow(self.batch, 1.0).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.flow.forget()


def step(variant: Variant | None, objective: Any, channels: int) -> Step:
    """The plain step with an objective's edge beside; without one, the plain step.

    Raises:
        LessenError: the objective does not fit the networks.
    """
    student, teacher = Small(channels, 0), Small(channels, 1)
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="teacher", target="student", objective=SoftTargets()),
    ]
    if variant is not None:
        where = next(WHERE[place] for place in variant.at if place in WHERE)
        own: dict[str, Any] = {"objective": objective, "source_tap": where, "target_tap": where}
        if variant.teacher_free:
            own = {"objective": objective, "target_tap": where, "source": "labels"}
        if variant.bridge is not None:
            own["bridge"] = decode(variant.bridge, known())
        if "inside" in variant.at:
            own["source_tap"] = ""
        edges.append(Edge(**{"source": "teacher", "target": "student", **own}))
    nodes = [
        Labels(),
        Network(name="teacher", module=teacher, learns=False),
        Network(name="student", module=student, learns=True),
    ]
    drawn = torch.Generator().manual_seed(2)
    labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=drawn)
    batch = Batch(
        torch.randn(EXAMPLES, 1, 2 * SIDE, 2 * SIDE, generator=drawn),
        torch.randperm(MEMORY, generator=drawn)[:EXAMPLES],
        labels,
    )
    task = TaskFacts(examples=MEMORY, classes=CLASSES)
    flow = Flow(Stage(name="cost", graph=Graph(nodes=nodes, edges=edges), steps=1), batch, task=task)
    flow.set_mode(training=True)
    flow(batch, 1.0)  # an objective that prepares itself freezes what it prepared
    flow.forget()
    return Step(flow, batch, torch.optim.Adam(flow.owners["student"].parameters))


def steps(only: list[str] | None, channels: int) -> Iterator[tuple[str, Callable[[], None] | str]]:
    """Every method of settings.yaml by its name, with its first candidate: a step, or why there is none."""
    for name, variant in asked().variants.items():
        if not variant.objectives or name in {"SoftTargets", "shuffled"} or (only and name not in only):
            continue
        try:
            yield name, step(variant, objectives_of(variant)[0], channels)
        except LessenError as error:
            yield name, str(error)


def most_memory(made: Callable[[], None]) -> float:
    """The most that a step holds at once, beyond what it held before, in MiB."""
    from torch.profiler import ProfilerActivity, profile

    made()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        made()
    held = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def busy() -> float:
    """How many cores others take, over five seconds in which this program does nothing."""
    return float(psutil.cpu_percent(interval=5.0)) / 100.0 * (psutil.cpu_count() or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--only", nargs="+", help="names of settings.yaml")
    parser.add_argument("--write", action="store_true", help="keep the result in results/cost/")
    given = parser.parse_args()
    load, cores = busy(), psutil.cpu_count() or 1
    if load > cores - 1 + BUSY:
        print(
            f"All {cores} cores are busy ({load:.2f} of them): no time below is to be believed.",
            file=sys.stderr,
        )
        if given.write:
            raise SystemExit("Nothing is written without a core that is idle. Try again when there is one.")
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for channels in given.channels:
        print(f"\n{EXAMPLES} examples, {channels} channels, {SIDE} x {SIDE}")
        print(f"{'':28}{'ms':>9}{'ratio':>8}{'95 % interval':>18}{'MiB':>9}{'over':>8}")
        found[str(channels)] = dict(rows(given.only, channels, given.rounds))
    if given.write:
        now = datetime.datetime.now(datetime.UTC)
        about = {"rounds": given.rounds, "threads": 1, "load": load, "at": now.isoformat(timespec="seconds")}
        result = {"channels": found, "settings": about, "machine": machine(), "versions": versions()}
        write_json(HERE / "results" / "cost" / f"{now:%Y%m%d-%H%M%S}.json", result)


def rows(only: list[str] | None, channels: int, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row a method, timed a few at a time beside the plain step so that not all are in memory at once."""
    plain = step(None, None, channels)
    floor = most_memory(plain)
    for name, made in steps(only, channels):
        if isinstance(made, str):
            print(f"{name:28}{made}")
            yield name, {"failed": made}
            continue
        timed = interleave({"plain": plain, "own": made}, rounds=rounds)
        ratio, low, high = timed.ratio("own", "plain")
        memory, span = most_memory(made), f"{low:.2f} to {high:.2f}"
        row = {"milliseconds": timed.median("own"), "ratio": ratio, "low": low, "high": high, "memory": memory}
        told = f"{timed.median('own'):9.2f}{ratio:8.2f}{span:>18}{memory:9.1f}{memory - floor:+8.1f}"
        print(f"{name:28}{told}", flush=True)
        yield name, {**row, "plain_memory": floor}


if __name__ == "__main__":
    main()
