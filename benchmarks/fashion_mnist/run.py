"""Does the teacher earn its place? The student of `recipes/fashion_mnist.yaml`, taught, and on labels alone.

    python benchmarks/fashion_mnist/run.py cost               what a step of each costs; writes results/cost.json
    python benchmarks/fashion_mnist/run.py tune               settings of both, chosen on the validation split
    python benchmarks/fashion_mnist/run.py train ARM SEED     one training, ARM is taught or labels
    python benchmarks/fashion_mnist/run.py table              the table of README.md

Both start from the same pruned network, move by the same rule, and learn for the same time: `labels` gets as many more
epochs as a step of `taught` costs more steps of `labels`, the teacher's forward pass included; the ratio is measured
with blocks of steps of the two that alternate. The test split is looked at once, after the training, with the weights
that were best on the validation split.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import sys
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
from lessen.graph import SGD, Stage
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.measure import accuracy, evaluate
from lessen.pipeline.steps import Course as Pruned
from lessen.pipeline.steps import context_for, operate
from lessen.recipe import read_recipe
from lessen.schemes import At, Offline, Supervised

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RECIPE = HERE.parents[1] / "recipes" / "fashion_mnist.yaml"
SEEDS = (0, 1, 2)
TUNED_ON, TUNED_EPOCHS = 100, 5

# What differs from the recipe. `tune` chooses on the validation split, with another seed than those that are reported.
TUNE: dict[str, dict[str, dict[str, float]]] = {
    "taught": {
        "rate 0.1, T 4": {"rate": 0.1, "temperature": 4.0},
        "rate 0.05, T 4": {"rate": 0.05, "temperature": 4.0},
        "rate 0.1, T 2": {"rate": 0.1, "temperature": 2.0},
    },
    "labels": {
        "rate 0.1": {"rate": 0.1, "smoothing": 0.0},
        "rate 0.05": {"rate": 0.05, "smoothing": 0.0},
        "rate 0.1, smoothing 0.05": {"rate": 0.1, "smoothing": 0.05},
    },
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
        change: `epochs`, `rate`, `temperature`, `smoothing`; what is left out is as in the recipe.
    """
    fit = scheme.fit
    if "rate" in change:
        fit = dataclasses.replace(fit, optimizer=SGD(rate=change["rate"]))
    epochs = int(change.get("epochs", scheme.epochs))
    cast = {"student": student, "teacher": teacher}
    if arm == "labels":
        objective = CrossEntropy(smoothing=change.get("smoothing", 0.0))
        return Supervised(objective=objective, epochs=epochs, fit=fit).stages(cast)
    knowledge = scheme.knowledge
    if "temperature" in change:
        knowledge = (At(objective=SoftTargets(temperature=change["temperature"])),)
    return dataclasses.replace(scheme, knowledge=knowledge, epochs=epochs, fit=fit).stages(cast)


def cost(*, blocks: int = 30, block: int = 8) -> dict[str, Any]:
    """How many steps of `labels` one step of `taught` costs: the median over pairs of blocks, and the middle half."""
    data, teacher, pruned, scheme = task()

    def steps(arm: str) -> Iterator[object]:
        made = stages(arm, copy.deepcopy(pruned), teacher, scheme, epochs=1000)
        return Course(made, data, device="cpu", seed=0).steps()

    running = {arm: steps(arm) for arm in ("taught", "labels")}

    def seconds(arm: str) -> float:
        start = time.perf_counter()
        for _ in range(block):
            next(running[arm])  # type: ignore[call-overload]
        return time.perf_counter() - start

    for arm in running:
        seconds(arm)
    ratios = []
    for number in range(blocks):
        order = ("taught", "labels") if number % 2 else ("labels", "taught")
        taken = {arm: seconds(arm) for arm in order}
        ratios.append(taken["taught"] / taken["labels"])
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return {"ratio": float(middle), "middle_half": [float(low), float(high)], "blocks": blocks, "steps": block}


def train(arm: str, seed: int, **change: float) -> dict[str, Any]:
    """One training; figures on validation and test."""
    data, teacher, student, scheme = task()
    start = time.perf_counter()
    history = run(
        stages(arm, student, teacher, scheme, **change), data, device="cpu", seed=seed, progress=sys.stderr.isatty()
    )
    taken = time.perf_counter() - start
    told = {
        "arm": arm,
        "seed": seed,
        "change": change,
        "steps": history.steps,
        "seconds": taken,
        "validation": history.best("student"),
        "epochs": [row["figures"]["student"]["accuracy"] for row in history.validations],
    }
    if change.get("look", 1):
        told["test"] = right(student, data)
    return told


def right(network: nn.Module, data: Data) -> float:
    """Percent of the test split that a network gets right."""
    outputs = evaluate(network, data.test)
    assert outputs.labels is not None
    return 100 * accuracy(outputs.values, outputs.labels).value


def chosen(arm: str) -> dict[str, float]:
    """The settings of an arm that were best on the validation split."""
    told = json.loads((RESULTS / "tune.json").read_text())["found"][arm]
    return TUNE[arm][max(told, key=lambda name: told[name])]


def epochs_of(arm: str) -> int:
    """How long an arm learns, so that both take the same time."""
    recipe = read_recipe(RECIPE).steps[1]
    assert isinstance(recipe, Offline)
    ratio = json.loads((RESULTS / "cost.json").read_text())["found"]["ratio"]
    return recipe.epochs if arm == "taught" else round(recipe.epochs * ratio)


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
        case ["tune"]:
            ratio = json.loads((RESULTS / "cost.json").read_text())["found"]["ratio"]
            found: dict[str, dict[str, float]] = {}
            for arm, variants in TUNE.items():
                length = TUNED_EPOCHS if arm == "taught" else round(TUNED_EPOCHS * ratio)
                for name, change in variants.items():
                    told = train(arm, TUNED_ON, epochs=length, look=0, **change)
                    found.setdefault(arm, {})[name] = told["validation"]
            keep("tune", found)
        case ["train", ("taught" | "labels") as arm, seed]:
            keep(f"train-{arm}-{seed}", train(arm, int(seed), epochs=epochs_of(arm), **chosen(arm)))
        case ["table"]:
            print(table())
        case _:
            sys.exit(str(__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
