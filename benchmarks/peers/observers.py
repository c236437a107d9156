"""Is any observer worse than min-max at 8 bits, on six trained networks?

    python benchmarks/peers/observers.py NETWORK ...     writes results/observers-NETWORK.json; all where none is named

Percent right on held-out examples (of MiniLM: 100 times the cosine to fp32 over 240 glosses), weights of 8 bits, every
observer on the same calibration examples, drawn by three seeds. The networks are the fake-quantized ones in PyTorch.
Three of the networks are trained here, in seconds, on the digits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from run import CASES, SEEDS, part_of, parts_of  # next to this file
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.core.data import batches, call
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.data import Digits
from lessen.operations import Entropy, MeanMagnitude, MinMax, Percentile, Quantize, SquaredError
from lessen.zoo import residual, transformer

RESULTS = Path(__file__).parent / "results"
OBSERVERS = (MinMax(), Percentile(), SquaredError(), Entropy(), MeanMagnitude())


Found = tuple[nn.Module, Callable[[int], Any], Any, Callable[..., float]]
"""A network, its calibration inputs by seed, its test inputs, and what judges its outputs."""


def on_digits(build: Callable[[], nn.Module], *, epochs: int = 8) -> Found:
    """A network that is trained on the digits, judged by percent right."""
    data = Digits().load()
    torch.manual_seed(0)
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in batches(data.train, size=64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
    test = data.test.fetch(torch.arange(len(data.test)))

    def right(outputs: Tensor, _: Tensor) -> float:
        return 100 * float((outputs.argmax(1) == test.labels).float().mean())

    def calibration(seed: int) -> Any:
        return data.train.fetch(torch.arange(256) + 256 * seed).inputs

    return model.eval(), calibration, test.inputs, right


def case(name: str) -> Found:
    """A network of the other benchmark."""
    found = CASES[name]()
    test = found.test()
    if name == "minilm":
        test = part_of(test, slice(500, 740))

    def judge(outputs: Tensor, full: Tensor) -> float:
        said = found.judge(outputs.numpy(), full.numpy())
        return said["accuracy"] if "accuracy" in said else 100 * float((outputs * full).sum(1).mean())

    return found.build().eval(), lambda seed: found.examples(found.count, seed), test, judge


def perceptron() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))


NETWORKS: dict[str, Callable[[], Found]] = {
    "digits_residual": lambda: on_digits(lambda: residual(width=16, depth=8)),
    "digits_transformer": lambda: on_digits(lambda: transformer(dim=32, depth=2, heads=2, image=8, patch=2), epochs=12),
    "digits_perceptron": lambda: on_digits(perceptron),
    "fashion_mnist": lambda: case("fashion_mnist"),
    "lite0": lambda: case("lite0"),
    "minilm": lambda: case("minilm"),
}


@torch.no_grad()
def outputs(model: nn.Module, inputs: Any) -> Tensor:
    """What a network says."""
    return torch.cat([call(model, part) for part in parts_of(inputs, 50)])


def main(*names: str) -> None:
    torch.set_num_threads(1)
    for name in names or NETWORKS:
        model, examples, test, judge = NETWORKS[name]()
        full = outputs(model, test)
        found: dict[str, list[float]] = {"fp32": [judge(full, full)]}
        for seed in SEEDS:
            calibration = examples(seed)
            shown = [Batch(part, torch.arange(32)) for part in parts_of(calibration, 32)]
            context = Context(inputs=part_of(calibration, slice(0, 2)), calibration=shown)
            for observer in OBSERVERS:
                start, kind = time.process_time(), type(observer).__name__
                plan = Quantize(weight_bits=8, observer=observer, embedding_bits=None).plan(model, context)
                took = time.process_time() - start
                found.setdefault(kind, []).append(judge(outputs(plan.apply(model).eval(), test), full))
                print(name, seed, kind, found[kind][-1], f"{took:.1f} s", flush=True)
        about = {"machine": machine(), "versions": versions()}
        write_json(RESULTS / f"observers-{name}.json", {"network": name, "found": found, **about})


if __name__ == "__main__":
    main(*sys.argv[1:])
