"""How does the cost of each part grow with depth, and what do real networks cost? See README.md.

    python benchmarks/growth/run.py [--only NETWORK ...] [--jobs JOB ...] [--again] [--limit 1800] [--repeats 1]
    PYTHONPATH=/where/the/peers/are python benchmarks/growth/run.py --peers
    python benchmarks/growth/run.py --table

Each measurement has a process of its own and one thread. What has a result is skipped; a result is written as soon as
it is there, so the program may be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from jobs import JOBS, PEERS
from networks import DEPTHS, FIT, REAL, SUBJECTS, residual_name

from lessen.core.files import write_json
from lessen.core.machine import machine, versions

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BEGIN, END = "<!-- tables: python benchmarks/growth/run.py --table -->", "<!-- end -->"
ALLOWED = 1.15
"""The largest exponent in depth of what is ours."""


def settle(name: str, job: str, *, limit: float, repeats: int) -> dict[str, Any]:
    """The measurement with the least CPU seconds of so many, or why there is none."""
    found: list[dict[str, Any]] = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, str(HERE / "jobs.py"), name, job],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (round(limit), round(limit))),
        )
        if done.returncode == 0:
            found.append(json.loads(done.stdout.splitlines()[-1]))
            continue
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if "Error" in line or "Exception" in line] or lines
        stopped = done.returncode in {-9, -24}
        return {"error": f"stopped after {limit:.0f} CPU seconds" if stopped else (said or ["no word"])[-1][:300]}
    return {**min(found, key=lambda one: one["cpu_seconds"]), "repeats": repeats}


def facts(name: str) -> dict[str, Any]:
    """How large a network is."""
    from torch import nn

    network = SUBJECTS[name].make()
    layers = sum(isinstance(module, nn.modules.conv._ConvNd | nn.Linear) for module in network.modules())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"name": name, "layers": layers, "parameters": parameters, "shape": SUBJECTS[name].shape}


def main() -> None:
    """Measure what has no result yet, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, *PEERS])
    parser.add_argument("--peers", action="store_true", help="measure the peers instead of lessen")
    parser.add_argument("--again", action="store_true", help="measure again what has a result")
    parser.add_argument("--limit", type=float, default=1800, help="CPU seconds for one process")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the tables and write them into README.md")
    asked = parser.parse_args()
    if asked.table:
        page = HERE / "README.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        made = BEGIN + "\n\n" + "\n\n".join(tables()) + "\n\n"
        page.write_text(before + made + END + rest.partition(END)[2], encoding="utf-8")
        print(made)
        return
    jobs = asked.jobs or list(PEERS if asked.peers else JOBS)
    for name in asked.only:
        file = RESULTS / f"{name}.json"
        result = read(name) or facts(name) | {"jobs": {}}
        for job in jobs:
            if job in result["jobs"] and not asked.again:
                continue
            made = settle(name, job, limit=asked.limit, repeats=asked.repeats)
            result["jobs"][job] = made | {"machine": machine(), "versions": versions()}
            write_json(file, result)
            shown = made.get("error") or f"{made['cpu_seconds']:.2f} s, {made['peak_mib']:.0f} MiB"
            print(f"{name} {job}: {shown}", flush=True)


def read(name: str) -> dict[str, Any] | None:
    """What is known of a network."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def tables() -> list[str]:
    """CPU seconds by depth with exponents; then CPU seconds and peak memory of the real networks."""
    found = {name: result for name in SUBJECTS if (result := read(name)) is not None}
    deep = {depth: found[residual_name(depth)] for depth in DEPTHS if residual_name(depth) in found}
    jobs = [job for job in (*JOBS, *PEERS) if any(job in result["jobs"] for result in found.values())]
    rows = [["CPU seconds", *map(str, deep), f"exponent, {FIT[0]} to {FIT[1]}"]]
    rows += [[job, *(_cell(result, job, _seconds) for result in deep.values()), _exponent(deep, job)] for job in jobs]
    real = [name for name in REAL if name in found]
    shown = [rows]
    for title, cell in (("CPU seconds", _seconds), ("peak MiB (of it grown)", _memory)):
        more = [[title, "layers", "parameters", *jobs]]
        for name in real:
            result = found[name]
            size = [str(result["layers"]), f"{result['parameters'] / 1e6:.1f} M"]
            more.append([name, *size, *(_cell(result, job, cell) for job in jobs)])
        shown.append(more)
    return [_markdown(each) for each in shown if len(each) > 1]


def _cell(result: dict[str, Any], job: str, cell: Callable[[dict[str, Any]], str]) -> str:
    made = result["jobs"].get(job)
    return "" if made is None else "failed" if "error" in made else cell(made)


def _seconds(made: dict[str, Any]) -> str:
    return f"{made['cpu_seconds']:.2f}"


def _memory(made: dict[str, Any]) -> str:
    return f"{made['peak_mib']:.0f} ({made['grown_mib']:.0f})"


def _exponent(deep: dict[int, dict[str, Any]], job: str) -> str:
    ends = [deep[depth]["jobs"].get(job, {}).get("cpu_seconds") if depth in deep else None for depth in FIT]
    if None in ends:
        return ""
    value = math.log(ends[1] / ends[0]) / math.log(FIT[1] / FIT[0])
    return f"{value:.2f}" + (f" (more than {ALLOWED})" if job in JOBS and value > ALLOWED else "")


def _markdown(rows: Iterable[list[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))


if __name__ == "__main__":
    main()
