"""What does distillation from data larger than memory cost in memory and in waiting?

    python benchmarks/data/run.py [--images 5] [--array 3] [--steps 200] [--threads 1] [--write]

Makes a folder of small JPEGs and one uint8 `.npy`, of so many GB each, in a temporary folder; distils a small residual
network from each in a process of its own, with the log and the checkpoints written; and removes the files. A process
reports the most memory that it held (its own, and pages of files that are mapped) and how long its steps waited for
their batches.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lessen.core import ahead as fetching
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.data import Arrays, ImageFolder
from lessen.engine import run, training
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.schemes import offline
from lessen.zoo import residual

HERE = Path(__file__).parent
STORED, SIDE, CLASSES, BATCH = 128, 48, 10, 64
GB = 10**9
ALLOWED_BYTES, ALLOWED_WAIT = 1.5 * 2**30, 0.10


def pictures(count: int) -> Iterator[bytes]:
    """JPEGs of coarse and fine noise, about 8 kB each: no two alike, none that compresses to nothing."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = np.kron(rng.integers(0, 200, (STORED // 8, STORED // 8, 3)), np.ones((8, 8, 1)))
        pixels = (coarse + rng.integers(0, 55, (STORED, STORED, 3))).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        yield stream.getvalue()


def write_images(folder: Path, size: int) -> int:
    """Files of `size` bytes together; each picture comes again under other names, with a number behind its end."""
    known, written, count = list(pictures(2000)), 0, 0
    for name in range(CLASSES):
        (folder / f"class{name}").mkdir(parents=True)
    while written < size:
        content = known[count % len(known)] + count.to_bytes(8, "little")
        with open(folder / f"class{count % CLASSES}" / f"{count:08}.jpg", "wb") as stream:
            stream.write(content)
        written += len(content)
        count += 1
    return count


def write_array(folder: Path, size: int) -> int:
    """A uint8 array of shape (N, 3, SIDE, SIDE), written in blocks, and its labels."""
    folder.mkdir()
    count, block = size // (3 * SIDE * SIDE), 4096
    rng = np.random.default_rng(0)
    with (folder / "x.npy").open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, SIDE, SIDE)}
        np.lib.format.write_array_header_1_0(stream, header)
        for first in range(0, count, block):
            stream.write(rng.bytes(min(block, count - first) * 3 * SIDE * SIDE))
    np.save(folder / "y.npy", np.arange(count) % CLASSES)
    return count


