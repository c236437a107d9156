"""Kill a run with -9, over and over, and see whether it ends as one that was left alone.

    OMP_NUM_THREADS=1 python -m tests.hostile.kills                     # one run, at every kind of write
    OMP_NUM_THREADS=1 python -m tests.hostile.kills --full              # and one whose disk is full at each of them
    OMP_NUM_THREADS=1 python -m tests.hostile.kills --each --kills 200  # a run for each kind, and 200 random moments
    OMP_NUM_THREADS=1 python -m tests.hostile.kills --deploy --each     # the same while files are exported

With `--deploy`, each attempt continues a copy of a run that has everything but its files, and is killed at the kinds of
writes that only the export makes.

One process imports everything and forks a child for each attempt, so that an attempt costs what the run costs. After
each kill the run is taken up as its owner would: resumed where it is a run already, started again where it is not.
Then weights, plans, layers, graphs, log (without seconds) and all figures that no clock decides must be those of the
run that was left alone, to the bit, and no half-written file may be left.
"""

from __future__ import annotations

import argparse
import collections
import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil
import torch
from torch import nn

import lessen
from lessen.core import Card, Context, Plan, settings
from lessen.core.errors import LessenError
from lessen.core.files import writing
from lessen.deploy import Deploy, OnnxRuntime
from lessen.graph import Cache, Fit, Gradual
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights, QuantizeWeights
from lessen.pipeline import Measuring, RunFolder
from lessen.schemes import offline, supervised
from lessen.testing.tasks import clusters, perceptron

TIMED, UNITS = {"speedup", "recommended"}, {"ms", "examples/s"}
"""Figures, and units of figures, that a clock decides: they differ between any two runs."""
FAILED, STUCK = 3, 4


@settings
class PruneBySearch:
    """Prune to the share at which the network loses least: a search that forks bear, with no export in it."""

    shares: tuple[float, ...] = (0.7, 0.75, 0.8)

    card: ClassVar[Card] = PruneWeights.card

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The plan of the best share."""

        @torch.no_grad()
        def loss(share: float) -> float:
            pruned = PruneWeights(keep=share).plan(model, context).apply(model)
            batch = context.calibration[0]
            return float(context.losses(pruned(batch.inputs), batch.labels).mean())

        best = min(self.shares, key=lambda share: context.judge(share, lambda: loss(share)))
        return PruneWeights(keep=best).plan(model, context)

    @classmethod
    def neutral(cls) -> PruneBySearch:
        return cls(shares=(1.0,))


def arguments(*, deploy: bool) -> dict[str, Any]:
    """A job that writes every kind of file: a teacher's training, a search, moving masks, a cache, best states."""
    fit = Fit(batch=16, keep_best=True, checkpoint_steps=3)
    return {
        "teacher": perceptron(8, seed=0),
        "student": perceptron(8, seed=1),
        "data": clusters(train=48, other=16),
        "train": [supervised(epochs=1, fit=fit)],
        "steps": [
            PruneBySearch(),
            offline(
                SoftTargets(temperature=4.0), epochs=2, fit=Fit(batch=16, sparsify=Gradual(keep=0.5)), cache=Cache()
            ),
            QuantizeWeights(bits=4),
        ],
        "deploy": Deploy(runtimes=(OnnxRuntime(),) if deploy else (), rounds=6, every_step=False),
        "measuring": Measuring(repeats=6, calibration=32),
        "progress": False,
    }


def attempt(folder: Path, *, deploy: bool) -> None:
    """Start a run, or continue it, as its owner would after looking into the folder."""
    if RunFolder(folder).state.exists():
        lessen.resume(folder, **arguments(deploy=deploy))
    else:
        lessen.compress(run=folder, **arguments(deploy=deploy))


# What a run leaves


