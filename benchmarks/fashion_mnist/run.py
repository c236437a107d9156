"""Does the teacher earn its place? The student of `recipes/fashion_mnist.yaml`, taught, and on labels alone.

    python benchmarks/fashion_mnist/run.py cost               what a step of each costs; writes results/cost.json
    python benchmarks/fashion_mnist/run.py tune ARM NAME      one setting of an arm, looked at on the validation split
    python benchmarks/fashion_mnist/run.py train ARM SEED     one training, ARM is taught or labels
    python benchmarks/fashion_mnist/run.py table              the table of README.md

Both start from the same pruned network, move by the same rule, and learn for the same time: what a step of `taught`
costs is measured with blocks of steps of the two that alternate, what the teacher's pass over the data costs is added,
and `labels` gets as many more epochs. The test split is looked at once, after the training, with the weights
that were best on the validation split.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lessen.core.data import Data
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.engine import Course, run
from lessen.graph import Stage
from lessen.knowledge import CrossEntropy
from lessen.measure import accuracy, evaluate
from lessen.pipeline.steps import Course as Pruned
from lessen.pipeline.steps import context_for, operate
from lessen.recipe import read_recipe
from lessen.schemes import Offline, Supervised
from lessen.schemes.at import lesson

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RECIPE = HERE.parents[1] / "recipes" / "fashion_mnist.yaml"
SEEDS = (0, 1, 2)
TUNED_ON, TUNED_EPOCHS = 100, 6
STEPS = 55_000 // 128  # of one pass over the training split

# What differs from the recipe. `tune` chooses on the validation split, with another seed than those that are reported.
TUNE: dict[str, dict[str, dict[str, float]]] = {
    "taught": {"weight-1": {"weight": 1.0}, "weight-3": {"weight": 3.0}},
    "labels": {"plain": {"smoothing": 0.0}, "smoothing": {"smoothing": 0.05}},
}


def task() -> tuple[Data, nn.Module, nn.Module, Offline]:
    """Data, teacher, the pruned student, and how the recipe teaches it."""
    recipe = read_recipe(RECIPE)
    given = recipe.arguments()
    prune, scheme = given["steps"][:2]
    context = context_for(given["data"], count=256, device=torch.device("cpu"), seed=0)
    pruned = operate(Pruned(copy.deepcopy(given["teacher"]).requires_grad_(True)), prune, context, 1).network
    teacher = given["teacher"].eval().requires_grad_(False)
    assert isinstance(scheme, Offline)
    return given["data"], teacher, pruned, scheme


def stages(arm: str, student: nn.Module, teacher: nn.Module, scheme: Offline, **change: float) -> list[Stage]:
    """The stages of one arm.

    Args:
        arm: "taught" or "labels".
        student: Learns.
        teacher: Frozen.
        scheme: Of the recipe.
        change: `epochs`, `weight` of the teacher, `smoothing` of the labels; what is left out is as in the recipe.
    """
    epochs = int(change.get("epochs", scheme.epochs))
    cast = {"student": student, "teacher": teacher}
    if arm == "labels":
        objective = CrossEntropy(smoothing=change.get("smoothing", 0.0))
        return Supervised(objective=objective, epochs=epochs, fit=scheme.fit).stages(cast)
    knowledge = scheme.knowledge
    if "weight" in change:
        knowledge = tuple(dataclasses.replace(lesson(what), weight=change["weight"]) for what in knowledge)
    return dataclasses.replace(scheme, knowledge=knowledge, epochs=epochs).stages(cast)


def cost(*, blocks: int = 30, block: int = 8) -> dict[str, Any]:
    """How many steps of `labels` a step of `taught` costs, and the teacher's pass over the data that comes first.

    The median over pairs of blocks that alternate, and the middle half of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _cost(Path(folder), blocks=blocks, block=block)


def _cost(folder: Path, *, blocks: int, block: int) -> dict[str, Any]:
    data, teacher, pruned, scheme = task()

    def steps(arm: str) -> Iterator[object]:
        made = stages(arm, copy.deepcopy(pruned), teacher, scheme, epochs=1000)
        return Course(made, data, device="cpu", seed=0, folder=folder / arm).steps()

    running = {arm: steps(arm) for arm in ("taught", "labels")}

    def seconds(arm: str) -> float:
        start = time.perf_counter()
        for _ in range(block):
            next(running[arm])  # type: ignore[call-overload]
        return time.perf_counter() - start

    first = seconds("taught")  # fills the cache
    seconds("labels")
    ratios, plain = [], []
    for number in range(blocks):
        order = ("taught", "labels") if number % 2 else ("labels", "taught")
        taken = {arm: seconds(arm) for arm in order}
        ratios.append(taken["taught"] / taken["labels"])
        plain.append(taken["labels"] / block)
    step = float(np.median(plain))
    teacher_pass = max(0.0, first - block * step) / step
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return {"ratio": float(middle), "middle_half": [float(low), float(high)], "teacher_pass": teacher_pass}


