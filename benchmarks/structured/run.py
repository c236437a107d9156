"""Which widths are worth their time? Structured pruning of the trained Fashion-MNIST network at equal measured time.

    python benchmarks/structured/run.py plan ARM SPEED          the pruned network of an arm; writes results/plan-*.json
    python benchmarks/structured/run.py train ARM SPEED SEED    teaches it again; writes results/train-*.json
    python benchmarks/structured/run.py plans SPEED            the plans of all arms that are missing
    python benchmarks/structured/run.py all                     whatever is missing, plans first, then seed by seed
    python benchmarks/structured/run.py time                    all networks against the teacher in one run: time.json
    python benchmarks/structured/run.py table                   the table of README.md

Arms: `searched` (widths by a knapsack over measured times, then searched around by the loss of pruned networks after a
few steps of training on the calibration examples), `uniform` (one share for all), `torch_pruning` (global ranking of
Torch-Pruning 1.6.1, installed in TORCH_PRUNING=/folder; of its ratios that whose time is nearest to the target, all
timed in one run), `scratch` (the widths of `searched`, weights drawn anew). SPEED is how many times faster than the
teacher's own fp32 ONNX file; ours may take the time that the network of Torch-Pruning takes, which has few to choose
from. Each arm of ours has the score with which its network was best on the calibration examples (`SCORES`), and its
layers are fitted again (`PruneChannels(refit=True)`). Widths are multiples of 8, and every arm is taught alike. The
test split is looked at once, after the training, with the weights that were best on the validation split.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import functools
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lessen.core.contracts import Context
from lessen.core.data import Data, SubsetExamples
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.core.seeds import generator, seeded
from lessen.core.settings import encode
from lessen.deploy import FileClock
from lessen.deploy.export import export_onnx
from lessen.deploy.runtimes import OnnxRuntime
from lessen.deploy.timing import time_files
from lessen.engine import run
from lessen.graph import SGD, Cache, Cosine, Fit
from lessen.knowledge import SoftTargets
from lessen.measure import accuracy, evaluate
from lessen.operations import (
    ActivationWidth,
    Knapsack,
    Magnitude,
    PruneChannels,
    PrunedChannels,
    Taylor,
    Uniform,
)
from lessen.operations.prune_channels.refit import refitted
from lessen.pipeline.plans import read_plans
from lessen.pipeline.steps import context_for, loss_for
from lessen.recipe import read_recipe
from lessen.schemes import Offline

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RECIPE = HERE.parents[1] / "recipes" / "fashion_mnist.yaml"
ARMS = ("searched", "uniform", "torch_pruning", "scratch")
PLANNED = ("torch_pruning", "searched", "uniform")
SPEEDS = (4, 2)
SEEDS = (0, 1, 2)
EXAMPLES, EPOCHS = 8_000, 3
# Each arm is taught at the rate that was best on the validation split, with another seed.
RATES, TUNED_ON = (0.1, 0.03, 0.01, 0.003), 100
ROUND_TO = 8
# Of Taylor (both), Fisher, ActivationWidth, GeometricMedian and magnitudes (both), that with which the arm's network
# loses least on the calibration examples, fitted and after the few steps (`lessen.operations.prune_channels.judge`); of
# `searched`, the network of Torch-Pruning's widths.
SCORES = {
    ("searched", 4): Taylor(),
    ("searched", 2): Taylor(joint=True),
    ("uniform", 4): ActivationWidth(),
    ("uniform", 2): Magnitude(power=1.0),
}
CANDIDATES, STEPS = 100, 96
CALIBRATION = 4096
# Torch-Pruning adds gradients up before it takes their size; on the validation split this many were better than 4,096.
ITS_EXAMPLES = 1024


def task() -> tuple[Data, nn.Module, Offline]:
    """Data with a part of its training split, the teacher, and how the recipe teaches."""
    given = read_recipe(RECIPE).arguments()
    data, scheme = given["data"], given["steps"][1]
    order = torch.randperm(len(data.train), generator=generator(0, "structured"))
    few = dataclasses.replace(data, train=SubsetExamples(data.train, order[:EXAMPLES]))
    teacher = given["teacher"].eval().requires_grad_(False)
    assert isinstance(scheme, Offline)
    return few, teacher, scheme


def context(data: Data) -> Context:
    """What all arms may look at: 4,096 training examples, and the clock at batch 1 on one thread."""
    return context_for(data, count=CALIBRATION, device=torch.device("cpu"), seed=0, clock=FileClock(rounds=150))


def plan(arm: str, speed: int) -> dict[str, Any]:
    """The pruned network of an arm, as data."""
    data, teacher, _ = task()
    trained = copy.deepcopy(teacher).requires_grad_(True)
    start = time.perf_counter()
    if arm == "torch_pruning":
        ratio, shares = _ratio_of_torch_pruning(trained, context(data), 1 / speed)
        found: dict[str, Any] = {"ratio": ratio, "shares": shares}
    else:
        allocation = Uniform() if arm == "uniform" else Knapsack(candidates=CANDIDATES, steps=STEPS)
        prune = PruneChannels(
            time=target(speed), score=SCORES[arm, speed], allocation=allocation, round_to=ROUND_TO, refit=True
        )
        made = prune.plan(trained, context(data))
        found = {"settings": encode(prune), "rows": made.describe(), "plan": [encode(_bare(made))]}
    return {"arm": arm, "speed": speed, "seconds": time.perf_counter() - start, **found}


def _bare(made: PrunedChannels) -> PrunedChannels:
    """Without the fitted weights, which would be megabytes; they are fitted again where the plan is used."""
    return dataclasses.replace(made, carries=[], values=None)


def target(speed: int) -> float:
    """The share of the time that our arms may take: that of the network of Torch-Pruning, which has few to choose from.

    Raises:
        SystemExit: its plan has not been made.
    """
    if not kept(f"plan-torch_pruning-{speed}"):
        sys.exit(f"Our networks may take the time of Torch-Pruning's: first `run.py plan torch_pruning {speed}`.")
    found = _found("torch_pruning", speed)
    return round(found["shares"][str(found["ratio"])], 4)


def _found(arm: str, speed: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"plan-{arm}-{speed}.json").read_text())["found"]
    return found


@functools.cache
def _plan(arm: str, speed: int) -> PrunedChannels:
    """The kept plan, its layers fitted again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(_found(arm, speed)["plan"]))
        (made,) = read_plans(path)
    assert isinstance(made, PrunedChannels)
    data, teacher, _ = task()
    values, _, _ = refitted(copy.deepcopy(teacher), made, context(data))
    return dataclasses.replace(made, carries=list(values), values=values)


