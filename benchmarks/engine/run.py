"""Is the engine as fast as a loop written by hand?

    python benchmarks/engine/run.py [--tiny] [--repeats 31] [--write]

Each case is trained twice on the same data with the same settings: by the engine, with its log written to disk, and
by a plain PyTorch loop that computes the same thing and nothing else. Blocks of steps of the two alternate in one
process, and the figure is the median over the repeats of the ratio of their times, with its 95 % bootstrap interval.
The engine's side of `cached` and `cached_labels` trains on labels and cached teacher outputs. The loop by hand of
`cached` does so too; that of `cached_labels` trains on labels alone. Before anything is timed, the weights after the
same number of steps are compared (not in `cached_labels`): the two must compute the same. Times are those of the
processor, not of the wall. `--tiny` trains two linear layers of 32 features instead of residual networks (`offline`
taps a layer that they do not have, and is left out).
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, Data
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.core.seeds import generator
from lessen.engine import Course
from lessen.graph import SGD, Cache, Constant, Edge, Fit, Graph, Labels, Network, Stage
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.zoo import residual

BATCH, BLOCK, RATE, SEED = 64, 10, 0.05, 0
TINY = "--tiny" in sys.argv
ALLOWED = {"supervised": 1.05, "offline": 1.05, "mutual": 1.05, "cached": 1.05, "cached_labels": 1.15}
ALLOWED_TINY = {"supervised": 1.3, "mutual": 1.3, "cached": 1.3, "cached_labels": 1.3}
HERE = Path(__file__).parent
# The C library gives freed memory back to the system, and takes it again, whenever enough of it lies at the end of the
# heap. What lies there is luck: it made the same loop, engine or by hand, take 28 or 39 ms. So freed memory is kept.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_MMAP_THRESHOLD_": str(2**30)}


@dataclass
class Case:
    """Two ways to train: an iterator over steps each; `same` holds pairs of networks that must stay equal."""

    ours: Iterator[object]
    by_hand: Iterator[object]
    same: list[tuple[nn.Module, nn.Module]]


def make_data() -> Data:
    """Random images of the size of small digits; what is in them does not change the time of a step."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(1536, 1, 16, 16, generator=drawn), torch.randint(0, 10, (1536,), generator=drawn)
    few = ArrayExamples(x[:16], y[:16])
    return Data(train=ArrayExamples(x, y), validation=few, test=few, classes=tuple("0123456789"))


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if TINY:
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))
    return residual(width=width, depth=8, classes=10)


def engine(data: Data, folder: Path, nodes: list[object], edges: list[Edge]) -> Iterator[object]:
    """The engine as it comes, without end: its log is written, validation and checkpoints lie beyond the benchmark."""
    fit = Fit(
        batch=BATCH,
        optimizer=SGD(rate=RATE),
        schedule=Constant(),
        validate_every=10**6,
        keep_best=False,
        checkpoint_steps=10**9,
    )
    stage = Stage(name="benchmark", graph=Graph(nodes=nodes, edges=edges), epochs=10**6, fit=fit)
    return Course([stage], data, device="cpu", seed=SEED, folder=folder).steps()


def examples(data: Data, *beside: Tensor) -> Iterator[list[Tensor]]:
    """The batches in the engine's order, so that both see the same ones; also of what is known beside the labels."""
    known = [data.train.inputs, data.train.labels, *beside]
    for epoch in range(10**6):
        drawn = torch.randperm(len(data.train), generator=generator(SEED, "order", 0, epoch))
        for index in drawn.split(BATCH):
            yield [values[index] for values in known]


def move(data: Data, modules: list[list[nn.Module]], loss: Callable[..., Tensor], *beside: Tensor) -> Iterator[None]:
    """A loop written by hand: one optimizer for each list of modules."""
    parameters = [[p for module in group for p in module.parameters()] for group in modules]
    optimizers = [torch.optim.SGD(p, lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4) for p in parameters]
    for group in modules:
        for module in group:
            module.train()
    for batch in examples(data, *beside):
        loss(*batch).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield


