"""Items of every form, alone and in everything that holds them: what is fetched is what torch's own collation makes."""

from __future__ import annotations

import functools
import random
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from lessen.core.batch import Batch
from lessen.core.data import Data, batches, examples_digest
from lessen.core.errors import DataError
from lessen.data import load
from lessen.data.reading import examples_of
from lessen.data.roles import Roles

COUNT = 24
Sample = namedtuple("Sample", ["image", "label"])  # as people write them


def image(i: int) -> Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(i))


def table(i: int) -> Tensor:
    return torch.arange(i, i + 4, dtype=torch.float64)


# Name -> the label of item i, and its dtype in a batch.
LABELS: dict[str, tuple[Callable[[int], Any], torch.dtype]] = {
    "number": (lambda i: i % 3, torch.int64),
    "tensor of one": (lambda i: torch.tensor(i % 3), torch.int64),
    "float": (lambda i: i / 7, torch.float32),
    "several": (lambda i: torch.tensor([i % 2, 1, 0]).float(), torch.float32),
    "list": (lambda i: [float(i), 0.5], torch.float32),
    "array": (lambda i: np.array([i, 2 * i], np.float64), torch.float32),
    "map": (lambda i: torch.full((4, 5), i % 3), torch.int64),
    "bytes": (lambda i: np.full((4, 5), i % 3, np.uint8), torch.int64),
}

# Name -> an item, the roles that it needs, and its inputs as a network should get them.
ITEMS: dict[str, tuple[Callable[[int, Any], Any], dict[str, Any], Callable[[int], Any]]] = {
    "pair": (lambda i, y: (image(i), y), {}, image),
    "list pair": (lambda i, y: [image(i), y], {}, image),
    "arrays": (lambda i, y: (image(i).numpy(), y), {}, image),
    "two inputs": (lambda i, y: ((image(i), table(i)), y), {}, lambda i: (image(i), table(i))),
    "named inputs": (
        lambda i, y: ({"a": image(i), "b": table(i)}, y), {}, lambda i: {"a": image(i), "b": table(i)},
    ),
    "dict": (lambda i, y: {"image": image(i), "label": y}, {}, image),
    "dict of three": (
        lambda i, y: {"a": image(i), "b": i, "Target": y}, {}, lambda i: {"a": image(i), "b": i},
    ),
    "named tuple": (lambda i, y: Sample(image(i), y), {}, image),
    "by key": (
        lambda i, y: {"a": image(i), "id": f"{i}", "age": y, "label": 7}, {"inputs": "a", "labels": "age"}, image,
    ),
    "by keys": (
        lambda i, y: {"a": image(i), "b": table(i), "name": "x", "age": y},
        {"inputs": ("a", "b"), "labels": "age"},
        lambda i: {"a": image(i), "b": table(i)},
    ),
    "by position": (lambda i, y: (image(i), f"{i}", y), {"inputs": 0, "labels": 2}, image),
    "by positions": (
        lambda i, y: (image(i), y, table(i)), {"inputs": (2, 0), "labels": 1}, lambda i: (table(i), image(i)),
    ),
    "label alone named": (
        lambda i, y: (image(i), y, table(i)), {"labels": 1}, lambda i: (image(i), table(i)),
    ),
    "nested": (
        lambda i, y: {"x": {"image": image(i)}, "meta": {"y": y, "who": "me"}},
        {"inputs": "x.image", "labels": "meta.y"},
        image,
    ),
    "nested in tuple": (
        lambda i, y: (image(i), {"y": y, "boxes": [1]}), {"inputs": 0, "labels": "1.y"}, image,
    ),
    "renamed": (
        lambda i, y: {"image": image(i), "meta": {"t": table(i)}, "y": y},
        {"inputs": {"pixels": "image", "extra": "meta.t"}},
        lambda i: {"pixels": image(i), "extra": table(i)},
    ),
    "a number": (lambda i, y: (float(i), y), {}, float),
    "list of numbers": (lambda i, y: ([float(i), 2.0, 3.0], y), {}, lambda i: torch.tensor([float(i), 2.0, 3.0])),
    "words": (lambda i, y: (torch.tensor([i, 1]), y), {}, lambda i: torch.tensor([i, 1])),
}  # fmt: skip


class Items(Dataset[Any]):
    """A dataset of items that a function makes."""

    def __init__(self, make: Callable[[int], Any], count: int = COUNT) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.make(i)


class Stream(IterableDataset[Any]):
    def __init__(self, items: Dataset[Any]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items[i] for i in range(COUNT))


CHOSEN = [3, 5, 8, 13, 21, 22, 1]