def result(folder: Path) -> dict[str, Any]:
    """All that must be the same, however often the run was killed."""
    run = RunFolder(folder)
    files = [run.weights, run.plan, run.layers, run.graph]
    files += sorted(run.checkpoints.glob("step-*/network.safetensors"))
    log = [json.loads(line) for line in run.log.read_text().splitlines()]
    records = [json.loads(line) for line in run.records.read_text().splitlines()]
    return {
        "files": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "log": [{name: value for name, value in row.items() if name != "seconds"} for row in log],
        "records": [
            [row[name] for name in ("subject", "figure", "value", "low", "high", "step", "file")]
            for row in records
            if row["figure"] not in TIMED and row["unit"] not in UNITS
        ],
        "finished": run.open().finished,
        "left behind": sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock"),
    }


# Where to kill


@dataclass
class Watch:
    """Everything that a run does to the disk, each an event; at one of them the process is killed.

    Args:
        spared: Die at the first event of a kind that is not among these; None for not.
        last: Where the kind of the event is written before dying.
        full: Do not die: the disk is full at this moment.
        seen: The kinds of the events so far.
    """

    spared: frozenset[str] | None = None
    last: Path | None = None
    full: bool = False
    seen: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Look at all calls of this process from now on."""
        self._around(tempfile, "mkstemp", lambda given, made: made[1], when="begun")
        self._around(os, "fsync", lambda given, made: os.readlink(f"/proc/self/fd/{given[0]}"), when="half", cut=True)
        self._around(Path, "replace", lambda given, made: str(given[1]), when="in its place")
        self._around(Path, "mkdir", lambda given, made: str(given[0]), when="made")
        import lessen.core.files
        import lessen.engine.log

        self._append(lessen.engine.log)

    def _around(self, owner: Any, name: str, path: Callable[..., str], *, when: str, cut: bool = False) -> None:
        real = getattr(owner, name)

        def watched(*given: Any, **more: Any) -> Any:
            made = real(*given, **more)
            where = path(given, made)
            if Path(where).is_file() or not cut:
                self.event(f"{when}: {_kind(where)}", given[0] if cut else None)
            return made

        setattr(owner, name, watched)

    def _append(self, module: Any) -> None:
        real = module.append_text

        def watched(path: Path, content: str) -> None:
            if self.event(f"half: {_kind(str(path))}", None, die=False):
                real(path, content[: len(content) // 2])
                with writing(path):
                    self._strike(path)
            real(path, content)
            if not self.full:
                self.event(f"appended: {_kind(str(path))}", None)

        module.append_text = watched

    def event(self, kind: str, descriptor: int | None, *, die: bool = True) -> bool:
        """Count an event, and die where it is the one."""
        self.seen.append(kind)
        if self.spared is None or kind in self.spared:
            return False
        if self.last is not None:
            os.write(os.open(self.last, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), kind.encode())
        if descriptor is not None:
            os.truncate(f"/proc/self/fd/{descriptor}", os.fstat(descriptor).st_size // 2)
        if die:
            self._strike(kind)
        return True

    def _strike(self, what: object) -> None:
        if self.full:
            self.spared = frozenset({*(self.spared or ()), *self.seen})  # the way out may write as well
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(what))
        os.kill(os.getpid(), signal.SIGKILL)


def _kind(path: str) -> str:
    """The name of a file with the name of its folder, without what is drawn at random or counted."""
    names = [re.sub(r"^\.(.*)\.[a-z0-9_]{8}\.part$", r"\1", name) for name in Path(path).parts[-2:]]
    names = [re.sub(r"^(lessen|run|kills)-.*", r"\1", name.replace("alone", "run")) for name in names]
    return re.sub(r"[0-9a-f]{12}|\d+", "#", "/".join(names))


# Attempts


def forked(work: Callable[[], None], log: Path) -> int:
    """Do something in a child; its process number. A LessenError is exit code 4, any other error 3."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        work()
    except LessenError:
        traceback.print_exc()
        code = STUCK
    except BaseException:  # noqa: BLE001  (this is the end of the child)
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def left(child: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(child: int, seconds: float) -> int:
    """Kill a child when it has used so much processor time; its exit code."""
    process = psutil.Process(child)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        used = process.cpu_times()
        if used.user + used.system >= seconds:
            os.kill(child, signal.SIGKILL)
            return left(child)
        time.sleep(0.003)


@dataclass
class Tally:
    """What was seen."""

    runs: int = 0
    kills: int = 0
    bad: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))


