"""How small does LeNet-5 become as one file, by pruning and weights of few bits alone, and what does it lose?

    python benchmarks/packed/run.py train SEED [--epochs 4 --again 2 --keep 0.1]    one training; results/SEED.json
    python benchmarks/packed/run.py table                                           the table of README.md

LeNet-5 learns Fashion-MNIST from labels; nine in ten of its weights are pruned by magnitude; it learns again; its
weights become codes of 4 bits (and, to see what that costs, of 8, 3 and 2). Every file is written by
`lessen.pipeline.pack`, loaded into a fresh network, and the accuracy is that of the loaded network on the test split,
which nothing else looks at.
The accuracies of one row are of the same 10,000 images, so their differences are paired.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lessen.core import Plan
from lessen.core.files import write_json, write_tensors
from lessen.core.machine import machine, versions
from lessen.data import FashionMNIST
from lessen.engine import run
from lessen.graph import SGD, Fit
from lessen.measure import accuracy, evaluate
from lessen.operations import Hqq, LayerAdaptive, Nearest, PruneWeights, QuantizeWeights
from lessen.pipeline import pack, unpack
from lessen.pipeline.steps import context_for
from lessen.schemes import Supervised
from lessen.zoo import lenet5

RESULTS = Path(__file__).parent / "results"


def learn(model: nn.Module, data: Any, epochs: int, rate: float, seed: int) -> None:
    """Plain training on labels; the weights end as they were best on the validation split."""
    scheme = Supervised(epochs=epochs, fit=Fit(batch=128, optimizer=SGD(rate=rate, decay=5e-4)))
    with tempfile.TemporaryDirectory() as folder:
        run(scheme.stages({"student": model}), data, folder=Path(folder) / "run", seed=seed, progress=False)
    model.eval()


def looked_at(name: str, model: nn.Module, plans: list[Plan], data: Any, *, coded: bool = True) -> dict[str, Any]:
    """The file of a network, and what the network that is loaded from it can do."""
    with tempfile.TemporaryDirectory() as folder:
        made = pack(model, Path(folder) / "packed.safetensors", plans=plans, coded=coded)
        again = unpack(made.path, lenet5())
        inputs = data.test.fetch(torch.arange(256)).inputs
        with torch.no_grad():
            same = torch.equal(again(inputs), model.eval()(inputs))
    told = evaluate(again, data.test, batch_size=500)
    assert told.labels is not None
    found = {"name": name, "bytes": made.bytes, "tensors": made.tensors, "same_bits": same}
    return {**found, "accuracy": accuracy(told.values, told.labels).value}


def train(seed: int, epochs: int, again: int, keep: float) -> None:
    """One training from random weights to files."""
    start, data = time.time(), FashionMNIST().load()
    torch.manual_seed(seed)
    model = lenet5()
    learn(model, data, epochs, 0.05, seed)
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder) / "plain.safetensors", model.state_dict())
        plain = (Path(folder) / "plain.safetensors").stat().st_size
    rows = [{**looked_at("32 bits", model, [], data), "plain_bytes": plain}]
    context = context_for(data, count=256, device=torch.device("cpu"), seed=seed)
    pruned = PruneWeights(keep=keep, allocation=LayerAdaptive()).plan(model, context)
    sparse = pruned.apply(model)
    learn(sparse, data, again, 0.02, seed + 100)
    rows.append(looked_at("pruned", sparse, [pruned], data))
    for bits in (8, 4, 3, 2):
        for method in (Nearest(), Hqq()):
            operation = QuantizeWeights(bits=bits, group=None, method=method, symmetric=True)
            plan = operation.plan(sparse, context)
            small = plan.apply(copy.deepcopy(sparse))
            rows.append(looked_at(f"pruned, {bits} bits, {type(method).__name__}", small, [pruned, plan], data))
    write_json(
        RESULTS / f"{seed}.json",
        {
            "seed": seed,
            "settings": {"epochs": epochs, "again": again, "keep": keep, "batch": 128, "group": "a row"},
            "rows": rows,
            "seconds": round(time.time() - start),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
        },
    )


def table() -> None:
    """What README.md shows."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    names = [row["name"] for row in found[0]["rows"]]
    print(f"| {len(found)} seeds | bytes | times smaller | accuracy % | change, points (each seed) |")
    print("| --- | --- | --- | --- | --- |")
    for place, name in enumerate(names):
        rows = [one["rows"][place] for one in found]
        plain = [one["rows"][0]["plain_bytes"] for one in found]
        changes = [row["accuracy"] - one["rows"][0]["accuracy"] for row, one in zip(rows, found, strict=True)]
        mean = sum(row["accuracy"] for row in rows) / len(rows)
        times = min(whole / row["bytes"] for whole, row in zip(plain, rows, strict=True))
        largest = max(row["bytes"] for row in rows)
        said = ", ".join(f"{change:+.2f}" for change in changes)
        print(f"| {name} | {largest:,} | {times:.1f} | {mean:.2f} | {said} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--again", type=int, default=2)
    parser.add_argument("--keep", type=float, default=0.1)
    asked = parser.parse_args()
    if asked.what == "table":
        table()
    else:
        train(asked.seed, asked.epochs, asked.again, asked.keep)


if __name__ == "__main__":
    main()