# Name -> what holds the dataset, and which of its items are in it, in which order.
HOLDERS: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "alone": (lambda d: d, list(range(COUNT))),
    "list": (lambda d: [d[i] for i in range(COUNT)], list(range(COUNT))),
    "subset": (lambda d: Subset(d, CHOSEN), CHOSEN),
    "joined": (lambda d: ConcatDataset([d, Subset(d, CHOSEN)]), [*range(COUNT), *CHOSEN]),
    "loader": (lambda d: DataLoader(d, batch_size=5, shuffle=True, drop_last=True), list(range(COUNT))),
    "workers": (lambda d: DataLoader(d, batch_size=5), list(range(COUNT))),
    "sampler": (lambda d: DataLoader(d, sampler=SubsetRandomSampler(CHOSEN)), sorted(CHOSEN)),
    "list as sampler": (lambda d: DataLoader(d, batch_size=3, sampler=CHOSEN), sorted(CHOSEN)),
    "collated": (lambda d: DataLoader(d, collate_fn=gathered), list(range(COUNT))),
    "stream": (Stream, list(range(COUNT))),
    "loaded stream": (lambda d: DataLoader(Stream(d), batch_size=5), list(range(COUNT))),
}


def gathered(items: list[Any]) -> Any:
    return default_collate([plain(item) for item in items])


def plain(item: Any) -> Any:
    """An item without what `default_collate` does not stack: lists of numbers become arrays, boxes go."""
    if isinstance(item, dict):
        return {name: plain(value) for name, value in item.items() if name != "boxes"}
    if isinstance(item, list) and isinstance(item[0], float):
        return torch.tensor(item)
    if isinstance(item, tuple | list) and not hasattr(item, "_fields"):
        return [plain(value) for value in item]
    return Sample(*map(plain, item)) if isinstance(item, tuple) else item