class Trial:
    """One job, and what it leaves when nobody kills it.

    Args:
        place: An empty folder.
        deploy: Whether files are exported, too.
    """

    def __init__(self, place: Path, *, deploy: bool) -> None:
        self.place, self.deploy, self.tally = place, deploy, Tally()
        watch = Watch()

        def alone() -> None:
            watch.install()
            attempt(place / "alone", deploy=deploy)
            (place / "events.json").write_text(json.dumps(watch.seen))

        self.seconds = self._seconds(alone)
        self.events: list[str] = json.loads((place / "events.json").read_text())
        self.expected = result(place / "alone")
        assert self.expected["finished"]
        assert self.expected["left behind"] == []
        self.spared: frozenset[str] = frozenset()
        """The kinds of events that are not tried."""
        self.base: Path | None = None
        """The run that attempts begin with."""
        if deploy:
            self._leave_only_the_export()
        self.kinds = [kind for kind in dict.fromkeys(self.events) if kind not in self.spared]
        """The kinds of events that are tried."""

    def _leave_only_the_export(self) -> None:
        without, base, whole = (self.place / f"run-{name}" for name in ("without", "base", "whole"))
        watch = Watch()

        def plain() -> None:
            watch.install()
            attempt(without, deploy=False)
            (self.place / "plain.json").write_text(json.dumps(watch.seen))

        def die() -> None:
            Watch(spared=self.spared).install()
            attempt(base, deploy=True)

        self._seconds(plain)
        self.spared = frozenset(json.loads((self.place / "plain.json").read_text()))
        assert left(forked(die, self.place / "alone.txt")) == -signal.SIGKILL
        self.base = base
        shutil.copytree(base, whole)
        self.seconds = self._seconds(lambda: attempt(whole, deploy=True))

    def _seconds(self, work: Callable[[], None]) -> float:
        """Do something in a child that must succeed; its seconds of processor time."""
        began = psutil.Process().cpu_times()
        if left(forked(work, self.place / "alone.txt")):
            raise SystemExit((self.place / "alone.txt").read_text())
        ended = psutil.Process().cpu_times()
        return ended.children_user + ended.children_system - began.children_user - began.children_system

    def _begin(self, folder: Path) -> None:
        self.tally.runs += 1
        if self.base is not None:
            shutil.copytree(self.base, folder)

    def at_every_kind_in_one_run(self, *, full: bool = False) -> None:
        """Kill one run again and again: each time at the first event of a kind at which it was not killed before.

        Args:
            full: Do not kill: let the disk be full at this moment, which must be one error.
        """
        folder, log, last = self.place / "run-chain", self.place / "chain.txt", self.place / "kind.txt"
        expected = STUCK if full else -signal.SIGKILL
        spared = set(self.spared)
        self._begin(folder)
        while True:

            def die() -> None:
                Watch(spared=frozenset(spared), last=last, full=full).install()
                attempt(folder, deploy=self.deploy)

            code = left(forked(die, log))
            if code != expected or last.read_text() in spared:
                break
            self.tally.kills += 1
            spared.add(last.read_text())
        missed = {kind for kind in self.kinds if not (full and kind.startswith("appended"))} - spared
        self._judge(f"after {len(spared - self.spared)} times, the last at {last.read_text()}", code, folder, log)
        if missed:
            self.tally.bad["never reached"].append(", ".join(sorted(missed)))

    def at_each_kind(self) -> None:
        """Kill a run of its own at the first event of each kind."""
        for kind in self.kinds:
            others = frozenset(self.events) - {kind}

            def die(folder: Path, others: frozenset[str] = others) -> None:
                Watch(spared=others).install()
                attempt(folder, deploy=self.deploy)

            self._one(kind, lambda folder, log, die=die: left(forked(lambda: die(folder), log)), kills=1)

    def at_random(self, kills: int, seed: int) -> None:
        """Kill at random moments, every third run twice or three times."""
        dice = random.Random(seed)
        while self.tally.kills < kills:
            moments = [dice.uniform(0, self.seconds) for _ in range(dice.choice((1, 1, 1, 1, 2, 3)))]

            def die(folder: Path, log: Path, moments: list[float] = moments) -> int:
                return killed_at(forked(lambda: attempt(folder, deploy=self.deploy), log), moments.pop())

            self._one(f"at {moments}", die, kills=len(moments))

    def _one(self, what: str, die: Callable[[Path, Path], int], *, kills: int) -> None:
        folder, log = self.place / f"run-{self.tally.runs + 1}", self.place / f"run-{self.tally.runs + 1}.txt"
        self._begin(folder)
        for _ in range(kills):
            code = die(folder, log)
            if code == -signal.SIGKILL:
                self.tally.kills += 1
            elif code:
                self.tally.bad["stuck"].append(f"{what}: {_last(log)}")
                return
        self._judge(what, left(forked(lambda: attempt(folder, deploy=self.deploy), log)), folder, log)

    def _judge(self, what: str, code: int, folder: Path, log: Path) -> None:
        if code:
            self.tally.bad["stuck"].append(f"{what}: {_last(log)}")
            return
        found = result(folder)
        for name, value in self.expected.items():
            if found[name] != value:
                self.tally.bad["left behind" if name == "left behind" else "different"].append(
                    f"{what}: {name}: {_first(value, found[name])}"
                )
        shutil.rmtree(folder)


