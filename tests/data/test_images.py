"""Folders of images: decoded ahead, held within bounds, refused where they are no files."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from lessen.core.ahead import ahead, loading_of
from lessen.core.data import batches, examples_digest
from lessen.core.errors import DataError
from lessen.data import ImageFolder, images, load


def folder(root: Path, count: int = 12, classes: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count * classes):
        place = root / f"class{i % classes}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(place / f"{i:03}.png")
    return root


def reference(file: Path, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """What lessen has always made of an image, with torch alone."""
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return (pixels.float().div_(255) - mean.view(-1, 1, 1)) / spread.view(-1, 1, 1)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_decoded_ahead_or_not_the_bits_are_the_same(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "threads", lambda: threads)
    data = ImageFolder(folder=folder(tmp_path), mean=(0.4, 0.5, 0.6), spread=(0.2, 0.3, 0.25)).load()
    assert loading_of(data.train).threads == threads
    files = sorted(tmp_path.rglob("*.png"))
    mean, spread = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))
    chosen = data.train.examples.chosen  # type: ignore[attr-defined]
    for _ in range(2):  # decoded, then held
        for batch in ahead(data.train, ((0, part) for part in order.split(4))):
            for row, i in zip(batch.inputs, batch.index.tolist(), strict=True):
                assert torch.equal(row, reference(files[int(chosen[i])], mean, spread))


def test_every_class_is_spread_evenly_over_all_splits(tmp_path: Path) -> None:
    data = load(folder(tmp_path), validation=0.25, test=1 / 3)
    for split, each in ((data.train, 6), (data.validation, 2), (data.test, 4)):
        assert split.labels.bincount().tolist() == [each] * 3  # type: ignore[attr-defined]


def test_splits_share_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "HELD", 20 * 90)
    opened: list[str] = []
    pil: Any = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **more: (opened.append(str(path)), pil(path, **more))[1])
    for name in ("train", "val", "test"):
        folder(tmp_path / name, count=4)
    data = load(tmp_path)
    for again in (36, 16):  # 20 of the 36 images are held
        opened.clear()
        for split in (data.train, data.validation, data.test):
            list(batches(split, size=5))
        assert len(opened) <= again
    assert len(opened) == 16
    monkeypatch.setattr(images.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 400}))
    held = images.Held()
    for i in range(3):
        held.put(str(i), torch.zeros(60, dtype=torch.uint8))
    assert [held.get(str(i)) is not None for i in range(3)] == [True, False, False]


def test_what_is_named_like_an_image_and_is_none_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    os.mkfifo(root / "class0" / "x.png")
    with pytest.raises(DataError, match=r"x\.png is named like an image"):
        load(root)
    (root / "class0" / "x.png").unlink()
    os.mkfifo(tmp_path / "pipe")
    (root / "class0" / "x.png").symlink_to(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"x\.png is named like an image"):
        load(root)
    (root / "class0" / "x.png").unlink()
    (root / "class0" / "loop").symlink_to(root)
    os.mkfifo(root / "class0" / "notes.txt")
    assert len(load(root).train) == 26


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" + b"\xff" * 60, b"\xff\xd8\xff\xe0", b"II*\0" + b"\xff" * 40],
)
def test_a_damaged_image_is_one_error_wherever_it_is_decoded(content: bytes, tmp_path: Path) -> None:
    root = folder(tmp_path)
    for file in (root / "class1").iterdir():
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"class1.*cannot be read"):
        load(root)
    data = ImageFolder(folder=root, mean=(0.0,) * 3, spread=(1.0,) * 3).load()
    with pytest.raises(DataError, match=r"class1.*cannot be read"):
        list(batches(data.train, size=4))


def test_the_digest_follows_names_sizes_bytes_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "a")
    file = root / "class0" / "000.png"

    def digest(**changed: Any) -> str:
        return examples_digest(load(root, **changed).train)

    first = digest()
    assert digest() == first
    assert digest(channels=1) != first
    assert digest(seed=1) != first
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert digest(mean=(0.0,) * 3, spread=(1.0,) * 3) != first
    file.write_bytes(whole)
    assert digest() == first
    (root / "class0" / "000.png").rename(root / "class0" / "0.png")
    assert digest() != first
    monkeypatch.setattr(images, "READ", 1000)  # of some 3,600: every fourth file
    fewer, with_statistics = digest(), digest(mean=(0.0,) * 3, spread=(1.0,) * 3)
    for name in sorted((root / "class0").iterdir())[1:3]:  # neither is read: the first is, then every fourth
        name.write_bytes(bytes(reversed(name.read_bytes())))
    assert digest(mean=(0.0,) * 3, spread=(1.0,) * 3) == with_statistics
    assert fewer != first


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\n%%EOF\n"


def test_postscript_is_not_handed_to_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow tells formats by their first bytes, and starts Ghostscript for PostScript."""
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **more: started.append(given))
    root = folder(tmp_path)
    for file in (root / "class1").iterdir():
        file.write_bytes(POSTSCRIPT)
    with pytest.raises(DataError, match=r"class1.*cannot be read"):
        load(root)
    assert not started


def test_an_image_of_more_pixels_than_pillow_likes_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder(tmp_path) / "class0" / "large.png"
    Image.new("RGB", (31, 32)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 30)
    monkeypatch.setattr(Image.Image, "convert", None)
    with (
        warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
        pytest.raises(DataError, match="31 x 32 pixels"),
    ):
        images.decode(lambda i: Image.open(file), 0, name="large", size=(6, 6), channels=3)


def test_a_batch_that_does_not_fit_into_memory_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolder(folder=folder(tmp_path), mean=(0.0,) * 3, spread=(1.0,) * 3).load()
    monkeypatch.setattr(images.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 3000}))
    with pytest.raises(DataError, match=r"more than the free memory. Give size="):
        list(batches(data.train, size=8))


def test_the_mean_of_large_images_is_measured_on_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "AT_ONCE", 400, raising=False)
    asked: list[int] = []
    fetch = images.ImageExamples.fetch
    monkeypatch.setattr(
        images.ImageExamples, "fetch", lambda self, rows: (asked.append(len(rows)), fetch(self, rows))[1]
    )
    load(folder(tmp_path))
    pixels = 3 * 6 * 5
    assert max(asked) * pixels <= 400
    assert sum(asked) * pixels <= 3 * 400