def network(arm: str, speed: int, data: Data, teacher: nn.Module, seed: int) -> nn.Module:
    """The network of an arm as it is before it is taught again."""
    trained = copy.deepcopy(teacher).requires_grad_(True)
    if arm == "torch_pruning":
        return _torch_pruning(trained, context(data), _found(arm, speed)["ratio"])
    small = _plan("searched" if arm == "scratch" else arm, speed).apply(trained)
    if arm == "scratch":
        with seeded(seed, "scratch"):
            for module in small.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return small


@functools.cache
def _gradients() -> dict[str, torch.Tensor]:
    """Of the loss by the teacher's weights, summed over the calibration batches."""
    data, teacher, _ = task()
    model, loss = copy.deepcopy(teacher).requires_grad_(True), loss_for(data)
    for batch in data.calibration(ITS_EXAMPLES, seed=0):
        assert batch.labels is not None
        loss(model(batch.inputs), batch.labels).mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def _torch_pruning(model: nn.Module, given: Context, ratio: float) -> nn.Module:
    """Its global ranking by its Taylor score."""
    sys.path.append(os.environ.get("TORCH_PRUNING", "/tmp/tp"))
    import torch_pruning as tp

    model = copy.deepcopy(model).eval()
    for name, weight in model.named_parameters():
        weight.grad = _gradients()[name].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.MetaPruner(
            model,
            given.inputs,
            importance=tp.importance.GroupTaylorImportance(),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[model.head],
            round_to=ROUND_TO,
        )
        pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def _ratio_of_torch_pruning(model: nn.Module, given: Context, target: float) -> tuple[float, dict[str, float]]:
    """Of its ratios, by 0.005, that whose network takes nearest to the target, be it more or less; and what each takes.

    All are timed in one run, so that it has what a search would find for it.
    """
    clock = FileClock(rounds=400)

    def shares(ratios: list[float]) -> dict[float, float]:
        networks = {}
        for ratio in ratios:  # many ratios give the same widths
            pruned = _torch_pruning(model, given, ratio)
            networks.setdefault(str([weight.shape for weight in pruned.parameters()]), (ratio, pruned))
        whole, *times = clock.times([model, *(pruned for _, pruned in networks.values())], given.inputs).milliseconds
        return {ratio: time / whole for (ratio, _), time in zip(networks.values(), times, strict=True)}

    coarse = shares([0.1 * k for k in range(1, 10)])
    near = min(coarse, key=lambda ratio: abs(coarse[ratio] - target))
    fine = shares([round(near - 0.08 + 0.005 * k, 4) for k in range(33)])
    best = min(fine, key=lambda ratio: abs(fine[ratio] - target))
    return best, {str(ratio): share for ratio, share in fine.items()}


