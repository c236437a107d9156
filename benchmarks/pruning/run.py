"""How many weights does a trained network lose before it needs training, and who chooses them best?

    python benchmarks/pruning/run.py prune NETWORK SEED...    every way at every share, for these seeds
    python benchmarks/pruning/run.py table                    the tables of README.md

A network is pruned once and not trained again. `fashion_mnist` is `trained:fashion_mnist`, `lite0` is
EfficientNet-Lite0 with a linear probe (`benchmarks/lite0`); of it the probe and the depthwise convolutions (4 % of its
weights, nine of which a channel has) are left alone, and it has not all the ways. A seed chooses the calibration
images. Nothing was tuned; the first 2,500 images of the test split are looked at once, at the end, the same for all
ways. One result file a run.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lessen.core import Context, Data
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.core.settings import encode
from lessen.data import FashionMNIST
from lessen.measure import accuracy, agreement, evaluate
from lessen.measure.evaluate import Outputs
from lessen.operations import Alps, PruneByReconstruction, PruneWeights, Smallest, SparseGpt, Wanda
from lessen.operations.parts.packed import unpack
from lessen.operations.prune_weights import masks_of
from lessen.zoo import teacher

RESULTS = Path(__file__).parent / "results"
SHARES = (0.5, 0.3, 0.1)
CALIBRATION = 256

WAYS: dict[str, Callable[[float], Any]] = {
    "magnitude": lambda keep: PruneWeights(keep=keep),
    "Wanda-refit": lambda keep: PruneByReconstruction(keep=keep, method=Wanda()),
    "SparseGPT-refit": lambda keep: PruneByReconstruction(keep=keep, method=SparseGpt()),
    "ALPS-refit": lambda keep: PruneByReconstruction(keep=keep, method=Alps()),
    "magnitude-refit": lambda keep: PruneByReconstruction(keep=keep, method=Smallest()),
    "Wanda": lambda keep: PruneByReconstruction(keep=keep, method=Wanda(), refit=False),
    "SparseGPT": lambda keep: PruneByReconstruction(keep=keep, method=SparseGpt(), refit=False),
    "magnitude, first layer whole": lambda keep: PruneWeights(keep=keep),
    "Wanda, first layer whole": lambda keep: PruneByReconstruction(keep=keep, method=Wanda(), refit=False),
}


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its probe."""
    sys.path.append(str(Path(__file__).parents[1] / "lite0"))
    from lite0 import probe

    made: nn.Module = probe()
    return made


NETWORKS: dict[str, Callable[[], nn.Module]] = {"fashion_mnist": lambda: teacher("fashion_mnist"), "lite0": lite0}
LEFT_ALONE = {"fashion_mnist": (), "lite0": ("network.classifier", "*.conv_dw")}
ONLY = {"fashion_mnist": tuple(WAYS), "lite0": ("magnitude", "Wanda-refit", "SparseGPT-refit", "ALPS-refit")}
FIRST = {"fashion_mnist": "stem", "lite0": "network.conv_stem"}


def main(command: str, of: str = "fashion_mnist", *seeds: str) -> None:
    """Run a command of the module's docstring."""
    if command == "table":
        print(table())
        return
    torch.set_num_threads(1)
    data = FashionMNIST(limit=None).load()
    said = evaluate(NETWORKS[of](), data.test, batch_size=250, most=2500)
    for seed in map(int, seeds):
        for keep in (0.3, 0.1, 0.5):
            for name in ONLY[of]:
                path = RESULTS / of / f"{name}-{100 * keep:.0f}-{seed}.json"
                if path.is_file() or (name.startswith("magnitude") and "refit" not in name and seed):
                    continue  # magnitude looks at no images
                left = (*LEFT_ALONE[of], *([FIRST[of]] if "whole" in name else []))
                operation = dataclasses.replace(WAYS[name](keep), exclude=left or None)
                found = pruned(operation, of, data, seed, said)
                about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
                told = {"network": of, "name": name, "keep": keep, "seed": seed, "settings": encode(operation)}
                told["found"] = found
                write_json(path, {**told, "threads": 1, **about})
                print(name, keep, seed, found, flush=True)


def pruned(operation: Any, of: str, data: Data, seed: int, said: Outputs) -> dict[str, float]:
    """The network pruned, and no more."""
    network = NETWORKS[of]()
    context = Context(inputs=data.example(), calibration=data.calibration(CALIBRATION, seed=seed), seed=seed)
    start = time.process_time()
    small = operation.plan(network, context).apply(network)
    seconds = time.process_time() - start
    return {**figures(small, data, said), "kept": kept(small), "processor_seconds": seconds}


def kept(network: nn.Module) -> float:
    """The share of the weights of pruned layers that is there, in percent, counted on the masks."""
    plan = masks_of(network)
    masks = [unpack(text, plan.shapes[name]) for name, text in plan.masks.items()]
    return 100 * sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def figures(network: nn.Module, data: Data, said: Outputs) -> dict[str, float]:
    """Accuracy and agreement with the original on the first 2,500 images of the test split, in percent."""
    found = evaluate(network, data.test, batch_size=250, most=2500)
    assert found.labels is not None
    return {
        "accuracy": accuracy(found.values, found.labels).value,
        "agreement": agreement(found.values, said.values).value,
        "original": accuracy(said.values, found.labels).value,
    }


def table() -> str:
    """The tables of README.md."""
    return "\n\n".join(f"**{of}**\n\n{rows(of)}" for of in NETWORKS if (RESULTS / of).is_dir())


def rows(of: str) -> str:
    """Of one network: test accuracy, with its spread over the seeds."""
    told = [json.loads(path.read_text()) for path in sorted((RESULTS / of).glob("*.json"))]
    head = " | ".join(f"{100 * keep:.0f} % kept" for keep in SHARES)
    lines = [f"| way | {head} | processor seconds | seeds |", "| --- |" + " --- |" * (len(SHARES) + 2)]
    for name in WAYS:
        cells, seconds, seeds = [], [], 0
        for keep in SHARES:
            found = [each["found"] for each in told if each["name"] == name and each["keep"] == keep]
            right = [each["accuracy"] for each in found]
            seconds += [each["processor_seconds"] for each in found]
            seeds = max(seeds, len(right))
            spread = f" ± {np.std(right, ddof=1):.2f}" if len(right) > 1 else ""
            cells.append(f"{np.mean(right):.2f}{spread}" if right else "-")
        if seeds:
            lines.append(f"| {name} | {' | '.join(cells)} | {np.mean(seconds):.0f} | {seeds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
