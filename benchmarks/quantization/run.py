"""How few bits does a trained network stand, rounded after training or trained further?

    python benchmarks/quantization/run.py after NETWORK SEED [WAY...]   rounded after training, every way of `AFTER`
    python benchmarks/quantization/run.py tune NETWORK                  the rate of training, on the validation split
    python benchmarks/quantization/run.py train NETWORK SEED [WAY...]   trained on its grids, every way of `TRAIN`
    python benchmarks/quantization/run.py table                         the tables of README.md

`fashion_mnist` is `trained:fashion_mnist`, `lite0` is EfficientNet-Lite0 with a linear probe (`benchmarks/lite0`). A
seed chooses the calibration images, and the images and their order that training sees. Of rounding nothing was tuned.
Each way of training has the rate of `RATES` that was best on the validation split with another seed, and keeps the
weights that were best there. The first 2,000 images of the test split are looked at once, at the end, all ways on the
same. Of `lite0` fewer things are tried, on fewer images, and its rates with 4 bits are chosen in shorter trainings
(with 2 bits these end at chance). One result file a run.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lessen.core import Context, Data
from lessen.core.data import SubsetExamples
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.core.seeds import generator
from lessen.core.settings import encode
from lessen.data import FashionMNIST
from lessen.engine import run
from lessen.graph import Adam, Cosine, Edge, Fit, Graph, Labels, Network, Stage
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.measure import accuracy, agreement, evaluate
from lessen.measure.evaluate import Outputs
from lessen.operations.quantize import (
    AdaRound,
    Brecq,
    LearnedStep,
    MeanMagnitude,
    QDrop,
    Quantize,
    SquaredError,
)
from lessen.zoo import teacher

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
CALIBRATION, STEPS = 256, 100
LEARNING, EPOCHS = {"fashion_mnist": 8192, "lite0": 4096}, {"fashion_mnist": 3, "lite0": 2}
TUNING = {"fashion_mnist": 8192, "lite0": 1024}
VALIDATION = {"fashion_mnist": 2000, "lite0": 1000}
BATCH, RATES, TUNED_ON = 64, {"fashion_mnist": (3e-3, 1e-3, 3e-4), "lite0": (1e-3, 3e-4, 1e-4)}, 100
_SAID: dict[str, Outputs] = {}


def after(bits: int, activations: int = 8, **how: Any) -> Quantize:
    """Weights of some bits, activations of as many or more."""
    return Quantize(bits=activations, observer=SquaredError(), weight_bits=bits, weight_observer=SquaredError(), **how)


def learned(bits: int) -> Quantize:
    """Weights and activations of as many bits, on steps that learn and start as LSQ starts them."""
    observer = MeanMagnitude()
    return Quantize(bits=bits, observer=observer, weight_bits=bits, weight_observer=observer, learned=LearnedStep())


ROUNDINGS = {
    "nearest": {},
    "AdaRound": {"rounding": AdaRound(steps=STEPS)},
    "Brecq": {"rounding": Brecq(steps=STEPS)},
    "QDrop": {"rounding": QDrop(steps=STEPS)},
}
AFTER = {
    **{f"W8A8-{name}": after(8, **how) for name, how in ROUNDINGS.items()},
    "W8A8-nearest-biases": after(8, correct_biases=True),
    **{f"W4A8-{name}": after(4, **how) for name, how in ROUNDINGS.items()},
    "W4A8-AdaRound-500": after(4, rounding=AdaRound(steps=500)),
    "W4A8-AdaRound-biases": after(4, rounding=AdaRound(steps=STEPS), correct_biases=True),
    "W8A8-nearest, ends whole": after(8),
    **{f"W4A8-{name}, ends whole": after(4, **how) for name, how in ROUNDINGS.items()},
    **{f"W4A4-{name}": after(4, 4, **how) for name, how in ROUNDINGS.items()},
    **{f"W3A8-{name}": after(3, **how) for name, how in ROUNDINGS.items()},
    "W3A8-nearest-biases": after(3, correct_biases=True),
}
NOT_LITE0 = {name for name in AFTER if not name.startswith(("W8A8", "W4A8")) or "-500" in name or "AdaRound-b" in name}
ENDS = {"fashion_mnist": ("stem", "head"), "lite0": ("network.conv_stem", "network.classifier")}
"""First and last layer, that papers often leave at more bits."""

TRAIN = {"W4A4": learned(4), "W2A2": learned(2)}


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its probe."""
    sys.path.append(str(Path(__file__).parents[1] / "lite0"))
    from lite0 import probe

    made: nn.Module = probe()
    return made


NETWORKS: dict[str, Callable[[], nn.Module]] = {"fashion_mnist": lambda: teacher("fashion_mnist"), "lite0": lite0}


def main(command: str, of: str = "fashion_mnist", *rest: str) -> None:
    """Run a command of the module's docstring."""
    if command == "table":
        print(table())
        return
    torch.set_num_threads(1)
    data = FashionMNIST(limit=None).load()
    if command == "after":
        for name, way in AFTER.items():
            if (name in NOT_LITE0 and of == "lite0") or (rest[1:] and name not in rest[1:]):
                continue
            way = dataclasses.replace(way, exclude=ENDS[of]) if "ends whole" in name else way
            keep(of, name, int(rest[0]), way, lambda way=way: rounded(way, of, data, int(rest[0])))
        return
    for (name, way), arm in itertools.product(TRAIN.items(), ("taught", "labels")):
        if command == "tune":
            for rate in RATES[of]:
                found = functools.partial(trained, way, of, data, TUNED_ON, rate, taught=arm == "taught", look=False)
                keep(f"{of}/tune", f"{name}-{arm}-{rate}", TUNED_ON, way, found)
        elif command == "train" and (not rest[1:] or f"{name}-{arm}" in rest[1:]):
            rate, seed = chosen(of, f"{name}-{arm}"), int(rest[0])
            found = functools.partial(trained, way, of, data, seed, rate, taught=arm == "taught")
            keep(of, f"{name}-{arm}", seed, way, found)