def chosen(arm: str, speed: int) -> float:
    """The rate of an arm that was best on the validation split."""
    files = {rate: RESULTS / f"tune-{arm}-{speed}-{rate}.json" for rate in RATES}
    found = {rate: json.loads(file.read_text())["found"] for rate, file in files.items()}
    return max(found, key=lambda rate: found[rate]["validation"])


def train(arm: str, speed: int, seed: int, rate: float, *, look: bool = True) -> dict[str, Any]:
    """One training; figures on validation, and on test where it is looked at."""
    data, teacher, scheme = task()
    student = network(arm, speed, data, teacher, seed)
    before = right(student, data, "validation")
    cache = Cache(folder=Path(tempfile.gettempdir()) / "lessen-structured-cache")
    fit = Fit(optimizer=SGD(rate=rate), schedule=Cosine(warmup=0.1), channels_last=True)
    knowledge = (SoftTargets(temperature=4.0),)
    scheme = dataclasses.replace(scheme, knowledge=knowledge, epochs=EPOCHS, fit=fit, cache=cache)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made = scheme.stages({"student": student, "teacher": teacher})
        history = run(made, data, device="cpu", seed=seed, folder=Path(folder), progress=sys.stderr.isatty())
    told: dict[str, Any] = {
        "arm": arm,
        "speed": speed,
        "seed": seed,
        "epochs": EPOCHS,
        "examples": EXAMPLES,
        "rate": rate,
        "seconds": time.perf_counter() - start,
        "parameters": sum(p.numel() for p in student.parameters()),
        "validation_before": before,
        "validation": history.best("student"),
    }
    return {**told, "test": right(student, data, "test")} if look else told


def right(model: nn.Module, data: Data, split: str) -> float:
    """Percent of a split that a network gets right."""
    outputs = evaluate(model, getattr(data, split))
    assert outputs.labels is not None
    return accuracy(outputs.values, outputs.labels).value


