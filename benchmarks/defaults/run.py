"""Is the default training safe, and near what a search over rates finds?

    python benchmarks/defaults/run.py [--only NAME,NAME] [--tasks single,several,numbers]
    python benchmarks/defaults/run.py --table

Each cell is a network, a task and a ratio: the network is trained by a plain loop, pruned, and taught again as README
does it, once with `Fit()` and once with every setting of a grid. A line of results/cells.jsonl is one cell; cells that
are there are not run again. The setting of the grid is chosen on the validation split; test figures are only reported.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from networks import NETWORKS
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.data import Data, Examples
from lessen.core.errors import DivergedError
from lessen.engine import run
from lessen.graph import SGD, AdamW, Cosine, Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneChannels
from lessen.pipeline.steps import context_for
from lessen.schemes import offline
from tasks import OUTPUTS, load

RESULTS = Path(__file__).parent / "results" / "cells.jsonl"
KEEP = (0.5, 0.3)
EPOCHS = 6
PLAIN = {"clip": None, "schedule": Cosine(), "restarts": 0}
GRID = {
    "SGD 0.005": Fit(optimizer=SGD(rate=0.005), **PLAIN),
    "SGD 0.02": Fit(optimizer=SGD(rate=0.02), **PLAIN),
    "SGD 0.08": Fit(optimizer=SGD(rate=0.08), **PLAIN),
    "AdamW 0.001": Fit(optimizer=AdamW(rate=0.001), **PLAIN),
    "AdamW 0.004": Fit(optimizer=AdamW(rate=0.004), **PLAIN),
}
"""Rates as a person would search them, without clipping or warm-up; the default belongs to the grid as well."""


def loss_of(task: str, outputs: Tensor, labels: Tensor) -> Tensor:
    if task == "single":
        return F.cross_entropy(outputs, labels)
    return F.binary_cross_entropy_with_logits(outputs, labels) if task == "several" else F.mse_loss(outputs, labels)


@torch.no_grad()
def quality(task: str, network: nn.Module, examples: Examples) -> float:
    """Percent: right classes; right attributes; of the variance that is explained, not below -100."""
    batch = examples.fetch(torch.arange(len(examples)))
    outputs = torch.cat([network.eval()(part) for part in batch.inputs.split(256)])
    labels = batch.labels
    if task == "single":
        return float((outputs.argmax(1) == labels).float().mean() * 100)
    if task == "several":
        return float(((outputs > 0) == (labels > 0.5)).float().mean() * 100)
    return max(-100.0, float(1 - (outputs - labels).square().mean() / labels.var(0).mean()) * 100)


def taught(name: str, task: str, data: Data) -> nn.Module:
    """The network, trained by a loop that is not lessen's."""
    torch.manual_seed(0)
    network, epochs, size = NETWORKS[name].build(OUTPUTS[task]), 12, 64
    batch = data.train.fetch(torch.arange(len(data.train)))
    steps = epochs * (len(batch.labels) // size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    drawn = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for index in torch.randperm(len(batch.labels), generator=drawn).split(size)[: steps // epochs]:
            optimizer.zero_grad()
            loss_of(task, network(batch.inputs[index]), batch.labels[index]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def distilled(network: nn.Module, small: nn.Module, task: str, data: Data, fit: Fit) -> dict[str, Any]:
    """README's second line; the task of the data decides what soft targets and the loss on labels are."""
    student = copy.deepcopy(small).requires_grad_(True)
    scheme = offline(SoftTargets(temperature=4.0), epochs=EPOCHS, fit=fit)
    try:
        history = run(scheme.stages({"teacher": network, "student": student}), data, progress=False, device="cpu")
    except DivergedError as error:
        return {"failed": str(error)[:200]}
    return {
        "validation": quality(task, student, data.validation),
        "test": quality(task, student, data.test),
        "said": [row["says"] for row in history.warnings],
    }


def cells(name: str, task: str, done: set[tuple[str, str, float]]) -> None:
    """Run all the ratios of a network on a task that are not done, and write a line for each."""
    kind = NETWORKS[name]
    wanted = [keep for keep in KEEP if (name, task, keep) not in done]
    if not wanted:
        return
    data = load(kind.data, kind.form, task)
    begun = time.process_time()
    network = taught(name, task, data)
    for keep in wanted:
        context = context_for(data, count=128, device=torch.device("cpu"), seed=0)
        small = PruneChannels(keep=keep).plan(network, context).apply(network)
        row: dict[str, Any] = {"network": name, "family": kind.family, "data": kind.data, "task": task, "keep": keep}
        for what, of in (("before", network), ("pruned", small)):
            row[what] = {split: quality(task, of, getattr(data, split)) for split in ("validation", "test")}
        row["default"] = distilled(network, small, task, data, Fit())
        row["grid"] = {what: distilled(network, small, task, data, fit) for what, fit in GRID.items()}
        row["cpu_s"], begun = round(time.process_time() - begun, 2), time.process_time()
        with RESULTS.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(name, task, keep, f"{row['cpu_s']} s", row["pruned"]["test"], row["default"].get("test"), flush=True)


def best(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The setting that was best on the validation split, the default among them, and what it reached."""
    found = {"default": row["default"], **row["grid"]}
    good = {name: figures for name, figures in found.items() if "test" in figures}
    return max(good.items(), key=lambda item: item[1]["validation"])


def table(rows: list[dict[str, Any]]) -> str:
    """The cells, and what the laws ask of them."""
    lines = ["| network | task | keep | before | pruned | default | best of the grid | |", "| --- " * 8 + "|"]
    gaps, worse, loud = [], 0, 0
    for row in sorted(rows, key=lambda row: (list(NETWORKS).index(row["network"]), row["task"], -row["keep"])):
        name, chosen = best(row)
        found = row["default"]
        gaps.append(chosen["test"] - found["test"])
        worse += found["validation"] < row["pruned"]["validation"] - 1e-6 and not found["said"]
        loud += bool(found["said"])
        lines.append(
            f"| {row['network']} | {row['task']} | {row['keep']} | {row['before']['test']:.1f} | "
            f"{row['pruned']['test']:.1f} | {found['test']:.1f} | {chosen['test']:.1f} ({name}) | "
            f"{'said so' if found['said'] else ''} |"
        )
    settings = [{"default": row["default"], **row["grid"]} for row in rows]
    lines += ["", "| setting | cells where it is best | median gap to the best | worst gap |", "| --- " * 4 + "|"]
    for name in settings[0]:
        below = [best(row)[1]["test"] - one[name].get("test", -100.0) for row, one in zip(rows, settings, strict=True)]
        wins = sum(best(row)[0] == name for row in rows)
        lines.append(f"| {name} | {wins} | {statistics.median(below):.2f} | {max(below):.1f} |")
    nets, share = len({row["network"] for row in rows}), 100 * loud / len(rows)
    says = (
        f"{len(rows)} cells of {nets} networks. Silently worse than it began: {worse}. With the sentence: {loud} "
        f"({share:.1f} %). Median gap of the default to the best: {statistics.median(gaps):.2f} points (mean "
        f"{statistics.mean(gaps):.2f})."
    )
    return "\n".join([*lines, "", says])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--tasks", default=",".join(OUTPUTS))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    if asked.table:
        print(table(rows))
        return
    done = {(row["network"], row["task"], row["keep"]) for row in rows}
    for task in asked.tasks.split(","):
        for name in asked.only.split(","):
            cells(name, task, done)


if __name__ == "__main__":
    main()