def cast(value: Any) -> Any:
    """A tree of tensors as a network takes it."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value.long()
    if isinstance(value, dict):
        return {name: cast(part) for name, part in value.items()}
    return tuple(map(cast, value))


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and found.dtype == wanted.dtype and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return isinstance(found, dict) and list(found) == list(wanted) and all(same(found[k], wanted[k]) for k in found)
    return isinstance(found, tuple) and len(found) == len(wanted) and all(map(same, found, wanted))


def cases() -> Iterator[tuple[str, str, str]]:
    """Every item in every holder; every label in every holder and with every item."""
    labels, turn = list(LABELS), 0
    for item in ITEMS:
        for holder in HOLDERS:
            turn += 1
            for label in labels if item in {"pair", "dict of three"} else [labels[turn % len(labels)]]:
                # torch takes lists of numbers apart before lessen sees them
                if holder != "loaded stream" or not ("list" in {label, item.split()[0]} or item == "nested in tuple"):
                    yield item, holder, label


@pytest.mark.parametrize(("item", "holder", "label"), list(cases()))
def test_what_is_fetched_is_what_collation_makes(item: str, holder: str, label: str) -> None:
    make, roles, inputs = ITEMS[item]
    target, dtype = LABELS[label]
    hold, order = HOLDERS[holder]
    examples, again = (
        examples_of(hold(Items(lambda i: make(i, target(i)))), what="the train split", roles=Roles(**roles))
        for _ in range(2)
    )
    assert len(examples) == len(order)
    chosen = torch.tensor([2, 0, 6])
    batch = examples.fetch(chosen)
    wanted = [order[int(i)] for i in chosen]
    assert batch.index.tolist() == [2, 0, 6]
    assert same(batch.inputs, cast(default_collate([inputs(i) for i in wanted])))
    labels = torch.stack([torch.as_tensor(target(i)) for i in wanted])
    assert batch.labels is not None
    assert same(batch.labels, labels.to(dtype))
    told = getattr(examples, "labels", None)
    assert told is None or torch.equal(told[chosen], batch.labels)
    assert examples_digest(examples) == examples_digest(again)


def test_the_digest_tells_inputs_labels_and_roles_apart() -> None:
    def digest(change: int = 0, **roles: Any) -> str:
        items = Items(lambda i: {"a": image(i + change + 50), "b": image(i), "y": i % 3 + (change == 0), "z": i})
        return examples_digest(examples_of(items, what="it", roles=Roles(**roles)))

    found = [digest(inputs="a"), digest(inputs="b"), digest(1, inputs="a"), digest(1, inputs="b")]
    found += [digest(inputs="a", labels="z"), digest(inputs="a", labels=None), digest(inputs=("a",), labels="y")]
    assert len(set(found)) == len(found)
    assert digest(inputs="a") == found[0]


def items(make: Callable[[int], Any], count: int = 60) -> Items:
    return Items(make, count)


PICTURE = Image.new("RGB", (4, 4))

REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (items(lambda i: (image(i), 5, i)), {}, r"3 elements .*inputs=\(0, 1\), labels=2"),
    (TensorDataset(torch.zeros(9, 2), torch.zeros(9, 3), torch.zeros(9)), {}, r"3 elements .*labels=2"),
    ((torch.zeros(9, 2), torch.zeros(9, 3), torch.zeros(9)), {}, r"3 arrays came.*labels=2"),
    (items(lambda i: {"x": image(i), "y": 1, "label": 2}), {}, r"'y' and 'label'.*Name it"),
    (items(lambda i: {"x": image(i), "text": "a", "y": 1}), {}, r"'text' of item .*text.*tokenizer"),
    (items(lambda i: (image(i), {"boxes": image(i), "kinds": 3})), {}, r"dict of boxes, kinds.*labels='1\.boxes'"),
    (items(lambda i: ({"a": {"b": image(i)}}, i)), {}, r"inside another .*path"),
    (items(lambda i: {"x": image(i), "y": i}), {"labels": "yy"}, "nothing at 'yy': did you mean 'y'"),
    (items(lambda i: (image(i), i)), {"labels": 4}, "nothing at 4"),
    (items(lambda i: (image(i), i, i)), {"inputs": 0, "labels": (1, 2)}, "names several"),
    (items(lambda i: {"a": {"x": 1.0}, "b": {"x": 2.0}}), {"inputs": ("a.x", "b.x")}, r"inputs=\{"),
    (items(lambda i: {"x": image(i), "m": {"y": i}}), {"labels": "m.y"}, "inputs have to be named"),
    (items(lambda i: (torch.zeros(3, 4 + i % 2, 4), 1)), {}, r"\(3, [45], 4\).*\(3, [45], 4\).*Resize"),
    (items(lambda i: (PICTURE.convert("L" if i % 2 else "RGB"), 1)), {}, r"convert\('RGB'\)"),
    (items(lambda i: (PICTURE.convert("F"), 1)), {}, "scale"),
    (items(lambda i: (image(i), PICTURE)), {}, "numbers of classes"),
    (items(lambda i: (list(range(i % 3 + 1)), 1)), {}, r"pad="),
    (items(lambda i: (image(i), None if i == 4 else 0)), {}, "no label"),
    (items(lambda i: "words"), {}, "text"),
    (items(lambda i: None), {}, "None"),
    (items(lambda i: (image(i), i)), {"inputs": True}, "a key or a position"),
    ([1.0, 2.0, 3.0], {}, "Make arrays"),
    ([torch.zeros(4), torch.zeros(4)], {}, "two examples, or inputs and labels"),
    (({"x": torch.zeros(9, 2)}, {"y": torch.zeros(9), "z": torch.zeros(9)}), {}, "labels .*dict of y, z"),
    ((torch.zeros(9, 2), torch.zeros(8)), {}, r"\[9, 8\]"),
    (({"a": torch.zeros(9, 2), "b": torch.zeros(7, 2)}, torch.zeros(9)), {}, r"\[9, 7, 9\]"),
]


@pytest.mark.parametrize(("what", "roles", "match"), REFUSED)
def test_what_is_not_clear_is_refused_with_the_fix(what: Any, roles: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(what, **roles)


def three(found: Data) -> list[int]:
    return [len(found.train), len(found.validation), len(found.test)]


def test_inputs_and_labels_are_not_train_and_test() -> None:
    left, right, y = torch.randn(50, 3), torch.randn(50, 5), torch.arange(50) % 4
    for inputs in ((left, right), [left, right], {"left": left, "right": right}):
        data = load((inputs, y), test=0.2, validation=0.25)
        assert three(data) == [30, 10, 10]
        batch = data.train.fetch(torch.arange(3))
        assert batch.labels.tolist() == y[data.train.chosen[:3]].tolist()  # type: ignore[attr-defined,union-attr]
        assert isinstance(batch.inputs, dict if isinstance(inputs, dict) else tuple)
    pairs = load(((left, y), (left[:10], y[:10])), validation=0.2)
    assert three(pairs) == [40, 10, 10]
    assert three(load((((left, right), y), ((left[:10], right[:10]), y[:10])), validation=0.2)) == [40, 10, 10]
    assert three(load(((left, y), (left[:7], y[:7]), (left[:10], y[:10])))) == [50, 7, 10]
    sets = TensorDataset(left, y), TensorDataset(left[:10], y[:10])
    assert three(load(sets, validation=0.2)) == three(load(list(map(DataLoader, sets)), validation=0.2)) == [40, 10, 10]
    columns = load({"image": left, "extra": right, "label": y}, validation=0.25)
    assert set(columns.example()) == {"image", "extra"}
    named = load((left, right, y), inputs=(0, 1), labels=2)
    assert three(named) == [36, 4, 10]
    assert load(TensorDataset(left, right, y), inputs=1, labels=2).example().shape == (2, 5)


def test_plain_lists() -> None:
    rows, y = [[float(i), 1.0] for i in range(20)], [i % 2 for i in range(20)]
    pair = load((rows, y))
    assert pair.example().shape == (2, 2)
    assert pair.classes == ("0", "1")
    assert load([(row, label) for row, label in zip(rows, y, strict=True)]).classes == ("0", "1")
    assert load([(torch.tensor(row), label) for row, label in zip(rows, y, strict=True)]).example().shape == (2, 2)
    assert load(rows).train.fetch(torch.arange(3)).labels is None
    assert load([torch.tensor(row) for row in rows]).example().dtype == torch.float32


def test_pictures_of_every_mode() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    colour = Image.fromarray(pixels)
    clear = colour.copy()
    clear.putalpha(7)
    wanted = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    for picture in (colour, clear):
        found = load(items(lambda i, p=picture: (p, i % 2))).example()  # type: ignore[misc]
        assert torch.equal(found[0], wanted)  # type: ignore[index]
    grey = load(items(lambda i: {"image": colour.convert("L"), "label": i % 2})).example()
    assert grey.shape == (2, 1, 4, 4)  # type: ignore[union-attr]
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert load(items(lambda i: (deep, 1.0))).example().unique().tolist() == [1.0]  # type: ignore[union-attr]
    drawn = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 3)
    labels = load(items(lambda i: (colour, drawn))).train.fetch(torch.arange(2)).labels
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels[0].tolist() == np.asarray(drawn).tolist()


def test_several_lengths_are_padded() -> None:
    tokens = items(lambda i: {"words": list(range(1, i % 3 + 2)), "y": i % 2})
    batch = load({"train": tokens}, inputs="words", pad=9, mask="mask").train
    whole = next(batches(batch, size=100)).inputs
    assert isinstance(whole, dict)
    assert torch.equal(whole["words"] == 9, whole["mask"] == 0)
    assert {tuple(row) for row in whole["words"].tolist()} == {(1, 9, 9), (1, 2, 9), (1, 2, 3)}
    by_place = load([([1] * (i % 3 + 1), i % 2) for i in range(60)], pad=0, mask="any").train
    assert isinstance(next(batches(by_place, size=9)).inputs, tuple)
    frames = load([(torch.ones(i % 3 + 1, 2), i % 2) for i in range(60)], pad=-1).train
    assert next(batches(frames, size=40)).inputs.shape == (40, 3, 2)  # type: ignore[union-attr]


def test_tokenised_columns_are_padded_as_tokenizers_do() -> None:
    def made(i: int) -> dict[str, Any]:
        length = i % 3 + 1
        return {"input_ids": [5] * length, "attention_mask": [1] * length, "labels": [2] * length}

    batch = next(batches(load(items(made)).train, size=30))
    assert isinstance(batch.inputs, dict)
    assert batch.labels is not None
    gap = batch.inputs["attention_mask"] == 0
    assert gap.any()
    assert torch.equal(gap, batch.inputs["input_ids"] == 0)
    assert torch.equal(gap, batch.labels == -100)
    named = next(batches(load(items(made), pad={"input_ids": 7, "labels": -1}).train, size=30))
    assert named.labels is not None
    assert (named.inputs["input_ids"][gap] == 7).all()  # type: ignore[index, call-overload]
    with pytest.raises(DataError, match="pad="):
        load(items(lambda i: {"input_ids": [5] * (i % 3 + 1), "label": 1}))


def test_ignored_labels() -> None:
    maps = torch.arange(9).repeat(20, 1).reshape(20, 3, 3) % 3
    maps[:, 0, 0] = 255
    for what in ((torch.zeros(20, 1, 3, 3), maps), [(torch.zeros(1, 3, 3), one) for one in maps]):
        labels = load(what, ignored=255).train.fetch(torch.arange(4)).labels
        assert labels is not None
        assert labels.unique().tolist() == [-100, 0, 1, 2]


GLOBAL = np.random.default_rng(5)

# Name -> the generator that a dataset holds, and how a number is drawn from it.
MEANS: dict[str, tuple[Any, Callable[[Any], float]]] = {
    "torch": (None, lambda own: float(torch.rand(()))),
    "numpy": (None, lambda own: np.random.random()),
    "python": (None, lambda own: random.random()),
    "numpy generator": (np.random.default_rng(0), lambda own: own.random()),
    "numpy state": (np.random.RandomState(0), lambda own: own.random_sample()),
    "python generator": (random.Random(0), lambda own: own.random()),
    "torch generator": (torch.Generator(), lambda own: float(torch.rand((), generator=own))),
    "method": (np.random.default_rng(3).normal, lambda own: own()),
    "in a list": ([{"a": np.random.default_rng(3)}], lambda own: own[0]["a"].random()),
    "partial": (functools.partial(random.Random(3).uniform, 0), lambda own: own(1)),
    "global": (None, lambda own: GLOBAL.random()),
    "hidden": (None, lambda own: np.random.default_rng().random()),
}


class Noisy(Dataset[Any]):
    """A dataset that draws for each item, by one of several means."""

    def __init__(self, means: str) -> None:
        self.own, self.draw = MEANS[means]

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.tensor([float(i), float(self.draw(self.own))]), i % 3


def values(batch: Batch) -> Tensor:
    assert isinstance(batch.inputs, Tensor)
    return batch.inputs


@pytest.mark.parametrize("means", [name for name in MEANS if name != "hidden"])
def test_a_dataset_that_draws_is_noticed_and_shows_one_fixed_look(means: str) -> None:
    with pytest.warns(UserWarning, match="validation and test split draws random numbers") as caught:
        data = load(Noisy(means))
    assert len(caught) == 1
    index = torch.arange(len(data.test))
    assert torch.equal(values(data.test.fetch(index)), values(data.test.fetch(index)))
    assert torch.equal(values(data.test.fetch(index))[3:5], values(data.test.fetch(index[3:5])))
    fixed = TensorDataset(torch.zeros(9, 2), torch.arange(9) % 3)
    load({"train": Noisy(means), "validation": fixed, "test": fixed})  # only training draws: nothing to say


def test_a_dataset_whose_draws_no_seed_decides_is_refused() -> None:
    with pytest.raises(DataError, match="no seed decides"):
        load(Noisy("hidden"))
    fixed = TensorDataset(torch.zeros(9, 2), torch.arange(9) % 3)
    assert len(load({"train": Noisy("hidden"), "validation": fixed, "test": fixed}).train) == 60


@pytest.mark.parametrize(
    "what",
    [
        (torch.zeros(60, 4), torch.arange(60) % 3),
        TensorDataset(torch.zeros(60, 4), torch.arange(60) % 3),
        DataLoader(Noisy("torch"), collate_fn=gathered),
    ],
)
def test_padding_that_would_not_happen_is_refused(what: Any) -> None:
    for said in ({"pad": 0}, {"mask": "mask"}):
        with pytest.raises(DataError, match="Leave it out"):
            load(what, **said)


class Maps(Dataset[Any]):
    """Pictures with a map of classes each."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        place = torch.arange(16).reshape(4, 4) + i
        return torch.zeros(3, 4, 4), torch.tensor(self.values)[place % len(self.values)]


