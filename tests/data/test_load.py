"""Every way to name data, and every way in which it can be wrong."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lessen.core import Data
from lessen.core.data import batches
from lessen.core.errors import DataError, MissingExtraError, SettingError
from lessen.data import Arrays, Digits, FashionMNIST, HuggingFace, ImageFolder, load
from lessen.data.fashion_mnist import read_idx
from lessen.data.huggingface import _image


def everything(data: Data) -> list[torch.Tensor]:
    return [torch.cat([b.inputs for b in batches(getattr(data, s), size=64)]) for s in ("train", "validation", "test")]


def arrays(count: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 4)), np.arange(count) % classes


def test_digits_are_split_evenly_once_each() -> None:
    data = load("digits")
    data.check()
    train, validation, test = everything(data)
    assert (len(train), len(validation), len(test)) == (1078, 270, 449)
    whole = torch.cat([train, validation, test])
    assert len(whole.unique(dim=0)) == 1797
    assert whole.mean().abs() < 0.01
    assert whole.std() == pytest.approx(1, abs=0.01)
    for split in (data.train, data.validation, data.test):
        shares = split.labels.bincount() / len(split)
        assert shares.min() > 0.09
        assert shares.max() < 0.11


def test_the_seed_moves_validation_and_never_the_test() -> None:
    one, two, again = Digits(seed=1).load(), Digits(seed=2).load(), Digits(seed=1).load()
    assert torch.equal(one.test.inputs, two.test.inputs)
    assert not torch.equal(one.validation.inputs, two.validation.inputs)
    assert torch.equal(one.validation.inputs, again.validation.inputs)


def test_fashion_mnist_is_the_published_one() -> None:
    try:
        data = load("fashion_mnist", limit=500)
    except (DataError, MissingExtraError):
        pytest.skip("Fashion-MNIST is not on this machine")
    assert (len(data.train), len(data.validation), len(data.test)) == (500, 500, 500)
    assert data.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert data.train.inputs.shape == (500, 1, 28, 28)
    assert data.train.inputs.std() == pytest.approx(1, abs=0.05)
    assert len(data.classes or ()) == 10


def idx(folder: Path, name: str, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    (folder / name).write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_fashion_mnist_from_a_folder_and_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 20)):
        idx(folder, f"{name}-images-idx3-ubyte.gz", rng.integers(0, 255, (count, 28, 28)))
        idx(folder, f"{name}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    data = FashionMNIST(root=folder, validation=10).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    monkeypatch.setenv("LESSEN_DATA", str(tmp_path))
    assert len(load("fashion_mnist", validation=20).train) == 20
    with pytest.raises(DataError, match=r"cut a validation split of 40 from 40"):
        FashionMNIST(root=folder, validation=40).load()
    file = folder / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-3]))
    with pytest.raises(DataError, match=r"t10k-labels.*not a whole IDX"):
        FashionMNIST(root=folder, validation=10).load()
    file.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(file)


def test_fashion_mnist_that_is_nowhere_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        FashionMNIST(root=tmp_path).load()


def images(folder: Path, count: int, size: tuple[int, int] = (6, 5)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")


def test_folder_of_images_with_and_without_splits(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        images(tmp_path / "flat" / name, 10)
        images(tmp_path / "split" / "train" / name, 6)
        images(tmp_path / "split" / "val" / name, 2)
        images(tmp_path / "split" / "test" / name, 3)
    flat = load(tmp_path / "flat", test=0.2, validation=0.25)
    assert (len(flat.train), len(flat.validation), len(flat.test)) == (12, 4, 4)
    assert flat.classes == ("cat", "dog")
    inputs = everything(flat)[0]
    assert inputs.shape == (12, 3, 6, 5)
    assert inputs.mean().abs() < 0.1
    split = load(str(tmp_path / "split"), size=(4, 4), channels=1)
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 4, 6)
    assert everything(split)[2].shape == (6, 1, 4, 4)
    own = ImageFolder(folder=tmp_path / "split", mean=(0.0, 0.0, 0.0), spread=(1.0, 1.0, 1.0)).load()
    pixels = np.asarray(Image.open(tmp_path / "split" / "train" / "cat" / "00.png"))
    np.testing.assert_allclose(everything(own)[0][0].permute(1, 2, 0).numpy(), pixels / 255, atol=1e-6)


def test_folders_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        ImageFolder(folder=tmp_path / "nowhere").load()
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="No images"):
        load(tmp_path / "empty")
    images(tmp_path / "one" / "train" / "cat", 4)
    images(tmp_path / "one" / "test" / "dog", 4)
    with pytest.raises(DataError, match="dog"):
        load(tmp_path / "one")
    images(tmp_path / "sizes" / "cat", 8)
    images(tmp_path / "sizes" / "dog", 8, size=(9, 9))
    with pytest.raises(DataError, match="size="):
        load(tmp_path / "sizes").check()
    images(tmp_path / "broken" / "cat", 8)
    bad = tmp_path / "broken" / "cat" / "03.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"03\.png"):
        load(tmp_path / "broken").check()
    with pytest.raises(SettingError, match="mean has 2"):
        load(tmp_path / "sizes", size=(4, 4), mean=(0.1, 0.2), spread=(1.0,))


def test_arrays_in_memory_and_in_a_file(tmp_path: Path) -> None:
    x, y = arrays()
    data = load((x, y), validation=0.25, test=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 12, 12)
    assert data.classes == ("0", "1", "2")
    assert data.example().dtype == torch.float32
    assert data.train.labels.bincount().tolist() == [12, 12, 12]
    pair = load(((x, y), (x[:9], y[:9])))
    assert len(pair.test) == 9
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x_train=(x * 0).astype(np.uint8) + 51, y_train=y, x_test=x[:7], y_test=y[:7])
    assert len(Arrays(file=tmp_path / "a.npz").load().test) == 12
    b = load(tmp_path / "b.npz")
    assert len(b.test) == 7
    assert everything(b)[0].unique().tolist() == [pytest.approx(0.2)]
    regression = load((x, x.sum(1)))
    assert regression.classes is None
    words = load(
        {"train": ({"ids": np.ones((8, 3), int), "mask": np.ones((8, 3))}, np.arange(8) % 2)},
        test=2 / 8,
        validation=0.5,
    )
    assert set(words.example()) == {"ids", "mask"}
    assert words.example()["ids"].dtype == torch.int64


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from ((torch.full((2,), float(i)), i % 2) for i in range(10))


def test_datasets_and_loaders() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 4
    train, test = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True), DataLoader(TensorDataset(x[:8], y[:8]))
    data = load((train, test), validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 8)
    assert len(load(TensorDataset(x, y), test=0.5).test) == 20
    doubled = DataLoader(
        list(zip(x, y, strict=True)),
        collate_fn=lambda items: (2 * torch.stack([i[0] for i in items]), torch.stack([i[1] for i in items])),
    )  # type: ignore[arg-type]
    made = load({"train": doubled, "test": test})
    assert made.train.fetch(torch.tensor([0])).inputs.shape == (1, 3)
    assert {tuple(row) for row in everything(made)[0].tolist()} <= {tuple(row) for row in (2 * x).tolist()}
    assert len(load({"train": DataLoader(Stream(), batch_size=3)}).train) == 7
    assert load(data) is data


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("digit", "did you mean 'digits'"),
        ("huggingface:", "There is no data set"),
        (3, "type int"),
        ((np.zeros((0, 4)), np.zeros(0, int)), "train split has no examples"),
        ({"train": arrays(), "test": (np.zeros((0, 4)), np.zeros(0, int))}, "test split has no examples"),
        ((np.zeros((9, 4)), np.zeros(8, int)), r"\[9, 8\]"),
        ((np.zeros((1, 4)), np.zeros(1, int)), "from 1 examples"),
        (({"a": np.zeros(3)}, np.array(["x", "y", "z"])), "array of numbers"),
        ({"trian": arrays()}, "did you mean 'train'"),
        ({"test": arrays()}, "no train split"),
        ({"train": arrays(), "val": arrays(), "validation": arrays()}, "twice"),
        ({"train": arrays(classes=2), "test": arrays(classes=3)}, "from 0 to 2, but there are 2 classes"),
    ],
)
def test_what_is_wrong_is_named(what: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(what)


def test_nan_anywhere_in_memory_is_found() -> None:
    x, y = np.zeros((20000, 2)), np.arange(20000) % 2
    x[17003, 1] = np.nan
    with pytest.raises(DataError, match=r"NaN .* test split"):
        load({"train": (x[:10], y[:10]), "validation": (x[:10], y[:10]), "test": (x, y)})


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Planted:
        def __reduce__(self) -> Any:
            return (Path.touch, (ran,))

    np.savez(tmp_path / "p.npz", x=np.array([Planted()], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match="plain arrays"):
        load(tmp_path / "p.npz")
    assert not ran.exists()
    (tmp_path / "q.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="plain arrays"):
        load(tmp_path / "q.npz")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\n%%EOF\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_from_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)) for _ in range(20)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 10}, features=features)
    rows.save_to_disk(str(tmp_path / "pictures"))
    data = HuggingFace(name=str(tmp_path / "pictures"), channels=1).load()
    assert data.classes == ("no", "yes")
    assert everything(data)[2].shape == (4, 1, 5, 5)
    hostile = datasets.Dataset.from_dict(
        {"image": [{"bytes": POSTSCRIPT, "path": None}] * 20, "label": [0, 1] * 10}, features=features
    )
    hostile.save_to_disk(str(tmp_path / "script"))
    with pytest.raises(DataError, match=r"split of .* cannot be read \(cannot identify"):
        HuggingFace(name=str(tmp_path / "script")).load()
    with pytest.raises(DataError, match="no file https"):
        _image({"bytes": None, "path": "https://example.com/x.png"})
    numbers = datasets.Dataset.from_dict({"x": rng.normal(size=(20, 3)).tolist(), "label": [0, 1] * 10})
    datasets.DatasetDict({"train": numbers, "test": numbers}).save_to_disk(str(tmp_path / "numbers"))
    made = load(f"huggingface:{tmp_path / 'numbers'}", limit=10)
    assert (len(made.train), len(made.test)) == (9, 10)
    assert made.example(9).shape == (9, 3)
    with pytest.raises(DataError, match="did you mean 'label'"):
        load(f"huggingface:{tmp_path / 'numbers'}", labels="labl")
    words = datasets.Dataset.from_dict({"text": ["a b", "c"] * 10, "label": [0, 1] * 10})
    words.save_to_disk(str(tmp_path / "words"))
    with pytest.raises(DataError, match="tokenizer="):
        load(f"huggingface:{tmp_path / 'words'}")
