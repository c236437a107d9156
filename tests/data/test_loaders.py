"""Loaders with samplers, and streams: nothing that changes what is seen is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lessen.core import Data
from lessen.core.data import batches, examples_digest
from lessen.core.errors import DataError
from lessen.data import load, loaders
from lessen.data.reading import examples_of

X, Y = torch.arange(60.0)[:, None], torch.arange(60) % 4
ROWS = TensorDataset(X, Y)


class Twice(Dataset[Any]):
    """A dataset that is no `TensorDataset`."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i], int(Y[i])


class Changing(Sampler[int]):
    def __init__(self) -> None:
        self.look = 0

    def __iter__(self) -> Iterator[int]:
        self.look += 1
        return iter(range(self.look, self.look + 10))


def seen(data: Data) -> list[list[int]]:
    found = []
    for part in (data.train, data.validation, data.test):
        found.append(sorted(int(value) for batch in batches(part, size=7) for value in batch.inputs))
    return found


@pytest.mark.parametrize("dataset", [ROWS, Twice()], ids=["tensors", "items"])
@pytest.mark.parametrize("kind", ["random", "list", "own generator", "in a batch sampler"])
def test_samplers_of_one_dataset_are_splits(dataset: Any, kind: str) -> None:
    def loader(first: int, last: int) -> DataLoader[Any]:
        if kind == "list":
            return DataLoader(dataset, batch_size=4, sampler=list(range(first, last)))
        sampler = SubsetRandomSampler(range(first, last), torch.Generator() if kind == "own generator" else None)
        if kind == "in a batch sampler":
            return DataLoader(dataset, batch_sampler=BatchSampler(sampler, 4, drop_last=True))
        return DataLoader(dataset, batch_size=4, sampler=sampler)

    state = torch.get_rng_state()
    data = load({"train": loader(0, 30), "validation": loader(30, 40), "test": loader(40, 60)})
    assert seen(data) == [list(range(30)), list(range(30, 40)), list(range(40, 60))]
    assert data.classes == tuple("0123")
    assert torch.equal(torch.get_rng_state(), state)
    again = load({"train": loader(0, 30), "validation": loader(30, 40), "test": loader(40, 60)})
    assert examples_digest(data.train) == examples_digest(again.train) != examples_digest(load(loader(0, 29)).train)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(ROWS, batch_size=7, shuffle=True, drop_last=True),
        DataLoader(ROWS, batch_size=7, sampler=SequentialSampler(ROWS)),
        DataLoader(ROWS, sampler=RandomSampler(ROWS)),
        DataLoader(Twice(), sampler=SubsetRandomSampler(range(60))),
    ],
)
def test_all_that_a_loader_shows_is_there(loader: Any) -> None:
    assert len(examples_of(loader, what="it")) == 60


REFUSED: list[tuple[Any, str]] = [
    (DataLoader(ROWS, sampler=WeightedRandomSampler([1.0] * 60, 60)), "WeightedRandomSampler.*Repeat the rare"),
    (DataLoader(ROWS, sampler=RandomSampler(ROWS, replacement=True)), "RandomSampler.*replacement"),
    (DataLoader(ROWS, sampler=RandomSampler(ROWS, num_samples=20)), "20 of 60"),
    (DataLoader(ROWS, sampler=DistributedSampler(ROWS, 2, 0)), "shares each batch among the processes itself"),
    (DataLoader(ROWS, batch_sampler=[[0, 1], [2, 3]]), "batch_sampler.*composes batches"),
    (DataLoader(Twice(), batch_size=None), "batch_size=None"),
    (DataLoader(ROWS, sampler=Changing()), "other examples in each pass"),
    (DataLoader(ROWS, sampler=[1, 2, 2]), "several times"),
    (DataLoader(ROWS, sampler=[1, 99]), "from 1 to 99, but the dataset has 60"),
    (DataLoader(ROWS, sampler=["a"]), "yields a str"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("loader", "match"), REFUSED)
def test_what_a_sampler_changes_besides_is_refused(loader: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load({"train": loader, "test": ROWS})


def test_a_generator_of_a_loader_is_not_dropped_in_silence() -> None:
    with pytest.warns(UserWarning, match="generator of the loader of the train split is not used"):
        load(DataLoader(ROWS, shuffle=True, generator=torch.Generator()))


class Stream(IterableDataset[Any]):
    """Yields items, or whole batches."""

    def __init__(self, *, batched: bool = False, endless: bool = False) -> None:
        self.batched, self.endless, self.drawn = batched, endless, 0

    def __iter__(self) -> Iterator[Any]:
        for i in range(0, 60, 6) if self.batched else range(60):
            some: Any = slice(i, i + 6) if self.batched else i
            yield {"a": X[some], "b": X[some] + 1, "y": Y[some]}
        while self.endless:
            self.drawn += 1
            yield {"a": torch.zeros(2**20, 1), "b": torch.zeros(2**20, 1), "y": torch.zeros(2**20).long()}


STREAMS = [
    Stream(),
    DataLoader(Stream(), batch_size=8),
    DataLoader(Stream(batched=True), batch_size=None),
    DataLoader(Stream(batched=True), batch_size=None, collate_fn=lambda batch: (batch, batch.pop("y"))),
]


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_of_several_inputs_are_collected(stream: Any) -> None:
    batch = examples_of(stream, what="it").fetch(torch.tensor([7, 3]))
    assert isinstance(batch.inputs, dict)
    assert batch.inputs["a"].tolist() == [[7], [3]]
    assert batch.inputs["b"].tolist() == [[8], [4]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [3, 3]


def test_a_stream_without_end_stops_at_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * 2**20}))
    stream = Stream(batched=True, endless=True)
    with pytest.raises(DataError, match=r"did not end.*map-style"):
        load(DataLoader(stream, batch_size=None))
    assert stream.drawn <= 3  # 16 MiB each


class Lengths(IterableDataset[Any]):
    """300 sequences; a long one comes late."""

    def __iter__(self) -> Iterator[Any]:
        yield from (([7] * (5 if i == 299 else i % 3 + 1), i % 2) for i in range(300))


def test_a_stream_of_several_lengths_is_padded() -> None:
    with pytest.raises(DataError, match="pad="):
        load(Lengths())
    data = load(Lengths(), pad=9, mask="mask")
    for part in (data.train, data.validation, data.test):
        words, mask = part.fetch(torch.arange(len(part))).inputs  # two inputs by position
        assert words.shape == mask.shape == (len(part), 5)  # type: ignore[union-attr]
        assert torch.equal(words == 9, mask == 0)
        assert bool(((words == 7) == (mask == 1)).all())
