"""Batches that are fetched ahead are those that would have been fetched when asked for."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lessen.core import ahead as loading
from lessen.core.ahead import Loading, Part, ahead
from lessen.core.batch import Batch
from lessen.core.errors import DataError
from lessen.core.examples import SubsetExamples
from lessen.data.items import ItemExamples


@dataclass
class Slow:
    """Examples that count how many batches were fetched, and wait longer for even ones."""

    loading: Loading = field(default_factory=lambda: Loading(threads=3))
    bad: int = -1
    fetched: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return 60

    def fetch(self, index_N: Tensor) -> Batch:
        time.sleep(0.002 if int(index_N[0]) % 2 == 0 else 0)
        self.fetched.append(int(index_N[0]))
        if self.bad in index_N.tolist():
            raise DataError(f"example {self.bad} is bad")
        return Batch(index_N.float()[:, None], index_N)


class Augmented(Dataset[Any]):
    """A dataset that draws from all three generators, as those that augment themselves do."""

    def __init__(self, bad: str = "") -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if self.bad == "raises" and i == 17:
            raise OSError("no such picture")
        if self.bad == "shape" and i == 17:
            return torch.zeros(5), 0
        if self.bad == "dies" and i == 17:
            psutil.Process().kill()
        return torch.tensor([i + random.random(), np.random.random(), float(torch.rand(()))]), i % 3


def parts(count: int = 60, size: int = 5) -> Iterator[Part]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return ((100 + number, part) for number, part in enumerate(order.split(size)))


def workers() -> list[Any]:
    return [t for t in threading.enumerate() if t.name.startswith("lessen-data")] + psutil.Process().children()


def test_threads_keep_the_order_and_end() -> None:
    found = list(ahead(Slow(), parts()))
    assert [b.index.tolist() for b in found] == [index.tolist() for _, index in parts()]
    assert all(torch.equal(b.inputs[:, 0], b.index.float()) for b in found)
    assert not workers()


def test_no_more_than_four_batches_wait_and_large_ones_wait_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(loading=Loading(threads=4))
    stream = ahead(slow, parts())
    for number in range(1, 7):
        next(stream)
        time.sleep(0.02)
        assert number < len(slow.fetched) <= number + 4
    stream.close()
    monkeypatch.setattr(loading, "AHEAD_BYTES", 30)  # a batch takes 20 bytes
    slow = Slow(loading=Loading(threads=4))
    stream = ahead(slow, parts())
    for number in range(1, 9):
        next(stream)
        time.sleep(0.02)
        assert len(slow.fetched) <= number + 1
    stream.close()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_arrives_with_its_batch(threads: int) -> None:
    good = next(number for number, (_, index) in enumerate(parts()) if 17 in index.tolist())
    stream = ahead(Slow(loading=Loading(threads=threads), bad=17), parts())
    for _ in range(good):
        next(stream)
    with pytest.raises(DataError, match="example 17 is bad"):
        next(stream)
    assert not workers()


def test_closing_or_dropping_ends_the_threads() -> None:
    stream = ahead(Slow(), parts())
    next(stream)
    assert workers()
    stream.close()
    assert not workers()
    stream = ahead(Slow(), parts())
    next(stream)
    del stream
    assert not workers()


def test_memory_is_fetched_without_threads() -> None:
    stream = ahead(Slow(loading=loading.HERE), parts())
    next(stream)
    assert not workers()


def loader(count: int, **settings: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(**settings), num_workers=count)


def test_workers_of_a_loader_give_what_this_process_gives() -> None:
    subset = torch.arange(40).flip(0)[:30]
    found = []
    for count in (0, 1, 2):
        examples = SubsetExamples(ItemExamples(Augmented(), loader=loader(count)), subset)
        state = torch.get_rng_state(), random.getstate()
        stream = ahead(examples, parts(30, 4))
        first = next(stream)
        assert bool(workers()) is (count > 0)
        found.append([first, *stream])
        assert torch.equal(state[0], torch.get_rng_state())
        assert random.getstate() == state[1]
        assert not workers()
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert torch.equal(mine.inputs, theirs.inputs)
            assert torch.equal(mine.index, theirs.index)
            assert torch.equal(mine.labels, theirs.labels)
    examples = ItemExamples(Augmented())
    alone, many = examples.fetch(torch.tensor([5])), examples.fetch(torch.arange(9))
    assert torch.equal(alone.inputs[0], many.inputs[5])  # looked at again, it is what it was
    again = [b.inputs for b in ahead(ItemExamples(Augmented()), ((seed + 1, i) for seed, i in parts(30, 4)))]
    assert not any(torch.equal(mine.inputs, other) for mine, other in zip(found[0], again, strict=True))


def test_no_workers_are_started_for_two_batches() -> None:
    stream = ahead(ItemExamples(Augmented(), loader=loader(2)), parts(10))
    assert len(next(stream)) == 5
    assert not workers()
    assert len(list(stream)) == 1


@pytest.mark.parametrize(("bad", "match"), [("raises", "Item 17 .*no such picture"), ("shape", "cannot be collated")])
@pytest.mark.parametrize("count", [0, 2])
def test_what_a_dataset_raises_is_one_error(bad: str, match: str, count: int) -> None:
    with pytest.raises(DataError, match=match):
        list(ahead(ItemExamples(Augmented(bad), loader=loader(count, bad=bad)), parts(40)))
    assert not workers()


def test_a_worker_that_dies_is_an_error() -> None:
    """In a process of its own: PyTorch raises once more in whatever runs when the system tells of the death."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120, check=False)
    assert "DataError" in done.stderr.splitlines()[-1], done.stderr
    assert "worker" in done.stderr.splitlines()[-1]
    assert done.stdout == "no workers left\n"


if __name__ == "__main__":
    try:
        list(ahead(ItemExamples(Augmented("dies"), loader=loader(1, bad="dies")), parts(40)))
    finally:
        print("no workers left" if not workers() else "workers left", flush=True)
