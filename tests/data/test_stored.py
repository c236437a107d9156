"""Arrays of every type: which values a network is given."""

import gc
import io
import os
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lessen.core.data import ArrayExamples, Data, batches, examples_digest
from lessen.core.errors import DataError
from lessen.data import files, labels, load
from lessen.data.reading import examples_of
from lessen.data.stored import StoredExamples

SPLITS = ("train", "validation", "test")
TYPES = ["uint8", "int8", "int16", "uint16", "int32", "int64", "bool", "float16", "float32", "float64"]


def all_of(data: Data) -> list[tuple[Tensor, Tensor]]:
    found = []
    for split in SPLITS:
        parts = list(batches(getattr(data, split), size=7))
        found.append((torch.cat([b.inputs for b in parts]), torch.cat([b.labels for b in parts])))
    return found


def values(kind: str) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    if kind.startswith("float"):
        return rng.normal(size=(40, 2, 8)).astype(kind)
    return (np.arange(40 * 16).reshape(40, 2, 8) % 256).astype(kind)


def expected(x: np.ndarray[Any, Any]) -> Tensor:
    """What lessen has always made of an array, all at once."""
    tensor = torch.from_numpy(x)
    if tensor.dtype == torch.uint8:
        return tensor.float().div_(255)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", ["array", "tensor", "dataset", "mapped", "given", "named", "several"])
def test_values_are_those_of_the_whole_array_at_once(kind: str, form: str, tmp_path: Any) -> None:
    x, y = values(kind), np.arange(40) % 4
    np.save(tmp_path / "x.npy", x)
    what: Any = {
        "array": (x, y),
        "tensor": (torch.from_numpy(x), torch.from_numpy(y)),
        "dataset": TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
        "mapped": {"train": (np.load(tmp_path / "x.npy", mmap_mode="r+"), y)},
        "given": {"train": (x, y), "validation": (x, y), "test": (x, y)},
        "named": {"train": ({"a": x, "b": x[:, :1]}, y)},
        "several": {"train": ((x, x[:, ::-1].copy()), y)},
    }[form]
    data = load(what, validation=0.25, test=0.2)
    whole = expected(x)
    order = orders(data, form)
    for split, rows in zip(SPLITS, order, strict=True):
        got = getattr(data, split).fetch(torch.arange(len(rows)))
        assert torch.equal(got.labels, torch.from_numpy(y)[rows])
        inputs = got.inputs
        if form == "named":
            assert torch.equal(inputs["b"], whole[rows][:, :1])
            inputs = inputs["a"]
        if form == "several":
            assert torch.equal(inputs[1], whole[rows].flip(1))
            inputs = inputs[0]
        assert inputs.dtype == whole.dtype
        assert torch.equal(inputs, whole[rows])


def orders(data: Data, form: str) -> list[Tensor]:
    """Which rows the splits hold, worked out from the published rule of cutting."""
    from lessen.data.split import shuffled

    if form == "given":
        return [torch.arange(40)] * 3
    labels = torch.arange(40) % 4
    first = shuffled(40, labels, seed=0, purpose="test")
    test, rest = first[:8], first[8:]
    second = shuffled(32, labels[rest], seed=0, purpose="validation")
    return [rest[second[8:]], rest[second[:8]], test]


