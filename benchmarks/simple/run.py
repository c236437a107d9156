"""How far do simple models get on the small data sets?

    python benchmarks/simple/run.py {mnist1d,emoji,debian_descriptions} [--seeds 3] [--write]

Prints the share of the largest class and the accuracy of simple models on the test split, one line a seed. What has to
be chosen is chosen on the validation split. A teacher has to beat these figures before it is worth its cost.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from torch import nn

from lessen.core.data import Data
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.data import DebianDescriptions, Emoji, Mnist1d

HERE = Path(__file__).parent
Split = tuple[Any, np.ndarray]


def best(models: list[Any], splits: dict[str, Split]) -> float:
    """The accuracy on the test split of the model that is best on the validation split, in percent."""
    fitted = [model.fit(*splits["train"]) for model in models]
    return 100 * float(max(fitted, key=lambda model: model.score(*splits["validation"])).score(*splits["test"]))


def flat(data: Data) -> dict[str, Split]:
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    return {name: (part.inputs.flatten(1).numpy(), part.labels.numpy()) for name, part in parts.items()}


def majority(data: Data) -> float:
    return 100 * float((data.test.labels == data.train.labels.mode().values).float().mean())


def ridge(splits: dict[str, Split]) -> float:
    return best([RidgeClassifier(alpha=10.0**power) for power in range(0, 6)], splits)


def convolutions(data: Data, seed: int) -> float:
    """Three convolutions of 64 channels and a linear layer, 3,000 steps of 128 examples."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, kernel in ((1, 5), (64, 3), (64, 3)):
        layers += [nn.Conv1d(before, 64, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 5, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, 3000)
    for _ in range(3000):
        rows = torch.randint(len(data.train), (128,))
        loss = nn.functional.cross_entropy(network(data.train.inputs[rows]), data.train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return 100 * float((network(data.test.inputs).argmax(1) == data.test.labels).float().mean())


def mnist1d(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    data = Mnist1d(drawn=seed, seed=seed).load()
    splits = flat(data)
    logistic = best([LogisticRegression(C=10.0**power, max_iter=2000) for power in range(-2, 2)], splits)
    found = {"largest class": majority(data), "ridge": ridge(splits), "logistic": logistic}
    yield "", found | {"convolutions": convolutions(data, seed)}


def emoji(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    for style in ("google", "twitter"):
        for classes in ("category", "subcategory"):
            data = Emoji(style=style, classes=classes, size=32, seed=seed).load()
            yield f"{style}, {classes}", {"largest class": majority(data), "ridge on 32 x 32": ridge(flat(data))}


def debian_descriptions(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    source = DebianDescriptions(seed=seed)
    data, words = source.load(), HashingVectorizer(n_features=2**16, norm="l2", alternate_sign=False)
    splits = {n: (words.transform(texts), getattr(data, n).labels.numpy()) for n, texts in source.texts().items()}
    models = [SGDClassifier(loss="log_loss", alpha=alpha, random_state=seed, max_iter=30) for alpha in (1e-6, 1e-5)]
    yield "", {"largest class": majority(data), "hashed words, logistic": best(models, splits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {made.__name__: made for made in (mnist1d, emoji, debian_descriptions)}
    parser.add_argument("data", choices=known)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        for what, found in known[given.data](seed):
            print(seed, what, ", ".join(f"{name} {value:.1f} %" for name, value in found.items()), flush=True)
            rows.append({"seed": seed, "what": what, "accuracy": found})
    if given.write:
        about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
        write_json(HERE / "results" / f"{given.data}.json", {"data": given.data, **about, "rows": rows})


if __name__ == "__main__":
    main()