def soft(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    ours, theirs = (student / t).log_softmax(1), (teacher / t).log_softmax(1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * t**2


def labels_to(name: str) -> Edge:
    return Edge(source="labels", target=name, objective=CrossEntropy())


def supervised(data: Data, folder: Path) -> Case:
    ours, theirs = network(16, 0), network(16, 0)
    steps = engine(data, folder, [Labels(), Network(name="s", module=ours, learns=True)], [labels_to("s")])
    return Case(steps, move(data, [[theirs]], lambda x, y: F.cross_entropy(theirs(x), y)), [(ours, theirs)])


def offline(data: Data, folder: Path) -> Case:
    """Labels, soft targets, and a hint through a learning bridge."""
    ours, theirs, teacher = network(16, 0), network(16, 0), network(32, 1).eval()
    bridge = nn.Conv2d(32, 64, 1)
    ours_bridge = copy.deepcopy(bridge)
    edges = [
        labels_to("s"),
        Edge(source="t", target="s", objective=SoftTargets(temperature=4.0)),
        Edge(source="t", target="s", objective=Hint(), source_tap="layer2", target_tap="layer2", bridge=ours_bridge),
    ]
    nodes = [Labels(), Network(name="t", module=teacher, learns=False), Network(name="s", module=ours, learns=True)]
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, given, value: seen.__setitem__(name, value)

    other = copy.deepcopy(teacher)
    theirs.layer2.register_forward_hook(keep("student"))
    other.layer2.register_forward_hook(keep("teacher"))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            taught = other(x)
        output = theirs(x)
        return (
            F.cross_entropy(output, y)
            + soft(output, taught, 4.0)
            + F.mse_loss(bridge(seen["student"]), seen["teacher"])
        )

    return Case(engine(data, folder, nodes, edges), move(data, [[theirs, bridge]], loss), [(ours, theirs)])


def mutual(data: Data, folder: Path) -> Case:
    """Two students, each with labels and the other's soft targets."""
    ours, theirs = [network(16, 0), network(16, 1)], [network(16, 0), network(16, 1)]
    edges = [labels_to("a"), labels_to("b")]
    for source, target in (("b", "a"), ("a", "b")):
        edges.append(Edge(source=source, target=target, objective=SoftTargets(temperature=1.0)))
    nodes = [Labels(), *(Network(name=n, module=m, learns=True) for n, m in zip("ab", ours, strict=True))]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        a, b = theirs[0](x), theirs[1](x)
        one = F.cross_entropy(a, y) + soft(a, b.detach(), 1.0)
        return one + F.cross_entropy(b, y) + soft(b, a.detach(), 1.0)

    pairs = list(zip(ours, theirs, strict=True))
    return Case(engine(data, folder, nodes, edges), move(data, [[theirs[0]], [theirs[1]]], loss), pairs)


def cached(data: Data, folder: Path) -> Case:
    """Labels and cached soft targets; by hand, the teacher's outputs are kept in memory, as the cache stores them."""
    ours, theirs, teacher = network(16, 0), network(16, 0), network(32, 1).eval()
    with torch.no_grad():
        kept = teacher(data.train.inputs).half()

    def loss(x: Tensor, y: Tensor, taught: Tensor) -> Tensor:
        output = theirs(x)
        return F.cross_entropy(output, y) + soft(output, taught.float(), 4.0)

    return Case(from_cache(data, folder, ours, teacher), move(data, [[theirs]], loss, kept), [(ours, theirs)])


def cached_labels(data: Data, folder: Path) -> Case:
    """Labels and cached soft targets by the engine, against labels alone by hand."""
    ours, theirs, teacher = network(16, 0), network(16, 0), network(32, 1).eval()
    plain = move(data, [[theirs]], lambda x, y: F.cross_entropy(theirs(x), y))
    return Case(from_cache(data, folder, ours, teacher), plain, [])


def from_cache(data: Data, folder: Path, student: nn.Module, teacher: nn.Module) -> Iterator[object]:
    """The engine on labels and cached soft targets."""
    nodes = [
        Labels(),
        Network(name="t", module=teacher, learns=False, cache=Cache()),
        Network(name="s", module=student, learns=True),
    ]
    edges = [labels_to("s"), Edge(source="t", target="s", objective=SoftTargets(temperature=4.0))]
    return engine(data, folder, nodes, edges)


def block(steps: Iterator[object]) -> float:
    start = time.process_time()
    for _ in range(BLOCK):
        next(steps)
    return time.process_time() - start


def measure(case: Case, repeats: int) -> dict[str, object]:
    """Ratios of the times of blocks that follow one another; who goes first alternates."""
    block(case.ours)
    block(case.by_hand)
    difference = max(
        (
            float((a - b).detach().abs().max())
            for one, two in case.same
            for a, b in zip(one.parameters(), two.parameters(), strict=True)
        ),
        default=None,
    )
    if difference is not None and difference > 1e-3:
        raise SystemExit(f"The two do not compute the same: weights differ by {difference}.")
    ours, by_hand = [], []
    for repeat in range(repeats):
        for mine in (True, False) if repeat % 2 else (False, True):
            (ours if mine else by_hand).append(block(case.ours if mine else case.by_hand))
    ratios = np.array(ours) / np.array(by_hand)
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "engine_ms": float(np.median(ours)) / BLOCK * 1000,
        "by_hand_ms": float(np.median(by_hand)) / BLOCK * 1000,
        "weight_difference": difference,
        "ratios": [round(float(ratio), 4) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--tiny", action="store_true", help="two linear layers of 32 features")
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    asked = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(1)
    data, found = make_data(), {}
    print(f"{'case':14}{'engine':>12}{'by hand':>12}{'ratio':>8}{'95 % interval':>18}{'allowed':>9}")
    allowed = ALLOWED_TINY if TINY else ALLOWED
    for make in (supervised, offline, mutual, cached, cached_labels):
        name = make.__name__
        if name not in allowed:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = found[name] = {**measure(make(data, Path(folder)), asked.repeats), "allowed": allowed[name]}
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        times = f"{row['engine_ms']:9.2f} ms{row['by_hand_ms']:9.2f} ms"
        print(f"{name:14}{times}{row['ratio']:8.3f}{interval:>18}{allowed[name]:9}", flush=True)
    if asked.write:
        now = datetime.datetime.now(datetime.UTC)
        about = {
            **ALLOCATOR,
            "batch": BATCH,
            "block": BLOCK,
            "clock": "processor",
            "tiny": TINY,
            "repeats": asked.repeats,
            "threads": 1,
            "at": now.isoformat(timespec="seconds"),
        }
        result = {"cases": found, "settings": about, "machine": machine(), "versions": versions()}
        write_json(HERE / "results" / f"{now:%Y%m%d-%H%M%S}.json", result)


if __name__ == "__main__":
    main()
