"""Are the stated times true on a busy machine?

    python benchmarks/timing/run.py            the truth, then 100 runs at each load; about 15 minutes on two cores
    python benchmarks/timing/run.py truth      the ratios that have to be measured, on a machine where nothing else runs
    python benchmarks/timing/run.py load 8     100 runs with 8 busy processes; [--runs 100]
    python benchmarks/timing/run.py show       what README.md shows

In each run all files are loaded anew and timed against each other as `deploy` times files. The true ratio of four pairs
follows from how they are made: one copy of a file is called several times, or once, for every call of the other copy.
The ratio of the last, two chains of 13 and of 2 equal layers, is measured on a free machine: the CPU time of many
rounds in ten processes. Half of the busy processes compute in their registers, the other half copy 64 MB to and fro. A
load of 0.2 is one process that is busy for a fifth of the time.

A run either states an interval for a ratio or says that the machine was busy. For comparison, the same rounds are
judged by wall times alone, as was done before, and by CPU times alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.deploy import OnnxRuntime, TorchProgram, export_onnx, export_pt2, trust_pt2
from lessen.measure import Timings, interleave, median_with_interval

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LOADS = (0, 0.2, 2, 8, 30)
# Reference, the other, how many times the work of the other is done for the reference; None: measured.
PAIRS: dict[str, tuple[str, str, float | None]] = {
    "ONNX, 6 calls against 1": ("onnx six", "onnx", 6.0),
    "ONNX, 7 longer calls against 1": ("long seven", "long", 7.0),
    "PyTorch, 4 calls against 1": ("torch four", "torch", 4.0),
    "ONNX, a second copy": ("onnx", "onnx again", 1.0),
    "ONNX, 13 layers against 2": ("chain of 13", "onnx", None),
}
SPIN = "while True: pass"
COPY = "import numpy as n\na = n.ones(8_000_000)\nb = a.copy()\nwhile True: n.copyto(a, b)"
SOMETIMES = """
import time
while True:
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end: pass
    time.sleep(0.08)
"""
Run = Callable[[], object]


def chain(layers: int, width: int) -> nn.Module:
    """A convolution and then so many equal ones."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(layers):
        parts += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts).eval()


def write(folder: Path) -> None:
    """The files that are timed."""
    inputs = torch.randn(2, 3, 32, 32)
    export_onnx(chain(2, 32), inputs, folder / "short.onnx")
    export_onnx(chain(13, 32), inputs, folder / "chain.onnx")
    export_onnx(chain(2, 64), inputs, folder / "long.onnx")
    export_pt2(chain(2, 32), inputs, folder / "short.pt2")


def loaded(folder: Path) -> dict[str, Run]:
    """Every file loaded anew, each side of a pair by itself, so that no two share their memory."""
    x = torch.randn(1, 3, 32, 32)

    def program(name: str, times: int = 1) -> Run:
        runtime = OnnxRuntime() if name.endswith(".onnx") else TorchProgram()
        one = functools.partial(runtime.load(folder / name, threads=1), x)

        def several() -> None:
            for _ in range(times):
                one()

        return several

    return {
        "onnx": program("short.onnx"),
        "onnx again": program("short.onnx"),
        "onnx six": program("short.onnx", 6),
        "long": program("long.onnx"),
        "long seven": program("long.onnx", 7),
        "torch": program("short.pt2"),
        "torch four": program("short.pt2", 4),
        "chain of 13": program("chain.onnx"),
    }


@contextmanager
def busy(load: float) -> Iterator[None]:
    """So many busy processes for a block."""
    programs = [SOMETIMES] if load == 0.2 else [(SPIN, COPY)[k % 2] for k in range(int(load))]
    started = [subprocess.Popen([sys.executable, "-c", text], start_new_session=True) for text in programs]
    try:
        time.sleep(2 if started else 0)
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def truth() -> dict[str, Any]:
    """The ratios that are not known by construction: CPU times of ten processes on a free machine."""
    found: dict[str, list[float]] = {name: [] for name, (*_, known) in PAIRS.items() if known is None}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for _ in range(10):
            command = [sys.executable, __file__, "once", folder]
            said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            if "busy" in said:
                raise SystemExit(f"The machine is busy: {said['busy']}. Run this when nothing else runs.")
            for name, ratios in found.items():
                ratios.append(said[name])
    told = {name: {"ratio": float(np.median(each)), "processes": each} for name, each in found.items()}
    return {"pairs": told, "machine": machine(), "versions": versions()}