def train(arm: str, seed: int, **change: float) -> dict[str, Any]:
    """One training; figures on validation and test."""
    data, teacher, student, scheme = task()
    start = time.perf_counter()
    made = stages(arm, student, teacher, scheme, **change)
    with tempfile.TemporaryDirectory() as folder:
        history = run(made, data, device="cpu", seed=seed, folder=folder, progress=sys.stderr.isatty())
    taken = time.perf_counter() - start
    told = {
        "arm": arm,
        "seed": seed,
        "change": change,
        "steps": history.steps,
        "seconds": taken,
        "validation": history.best("student"),
        "epochs": [row["figures"]["student"]["accuracy"] for row in history.validations if row["step"] > 0],
    }
    if change.get("look", 1):
        told["test"] = right(student, data)
    return told


def right(network: nn.Module, data: Data) -> float:
    """Percent of the test split that a network gets right."""
    outputs = evaluate(network, data.test)
    assert outputs.labels is not None
    return accuracy(outputs.values, outputs.labels).value


def chosen(arm: str) -> dict[str, float]:
    """The settings of an arm that were best on the validation split."""
    told = {name: json.loads((RESULTS / f"tune-{arm}-{name}.json").read_text())["found"] for name in TUNE[arm]}
    return TUNE[arm][max(told, key=lambda name: told[name]["validation"])]


def epochs_of(arm: str) -> int:
    """How long an arm learns, so that both take the same time."""
    recipe = read_recipe(RECIPE).steps[1]
    assert isinstance(recipe, Offline)
    return recipe.epochs if arm == "taught" else as_long_as(recipe.epochs)


def as_long_as(epochs: int) -> int:
    """The passes over the data on labels alone that take as long as so many of `taught`."""
    found = json.loads((RESULTS / "cost.json").read_text())["found"]
    return round(epochs * found["ratio"] + found["teacher_pass"] / STEPS)


def keep(name: str, found: Any) -> None:
    """Write a result with what it was found on."""
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
    write_json(RESULTS / f"{name}.json", {"found": found, "threads": torch.get_num_threads(), **about})
    print(json.dumps(found))


def table() -> str:
    """The rows of README.md."""
    runs = [json.loads(path.read_text())["found"] for path in sorted(RESULTS.glob("train-*.json"))]
    lines = ["| arm | epochs | seed | validation | test |", "| --- | --- | --- | --- | --- |"]
    tests: dict[str, dict[int, float]] = {"taught": {}, "labels": {}}
    for told in sorted(runs, key=lambda told: (told["arm"] != "taught", told["seed"])):
        tests[told["arm"]][told["seed"]] = told["test"]
        lines.append(
            f"| {told['arm']} | {len(told['epochs'])} | {told['seed']} | {told['validation']:.2f} % | "
            f"{told['test']:.2f} % |"
        )
    for arm, by_seed in tests.items():
        values = list(by_seed.values())
        spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        lines.append(f"| **{arm}, mean** | | {len(values)} seeds | | {np.mean(values):.2f} % ± {spread:.2f} |")
    both = sorted(tests["taught"].keys() & tests["labels"].keys())
    gains = [tests["taught"][seed] - tests["labels"][seed] for seed in both]
    said = ", ".join(f"{gain:+.2f}" for gain in gains)
    lines += ["", f"Taught minus labels, seed by seed: {said} points; mean {np.mean(gains):+.2f}."]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Run one command."""
    match words:
        case ["cost"]:
            keep("cost", cost())
        case ["tune", ("taught" | "labels") as arm, name]:
            epochs = TUNED_EPOCHS if arm == "taught" else as_long_as(TUNED_EPOCHS)
            keep(f"tune-{arm}-{name}", train(arm, TUNED_ON, epochs=epochs, look=0, **TUNE[arm][name]))
        case ["train", ("taught" | "labels") as arm, seed]:
            keep(f"train-{arm}-{seed}", train(arm, int(seed), epochs=epochs_of(arm), **chosen(arm)))
        case ["table"]:
            print(table())
        case _:
            sys.exit(str(__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