def as_arrays(maps: Maps) -> tuple[Tensor, np.ndarray[Any, Any]]:
    return torch.zeros(40, 3, 4, 4), np.stack([maps[i][1].numpy() for i in range(40)]).astype(np.int16)


@pytest.mark.parametrize("form", [lambda maps: maps, as_arrays], ids=["items", "arrays"])
def test_maps_name_their_classes(form: Any) -> None:
    assert load(form(Maps([0, 1, 2]))).classes == ("0", "1", "2")
    assert load(form(Maps([0, 2, -100]))).classes == ("0", "1", "2")
    assert load(form(Maps([0, 1, 255])), ignored=255).classes == ("0", "1")
    assert load(form(Maps([0, 1, 255])), classes=tuple(map(str, range(256)))).classes is not None
    for values, match in (([0, 1, 255], "ignored=255"), ([1, 2, 3], "numbered from 0"), ([0, -1], "numbered from 0")):
        with pytest.raises(DataError, match=match):
            load(form(Maps(values)))


def test_sequences_name_no_classes_and_floats_stay() -> None:
    for labels in (torch.arange(60).reshape(20, 3), torch.rand(20, 3), torch.eye(4).repeat(5, 1)):
        data = load((torch.zeros(20, 2), labels))
        assert data.classes is None
        found = data.train.fetch(torch.arange(3)).labels
        assert found is not None
        assert found.dtype == labels.dtype
        assert found.shape[1:] == labels.shape[1:]