def anonymous() -> int:
    """Bytes of memory that this process holds and no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def mapped() -> int:
    """Bytes of files that are mapped into this process and in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("form", "kind"),
    [("mapped", "uint8"), ("mapped", "float16"), ("splits", "uint8"), ("npy", "uint8"), ("npz", "uint8")],
)
def test_a_large_file_stays_on_the_disk(kind: str, form: str, tmp_path: Path) -> None:
    file, size = tmp_path / "x.npy", 96 * 2**20
    x = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(size // 4096, 4096 // np.dtype(kind).itemsize))
    x[::1000] = 1
    y = np.arange(len(x)) % 10
    np.save(tmp_path / "y.npy", y)
    if form == "npz":
        np.savez(tmp_path / "x.npz", x=x, y=y, unused=np.zeros(2**23))
    del x
    gc.collect()
    anonymous_before, mapped_before = anonymous(), mapped()
    peak = [0]

    def look() -> None:
        peak[0] = max(peak[0], anonymous() - anonymous_before)

    if form == "npz":
        data = load(tmp_path / "x.npz")
    elif form == "npy":
        data = load(file, labels=tmp_path / "y.npy")
    else:
        x = np.load(file, mmap_mode="r")
        data = load((x, y) if form == "mapped" else {"train": (x, y), "validation": (x, y), "test": (x[:100], y[:100])})
    look()
    for index in torch.randperm(len(data.train))[:1024].split(128):
        batch = data.train.fetch(index)
        look()
    assert batch.inputs.dtype == torch.float32
    examples_digest(data.train)
    look()
    assert peak[0] < 40 * 2**20
    assert mapped() - mapped_before < 24 * 2**20
    assert examples_digest(data.train) == examples_digest(data.train)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_bytes_in_memory_stay_bytes() -> None:
    x = np.ones((64 * 2**20 // 4096, 4096), np.uint8)
    before = anonymous()
    data = load((x, np.arange(len(x)) % 10))
    for index in torch.randperm(len(data.train))[:1024].split(128):
        data.train.fetch(index)
    assert anonymous() - before < 40 * 2**20


def test_random_rows_of_a_view_of_a_file_are_the_rows(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 255, (50, 6, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", whole)
    for mode in ("r", "r+", "c"):
        for view in (np.s_[10:40], np.s_[::3], np.s_[:, ::2], np.s_[::-1]):
            x = np.load(tmp_path / "x.npy", mmap_mode=mode)[view]  # type: ignore[arg-type]
            index = torch.randperm(len(x))
            got = StoredExamples(x).fetch(index).inputs
            assert torch.equal(got, expected(np.ascontiguousarray(whole[view])[index.numpy()]))
    swapped = np.arange(12, dtype=">f4").reshape(6, 2)
    assert StoredExamples(swapped).fetch(torch.tensor([2])).inputs.tolist() == [[4.0, 5.0]]


def test_what_was_written_into_a_private_mapping_is_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 3), np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x[:] = 7
    data = load({"train": (x, np.arange(20) % 2)})
    assert data.train.fetch(torch.arange(5)).inputs.unique().tolist() == [7.0]
    assert data.example().unique().tolist() == [7.0]


@pytest.mark.parametrize("large", [False, True])
def test_npz_reads_what_is_asked_for(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(files, "LARGE", 1)
    x, y = values("uint8"), np.arange(40) % 4
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=x, y=y, zz=np.full(3000, 0.5))
        content = bytearray((tmp_path / "a.npz").read_bytes())
        with zipfile.ZipFile(tmp_path / "a.npz") as archive:
            place = files._place(tmp_path / "a.npz", archive.getinfo("zz.npy")) + 90
        content[place] ^= 255  # nobody asks for zz, so nobody may read it
        (tmp_path / "a.npz").write_bytes(content)
        data = load(tmp_path / "a.npz", validation=0.25, test=0.2)
        for split, rows in zip(SPLITS, orders(data, "array"), strict=True):
            assert torch.equal(getattr(data, split).fetch(torch.arange(len(rows))).inputs, expected(x)[rows])
    fortran = np.asfortranarray(x)
    np.savez(tmp_path / "f.npz", x=fortran, y=y)
    assert torch.equal(load((x, y)).example(9), load(tmp_path / "f.npz").example(9))


def archive_of(header: bytes, content: bytes, *, kind: int = zipfile.ZIP_DEFLATED, **changed: int) -> bytes:
    """A `.npz` whose `x.npy` has this header; fields of its directory entry can be forged."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content)
        for name, value in changed.items():
            setattr(archive.infolist()[0], name, value)
    return stream.getvalue()


HEADER = b"{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    "content",
    [
        archive_of(HEADER % (b"<f4", b"(1099511627776,)"), b""),
        archive_of(HEADER % (b"<f4", b"(1099511627776,)"), b"", file_size=4 * 2**40 + 128, compress_size=2**30),
        archive_of(HEADER % (b"<f4", b"(1099511627776,)"), b"", file_size=4 * 2**40 + 80),
        archive_of(HEADER % (b"<f4", b"(-2, -2)"), b"\0" * 16),
        archive_of(HEADER % (b"<f4", b"(9223372036854775807, 9223372036854775807)"), b"\0" * 16),
        archive_of(HEADER % (b"<f4", b"(4,)"), b"\0" * 16, flag_bits=1),
        archive_of(HEADER % (b"<f4", b"(4,)"), b"\0" * 16, compress_type=97),
        archive_of(HEADER % (b"<f4", b"(4000000,)"), bytes(16_000_000), kind=zipfile.ZIP_LZMA),
        archive_of(HEADER % (b"<f4", b"(4000000,)"), bytes(16_000_000), kind=zipfile.ZIP_BZIP2),
        archive_of(HEADER % (b"|O", b"(4,)"), b"\0" * 32),
        archive_of(HEADER % (b"<c8", b"(4,)"), b"\0" * 32),
        archive_of(HEADER % (b"<U1", b"(4,)"), b"\0" * 16),
        archive_of(b"(" * 9000 + b"\n", b""),
        archive_of(b"\xff\n", b""),
        b"",
        b"PK\x05\x06" + b"\0" * 18,
    ],
)
def test_headers_that_lie_are_one_error_and_take_no_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            load(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("large", [False, True])
def test_damage_is_one_error_or_does_not_matter(
    save: Any, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(files, "LARGE", 1)
    rng = random.Random(0)
    x, y = values("float32"), np.arange(40) % 4
    save(tmp_path / "a.npz", x=x, y=y)
    whole = (tmp_path / "a.npz").read_bytes()
    reference = load(tmp_path / "a.npz").example(9).clone()
    refused = 0
    for number in range(120):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "b.npz").write_bytes(content)
        try:
            found = load(tmp_path / "b.npz")
        except DataError:
            refused += 1
        else:
            assert torch.equal(found.example(9), reference)
    assert refused > 80


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x02\x00{}", b"nothing at all"])
def test_npy_that_is_none_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy"):
        load(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((10, 4)))
    forged = (tmp_path / "b.npy").read_bytes().replace(b"(10, 4)", b"(99999999999, 4)")
    (tmp_path / "b.npy").write_bytes(forged)
    with pytest.raises(DataError, match=r"b\.npy"):
        load(tmp_path / "b.npy")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_named_pipe_is_no_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path / name)


X = np.zeros((20, 3), np.float32)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ((X, np.arange(20) + 2**40), "numbered from 0"),
        ((X, np.arange(20) * 10**7), "numbered from 0"),
        ((X, np.arange(20) - 1), "numbered from 0"),
        ((X, np.arange(20) % 2 + 1), "numbered from 0"),
        (([[1.0], [2.0, 3.0]] * 10, [0, 1] * 10), "array of numbers"),
        ([1, 2, 3], "Make arrays"),
        ((X.astype(np.complex64), np.arange(20) % 2), "real numbers"),
        ((torch.zeros(20, 3, dtype=torch.complex64), torch.arange(20) % 2), "real numbers"),
        ((torch.zeros(20, 3).to_sparse(), torch.arange(20) % 2), "real numbers"),
        ((torch.zeros(20, 3, device="meta"), torch.arange(20) % 2), "real numbers"),
        ((X.astype(object), np.arange(20) % 2), "real numbers"),
        ((X.astype("datetime64[s]"), np.arange(20) % 2), "real numbers"),
        (({}, np.arange(20) % 2), "hold"),
        ((np.float32(3), np.arange(20) % 2), "hold"),
    ],
)
def test_inputs_and_labels_that_cannot_be_meant(what: Any, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=match):
            load({"train": what} if isinstance(what, tuple) and match != "Make arrays" else what)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_gradient_does_not_come_in_with_the_data() -> None:
    data = load((torch.zeros(20, 3, requires_grad=True), torch.arange(20) % 2))
    assert not data.example().requires_grad


def test_nan_is_found_in_every_floating_type_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessen.data.stored.BLOCK", 64)
    for kind in ("float16", "float32", "float64"):
        for place in (0, 17, 39):
            x = values(kind)
            x[place, 1, 3] = np.inf if place else np.nan
            np.save(tmp_path / "x.npy", x)
            for given in (x, torch.from_numpy(x), np.load(tmp_path / "x.npy", mmap_mode="r")):
                with pytest.raises(DataError, match=rf"train split .*example {place} among"):
                    load({"train": (given, np.arange(40) % 4)})


class Counted(Dataset[Any]):
    """A dataset that counts how often an item is read."""

    def __init__(self, **told: Any) -> None:
        self.read = 0
        self.__dict__.update(told)

    def __len__(self) -> int:
        return 300

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read += 1
        return torch.full((2,), float(i)), i % 3


TRUE = [i % 3 for i in range(300)]


@pytest.mark.parametrize(
    "told",
    [
        {"targets": TRUE},
        {"targets": torch.tensor(TRUE)},
        {"labels": np.array(TRUE)},
        {"samples": [(f"{i}.png", label) for i, label in enumerate(TRUE)]},
    ],
)
@pytest.mark.parametrize("wrap", ["plain", "subset", "joined", "loader", "collated"])
def test_labels_are_read_without_the_items(told: dict[str, Any], wrap: str) -> None:
    dataset = Counted(**told)
    what: Any = {
        "plain": dataset,
        "subset": Subset(dataset, list(range(299, -1, -1))),
        "joined": ConcatDataset([dataset, dataset]),
        "loader": DataLoader(dataset),
        "collated": DataLoader(dataset, collate_fn=collate),
    }[wrap]
    data = load({"train": what, "validation": (X[:, :2], np.zeros(20, int)), "test": (X[:, :2], np.zeros(20, int))})
    assert data.classes == ("0", "1", "2")
    assert dataset.read <= labels.COMPARED + 256  # some to compare, and those that every split is looked at with
    assert torch.equal(data.train.labels[:50], data.train.fetch(torch.arange(50)).labels)
    cut = load(what, test=0.5)
    assert cut.test.fetch(torch.arange(len(cut.test))).labels.bincount().tolist() == [len(cut.test) // 3] * 3


def collate(items: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])


def test_labels_that_are_not_those_of_the_items_are_not_believed() -> None:
    data = load(Counted(targets=[5] * 300))
    assert data.classes == ("0", "1", "2")


def test_reading_many_labels_one_by_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "NOTICED", 100)
    with pytest.warns(UserWarning, match="targets"):
        assert load(Counted()).classes == ("0", "1", "2")
    assert load(Counted(classes=["a", "b", "c"])).classes == ("a", "b", "c")


def digests(what: Any) -> list[str]:
    data = load(what)
    return [examples_digest(getattr(data, split)) for split in SPLITS]


@pytest.mark.parametrize("form", ["array", "tensor", "mapped", "named", "dataset", "memory"])
def test_the_digest_is_that_of_the_content(form: str, tmp_path: Path) -> None:
    def make(change: str = "") -> Any:
        x, y = values("uint8"), np.arange(40) % 4
        if change == "input":
            x[7, 1, 3] ^= 1
        if change == "label":
            y[7] ^= 1
        if change == "order":
            x[[7, 8]] = x[[8, 7]]
        file = tmp_path / f"{change}.npy"
        np.save(file, x)
        made: dict[str, Any] = {
            "array": (x, y),
            "tensor": (torch.from_numpy(x), torch.from_numpy(y)),
            "mapped": (np.load(file, mmap_mode="r"), y),
            "named": ({"a": x, "b": x[:, 0]}, y),
            "dataset": DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), collate_fn=collate),
            "memory": ArrayExamples(torch.from_numpy(x).float(), torch.from_numpy(y)),
        }
        return {"train": made[form]}

    first = digests(make())
    assert len(set(first)) == 3
    assert digests(make()) == first
    for change in ("input", "label", "order"):
        assert all(new != old for new, old in zip(digests(make(change)), first, strict=True))
    one, two = examples_of(make()["train"], what="x"), examples_of(make("label")["train"], what="x")
    assert examples_digest(one, labels=False) == examples_digest(two, labels=False)