class Memory(threading.Thread):
    """Looks at the memory of this process every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most: dict[str, int] = {}
        self.start()

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(0.01)

    def look(self) -> dict[str, int]:
        found = {}
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in {"VmHWM", "VmRSS", "RssAnon", "RssFile"}:
                found[name] = int(value.split()[0]) * 1024
                self.most[name] = max(self.most.get(name, 0), found[name])
        return found


class Clock:
    """Wall and processor seconds of steps, of waiting for batches, and of fetching them."""

    def __init__(self) -> None:
        self.seconds = {"step": 0.0, "wait": 0.0, "fetch_cpu": 0.0, "all_cpu": 0.0}
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def install(self) -> None:
        fetch, ahead, advance = fetching._Fetch.__call__, training.ahead, training.Training.advance

        def timed_fetch(one: Any, part: Any) -> Any:
            start = time.thread_time()
            try:
                return fetch(one, part)
            finally:
                with self._lock:
                    self.seconds["fetch_cpu"] += time.thread_time() - start

        def timed_ahead(examples: Any, parts: Any) -> Any:
            batches = ahead(examples, parts)
            try:
                while True:
                    start = time.perf_counter()
                    batch = next(batches, None)
                    self.waits.append(time.perf_counter() - start)
                    if batch is None:
                        return
                    yield batch
            finally:
                batches.close()

        def timed_advance(one: Any) -> None:
            start, cpu = time.perf_counter(), time.process_time()
            advance(one)
            self.seconds["step"] += time.perf_counter() - start
            self.seconds["all_cpu"] += time.process_time() - cpu

        fetching._Fetch.__call__ = timed_fetch  # type: ignore[method-assign]
        training.ahead = timed_ahead
        training.Training.advance = timed_advance  # type: ignore[method-assign]


def distil(kind: str, folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """One run, in this process; what it took."""
    torch.set_num_threads(threads)
    memory, clock = Memory(), Clock()
    before = memory.look()
    start, cpu = time.perf_counter(), time.process_time()
    few: dict[str, Any] = {"validation": 0.002, "test": 0.002}
    if kind == "images":
        data = ImageFolder(folder=folder, size=(SIDE, SIDE), **few).load()
    else:
        data = Arrays(file=folder / "x.npy", labels=folder / "y.npy", **few).load()
    loaded = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, **memory.look()}
    clock.install()
    torch.manual_seed(0)
    teacher = residual(width=32, depth=8, channels=3).eval()
    student = residual(width=16, depth=8, channels=3)
    stages = offline(SoftTargets(temperature=4.0), steps=steps, fit=Fit(batch=BATCH))
    with tempfile.TemporaryDirectory() as runs:
        start = time.perf_counter()
        cast = {"teacher": teacher, "student": student}
        run(stages.stages(cast), data, folder=Path(runs) / "run", progress=False, device="cpu")
        whole = time.perf_counter() - start
    memory.look()
    seconds = clock.seconds | {"wait": sum(clock.waits)}
    return {
        "kind": kind,
        "examples": sum(map(len, (data.train, data.validation, data.test))),
        "memory_before": before,
        "loaded": loaded,
        "most_memory": memory.most,
        "run_seconds": whole,
        "seconds": seconds,
        "first_wait": clock.waits[0],
        "wait_share": seconds["wait"] / seconds["step"],
        "fetch_cpu_share": seconds["fetch_cpu"] / seconds["all_cpu"],
        "load_average": os.getloadavg(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=5, help="GB of JPEGs; 0 leaves them out")
    parser.add_argument("--array", type=float, default=3, help="GB of the .npy; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--scratch", type=Path, default=None, help="where the files are made")
    parser.add_argument("--write", action="store_true", help="write results/DATE.json")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(distil(asked.child[0], Path(asked.child[1]), asked.steps, asked.threads)))
        return 0
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=asked.scratch, prefix="lessen-data-") as scratch:
        for kind, size, make in (("images", asked.images, write_images), ("array", asked.array, write_array)):
            if not size:
                continue
            start = time.perf_counter()
            count = make(Path(scratch) / kind, int(size * GB))
            print(f"{kind}: {count} examples of {size} GB made in {time.perf_counter() - start:.0f} s", flush=True)
            command = [sys.executable, __file__, "--child", kind, str(Path(scratch) / kind)]
            command += ["--steps", str(asked.steps), "--threads", str(asked.threads)]
            made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            one = json.loads(made.stdout) | {"gigabytes": size}
            found.append(one)
            memory = {name: round(value / 2**20) for name, value in one["most_memory"].items()}
            print(f"  most MiB {memory}, loaded in {one['loaded']['seconds']:.1f} s")
            share = f"{one['wait_share']:.2%} of the step, fetching {one['fetch_cpu_share']:.2%} of its CPU time"
            print(f"  wait {share}", flush=True)
        if asked.write:
            now = datetime.datetime.now(datetime.UTC)
            settings = {"steps": asked.steps, "threads": asked.threads, "batch": BATCH, "side": SIDE, "stored": STORED}
            result = {"runs": found, "settings": settings, "machine": machine(), "versions": versions()}
            write_json(HERE / "results" / f"{now:%Y%m%d-%H%M%S}.json", result)
    good = all(one["most_memory"]["VmHWM"] <= ALLOWED_BYTES and one["wait_share"] <= ALLOWED_WAIT for one in found)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
