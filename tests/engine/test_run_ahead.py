"""Training from data that is fetched ahead: the same weights, whatever fetches, and wherever it stops."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lessen.core import Data
from lessen.core.ahead import Loading
from lessen.core.data import Batch
from lessen.core.errors import DataError
from lessen.data import load
from lessen.engine import Course, run
from lessen.graph import Fit
from lessen.knowledge import CrossEntropy
from lessen.schemes import supervised


class Augmented(Dataset[Any]):
    """Noise of three generators on two classes; item `bad` cannot be read."""

    def __init__(self) -> None:
        self.bad = -1
        self.targets = [i % 2 for i in range(48)]

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i == self.bad:
            raise OSError("gone")
        noise = torch.tensor([random.random(), np.random.random(), float(torch.rand(()))])
        return noise + i % 2, i % 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))


def still() -> dict[str, Any]:
    x, y = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    return {"validation": (x, y), "test": (x, y)}


def data(workers: int = 0) -> Data:
    return load({"train": DataLoader(Augmented(), num_workers=workers), **still()})


def weights(data: Data, **settings: Any) -> list[Tensor]:
    model = network()
    fit = Fit(batch=8, **settings)
    torch.manual_seed(random.randrange(1000))  # whatever the global generators were
    np.random.seed(random.randrange(1000))
    run(supervised(CrossEntropy(), epochs=2, fit=fit).stages({"student": model}), data, seed=3, progress=False)
    return [p.detach() for p in model.parameters()]


def test_a_dataset_that_augments_itself_repeats_with_any_number_of_workers() -> None:
    first = weights(data(), accumulate=2)
    for again in (data(), data(workers=2)):
        assert all(map(torch.equal, first, weights(again, accumulate=2)))


class Late:
    """Examples in memory that are fetched by threads, as decoded images are."""

    def __init__(self, examples: Any) -> None:
        self.examples, self.bad, self.labels = examples, -1, examples.labels
        self.loading = Loading(threads=2)

    def __len__(self) -> int:
        return len(self.examples)

    def fetch(self, index_N: Tensor) -> Batch:
        if self.bad in index_N.tolist():
            raise DataError("Item gone.")
        return self.examples.fetch(index_N)


def late() -> Data:
    found = still()
    x = torch.rand(48, 3, generator=torch.Generator().manual_seed(1))
    found["train"] = Late(load((x, torch.arange(48) % 2), validation=0.1, test=0.1).train)
    return load(found)


def workers() -> list[Any]:
    import threading

    return [t for t in threading.enumerate() if t.name.startswith("lessen-data")] + psutil.Process().children()


@pytest.mark.parametrize(("make", "stop"), [(data, 4), (late, 1), (late, 6), (late, 7)])
def test_stopped_in_the_middle_and_resumed_it_ends_the_same(make: Any, stop: int, tmp_path: Path) -> None:
    source = make(workers=2) if make is data else make()
    whole, parted, fresh = network(), network(), network()
    fit = Fit(batch=8, checkpoint_steps=1)
    run(supervised(CrossEntropy(), epochs=2, fit=fit).stages({"student": whole}), source, seed=3, progress=False)
    steps = Course(
        supervised(CrossEntropy(), epochs=2, fit=fit).stages({"student": parted}), source, seed=3, folder=tmp_path
    ).steps()
    for _ in range(stop):
        next(steps)
    assert workers()
    steps.close()
    assert not workers()
    run(
        supervised(CrossEntropy(), epochs=2, fit=fit).stages({"student": fresh}),
        source,
        seed=3,
        folder=tmp_path,
        resume=True,
        progress=False,
    )
    assert all(map(torch.equal, whole.parameters(), fresh.parameters()))


@pytest.mark.parametrize("kind", ["here", "workers", "threads"])
def test_what_cannot_be_fetched_names_stage_and_step(kind: str) -> None:
    source: Any = late() if kind == "threads" else data(workers=2 * (kind == "workers"))
    (source.train if kind == "threads" else source.train.dataset).bad = 17  # after it was looked at
    with pytest.raises(DataError, match=r"Stage 'supervised', step \d: .*gone"):
        run(
            supervised(CrossEntropy(), epochs=3, fit=Fit(batch=8)).stages({"student": network()}),
            source,
            progress=False,
        )
    assert not workers()