def keep(folder: str, name: str, seed: int, way: Quantize, find: Callable[[], dict[str, float]]) -> None:
    """Find a result that is not there yet, and write it."""
    path = RESULTS / folder / f"{name}-{seed}.json"
    if path.is_file():
        return
    found = find()
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
    told = {"network": folder, "name": name, "seed": seed, "settings": encode(way), "found": found}
    write_json(path, {**told, "threads": 1, **about})
    print(name, seed, found, flush=True)


def chosen(of: str, name: str) -> float:
    """The rate of a way that was best on the validation split."""
    files = {rate: RESULTS / of / "tune" / f"{name}-{rate}-{TUNED_ON}.json" for rate in RATES[of]}
    return max(files, key=lambda rate: json.loads(files[rate].read_text())["found"]["validation"])


def context_of(data: Data, seed: int) -> Context:
    """Calibration images under a seed, and the loss of the labels."""
    objective = CrossEntropy()
    return Context(
        inputs=data.example(), calibration=data.calibration(CALIBRATION, seed=seed), loss=objective, seed=seed
    )


def rounded(way: Quantize, of: str, data: Data, seed: int) -> dict[str, float]:
    """The network quantized as it is."""
    network, start = NETWORKS[of](), time.perf_counter()
    plan = way.plan(network, context_of(data, seed))
    seconds = time.perf_counter() - start
    return {**figures(plan.apply(network), of, data), "seconds": seconds}


def trained(
    way: Quantize, of: str, data: Data, seed: int, rate: float, *, taught: bool, look: bool = True
) -> dict[str, float]:
    """The network trained on its grids: by the labels, or by the labels and itself in full precision."""
    original = NETWORKS[of]()
    student = way.plan(original, context_of(data, seed)).apply(original)
    before = figures(student, of, data) if look else {}
    edges = [Edge(source="labels", target="student", objective=CrossEntropy())]
    nodes: list[Any] = [Labels(), Network(name="student", module=student, learns=True)]
    if taught:
        nodes.append(Network(name="teacher", module=original, learns=False))
        edges.append(Edge(source="teacher", target="student", objective=SoftTargets(temperature=4.0)))
    most = (TUNING if not look and way.bits > 2 else LEARNING)[of]
    order = torch.randperm(len(data.train), generator=generator(seed, "learning"))[:most]
    few = Data(
        train=SubsetExamples(data.train, order),
        validation=SubsetExamples(data.validation, torch.arange(VALIDATION[of])),
        test=data.test,
        classes=data.classes,
    )
    fit = Fit(batch=BATCH, optimizer=Adam(rate=rate), schedule=Cosine(), channels_last=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        stages = [Stage(name="steps", graph=Graph(nodes=nodes, edges=edges), epochs=EPOCHS[of], fit=fit)]
        history = run(stages, few, seed=seed, folder=Path(folder), progress=False)
    told = {"rate": rate, "validation": history.best("student"), "seconds": time.perf_counter() - start}
    return {**figures(student, of, data), "before": before["accuracy"], **told} if look else told


def figures(network: nn.Module, of: str, data: Data) -> dict[str, float]:
    """Accuracy and agreement with the original on the first 2,000 images of the test split, in percent."""
    found, said = evaluate(network, data.test, batch_size=250, most=2000), _original(of, data)
    assert found.labels is not None
    return {
        "accuracy": accuracy(found.values, found.labels).value,
        "agreement": agreement(found.values, said.values).value,
        "original": accuracy(said.values, found.labels).value,
    }


def _original(of: str, data: Data) -> Outputs:
    if of not in _SAID:
        _SAID[of] = evaluate(NETWORKS[of](), data.test, batch_size=250, most=2000)
    return _SAID[of]


def table() -> str:
    """The tables of README.md."""
    return "\n\n".join(f"**{of}**\n\n{rows(of)}" for of in NETWORKS if (RESULTS / of).is_dir())


def rows(of: str) -> str:
    """Of one network."""
    told = [json.loads(path.read_text()) for path in sorted((RESULTS / of).glob("*.json"))]
    names = [*AFTER, *(f"{name}-{arm}" for name in TRAIN for arm in ("taught", "labels"))]
    lines = [
        "| way | test, % | spread over seeds | agreement, % | seconds | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        found = [each["found"] for each in told if each["name"] == name]
        if found:
            right = [each["accuracy"] for each in found]
            spread = f"{np.std(right, ddof=1):.2f}" if len(right) > 1 else "-"
            same = np.mean([each["agreement"] for each in found])
            seconds = np.median([each["seconds"] for each in found])  # some stood still while others were timed
            lines.append(f"| {name} | {np.mean(right):.2f} | {spread} | {same:.1f} | {seconds:.0f} | {len(right)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