def once(folder: Path) -> dict[str, Any]:
    """One process's share of the truth: the ratio of median CPU times over 200 rounds."""
    trust_pt2(folder / "short.pt2")  # the process that started this one has just written it
    runs = loaded(folder)
    names = {name for pair in PAIRS.values() if pair[2] is None for name in pair[:2]}
    timings = interleave({name: runs[name] for name in names}, rounds=200)
    if timings.busy is not None:
        return {"busy": timings.busy}
    return {
        pair: float(np.median(timings.cpu[one] / timings.cpu[two]))
        for pair, (one, two, known) in PAIRS.items()
        if known is None
    }


def judged(timings: Timings, one: str, two: str) -> dict[str, Any]:
    """What is stated of a pair, and what wall times and CPU times alone would have stated."""
    row: dict[str, Any] = {"stated": None if timings.busy else rounded(timings.ratio(one, two))}
    for name, times in (("wall", timings.milliseconds), ("cpu", timings.cpu)):
        if one in times and two in times:
            alone = median_with_interval(times[one] / times[two])
            row[name] = rounded((alone.value, alone.low, alone.high))
    return row


def rounded(values: tuple[float | None, ...]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]


def under(load: float, runs: int) -> dict[str, Any]:
    """So many runs at a load."""
    rows, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        with busy(load):
            for number in range(runs):
                timings = interleave(loaded(Path(folder)), seed=number)
                pairs = {name: judged(timings, one, two) for name, (one, two, _) in PAIRS.items()}
                rows.append({"conditions": timings.conditions.to_json(), "pairs": pairs})
                print(
                    f"load {load:g}, run {number + 1} of {runs}: {timings.busy or 'free'}", file=sys.stderr, flush=True
                )
    seconds = time.perf_counter() - began
    return {"load": load, "seconds": seconds, "runs": rows, "machine": machine(), "versions": versions()}


def show() -> None:
    """The table of README.md."""
    measured = json.loads((RESULTS / "truth.json").read_text())["pairs"] if (RESULTS / "truth.json").is_file() else {}
    print("| busy processes | pair | truth | refused | stated | of them inside | half width | wall alone | CPU alone |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for load in LOADS:
        path = RESULTS / f"load-{load:g}.json"
        if not path.is_file():
            continue
        rows = json.loads(path.read_text())["runs"]
        for name, (*_, known) in PAIRS.items():
            true = known if known is not None else measured.get(name, {}).get("ratio")
            if true is None:
                continue
            pairs = [row["pairs"][name] for row in rows]
            stated = [pair["stated"] for pair in pairs if pair["stated"] is not None]
            wall, cpu = (alone([pair.get(clock) for pair in pairs], true) for clock in ("wall", "cpu"))
            width = f"{np.mean([(high - low) / 2 / value for value, low, high in stated]):.1%}" if stated else ""
            print(
                f"| {load:g} | {name} | {true:.2f} | {len(pairs) - len(stated)} | {len(stated)} | "
                f"{inside(stated, true) if stated else ''} | {width} | {wall} | {cpu} |"
            )


def inside(stated: list[list[float]], true: float) -> int:
    """How many intervals hold the truth."""
    return sum(low <= true <= high for _, low, high in stated)


def alone(stated: list[list[float] | None], true: float) -> str:
    """How many intervals hold the truth, and how far the furthest value is from it."""
    given = [each for each in stated if each is not None and None not in each]
    if not given:
        return "not known"
    off = max((each[0] / true for each in given), key=lambda ratio: abs(np.log(ratio)))
    return f"{inside(given, true)} inside, up to {off:.2f} times the truth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "truth", "once", "load", "show"), default="all")
    parser.add_argument("which", nargs="?", help="the load, or the folder of the files")
    parser.add_argument("--runs", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "once":
        print(json.dumps(once(Path(asked.which))))
        return
    if asked.what in {"all", "truth"}:
        write_json(RESULTS / "truth.json", truth())
    for load in LOADS if asked.what == "all" else (float(asked.which),) if asked.what == "load" else ():
        write_json(RESULTS / f"load-{load:g}.json", under(load, asked.runs))
    show()


if __name__ == "__main__":
    main()