def _last(log: Path) -> str:
    return (log.read_text().strip().splitlines() or ["nothing was said"])[-1]


def _first(one: Any, other: Any) -> str:
    """The first place where two results differ."""
    pairs = zip(one.items(), other.items(), strict=False) if isinstance(one, dict) else zip(one, other, strict=False)
    return next((f"{left} and {right}" for left, right in pairs if left != right), f"{len(one)} and {len(other)}")


def main() -> int:
    """Run it, say what was seen; 0 where all is right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", action="store_true", help="kill a run of its own at each kind of write, too")
    parser.add_argument("--full", action="store_true", help="let the disk be full at every kind of write, too")
    parser.add_argument("--kills", type=int, default=0, help="kill at so many random moments, too")
    parser.add_argument("--deploy", action="store_true", help="kill while an ONNX file is exported")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        # Imports what every run needs, and fills the caches of torch, before the children are made.
        lessen.compress(run=Path(place) / "warm", **arguments(deploy=told.deploy))
        trial = Trial(Path(place), deploy=told.deploy)
        tally = trial.tally
        trial.at_every_kind_in_one_run()
        if told.full:
            trial.at_every_kind_in_one_run(full=True)
        if told.each:
            trial.at_each_kind()
        points = tally.kills
        trial.at_random(points + told.kills, told.seed)
        used = psutil.Process().cpu_times()
        print(
            f"{tally.runs} runs stopped {tally.kills} times, {points} of them at {len(trial.kinds)} kinds of "
            f"writes: {len(tally.bad['stuck'])} stuck, {len(tally.bad['different'])} different, "
            f"{len(tally.bad['left behind'])} with files left behind; {used.children_user + used.user:.0f} s of "
            "processor time"
        )
        for name, cases in tally.bad.items():
            for case in cases:
                print(f"{name}: {case}")
        return int(any(tally.bad.values()))


if __name__ == "__main__":
    sys.exit(main())