def clocked(*, rounds: int = 200) -> dict[str, Any]:
    """How many times faster than the teacher each network's file is, all in one interleaved run, with its interval."""
    data, teacher, _ = task()
    programs, inputs = {}, data.example(2)
    with tempfile.TemporaryDirectory() as folder:
        names = [(arm, speed) for speed in SPEEDS for arm in PLANNED if kept(f"train-{arm}-{speed}-0")]
        networks = {f"{arm}-{speed}": network(arm, speed, data, teacher, 0) for arm, speed in names}
        for name, each in {"teacher": teacher, **networks}.items():
            file = export_onnx(each, inputs, Path(folder) / f"{name}.onnx")
            programs[name] = OnnxRuntime().load(file, threads=1)
        timings = time_files(programs, data.validation, rounds=rounds)[1]
    networks_too = [teacher, *networks.values()]
    again = np.array([FileClock(rounds=200).times(networks_too, inputs).milliseconds for _ in range(5)])
    return {
        name: {
            "milliseconds": timings.median(name),
            "speedup": timings.ratio("teacher", name),
            "speedup_warm": (again[:, 0] / again[:, at]).tolist(),
        }
        for at, name in enumerate(programs)
    }


def kept(name: str) -> bool:
    """Whether a result is there."""
    return (RESULTS / f"{name}.json").is_file()


def keep(name: str, found: Any) -> None:
    """Write a result with what it was found on."""
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
    write_json(RESULTS / f"{name}.json", {"found": found, "threads": torch.get_num_threads(), **about})
    print(name, json.dumps({key: value for key, value in found.items() if key != "plan"})[:400], flush=True)


def plans(speed: int) -> None:
    """The plans of a speed that are missing."""
    for arm in PLANNED:
        if not kept(f"plan-{arm}-{speed}"):
            keep(f"plan-{arm}-{speed}", plan(arm, speed))


def everything() -> None:
    """Whatever is missing."""
    for speed in SPEEDS:
        plans(speed)
        for arm, rate in itertools.product(ARMS, RATES):
            if not kept(f"tune-{arm}-{speed}-{rate}"):
                keep(f"tune-{arm}-{speed}-{rate}", train(arm, speed, TUNED_ON, rate, look=False))
        for seed in SEEDS:
            for arm in ARMS:
                if not kept(f"train-{arm}-{speed}-{seed}"):
                    keep(f"train-{arm}-{speed}-{seed}", train(arm, speed, seed, chosen(arm, speed)))


def table() -> str:
    """The rows of README.md."""
    runs = [json.loads(path.read_text())["found"] for path in sorted(RESULTS.glob("train-*.json"))]
    times = json.loads((RESULTS / "time.json").read_text())["found"] if kept("time") else {}
    lines = [
        "| faster | arm | measured | taking turns | parameters | before teaching | validation | test, seed by seed "
        "| test, mean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for speed in SPEEDS:
        for arm in ARMS:
            mine = sorted((r for r in runs if (r["arm"], r["speed"]) == (arm, speed)), key=lambda r: r["seed"])
            if not mine:
                continue
            ratio = times.get(f"{'searched' if arm == 'scratch' else arm}-{speed}")
            measured, taking_turns = "", ""
            if ratio is not None:
                warm = ratio["speedup_warm"]
                measured = f"{np.median(warm):.2f} ({min(warm):.2f} to {max(warm):.2f})"
                taking_turns = "{:.2f}".format(ratio["speedup"][0])
            tests = [r["test"] for r in mine]
            spread = f" ± {np.std(tests, ddof=1):.2f}" if len(tests) > 1 else ""
            lines.append(
                f"| {speed} | {arm} | {measured} | {taking_turns} | {mine[0]['parameters']:,} | "
                f"{mine[0]['validation_before']:.1f} % | "
                f"{np.mean([r['validation'] for r in mine]):.2f} % | {', '.join(f'{t:.2f}' for t in tests)} | "
                f"{np.mean(tests):.2f} %{spread} |"
            )
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Run one command."""
    match words:
        case ["plan", arm, speed]:
            keep(f"plan-{arm}-{speed}", plan(arm, int(speed)))
        case ["train", arm, speed, seed]:
            keep(f"train-{arm}-{speed}-{seed}", train(arm, int(speed), int(seed), chosen(arm, int(speed))))
        case ["plans", speed]:
            plans(int(speed))
        case ["all"]:
            everything()
        case ["time"]:
            keep("time", clocked())
        case ["table"]:
            print(table())
        case _:
            sys.exit(str(__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
