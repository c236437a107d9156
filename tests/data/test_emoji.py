"""Emoji: a small package of our own in each style, everything that can be wrong with one, and the real ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lessen.core.errors import DataError, SettingError
from lessen.data import Emoji, load
from lessen.recipe import read_recipe

SPLITS = ("train", "validation", "test")
SHARED = {"google": {3: 2}, "twitter": {3: 2, 17: 5, 18: 5}}
"""Emoji that are drawn as another one, by style."""

UNDRAWN = {7, 11, 40}
"""Emoji that Google has not drawn."""


def package(folder: Path, style: str, count: int = 60) -> Path:
    """`count` emoji in three categories of two subcategories, and a skin tone; some are grey, some have a palette."""
    pictures = folder / "img" / style / "64"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(len(style))
    entries: list[dict[str, Any]] = []
    for number in range(count + 1):
        kind = "Component" if number == count else f"Kind {number % 3}"
        code = f"1f{number:03x}"
        entries.append(
            {
                "name": f"EMOJI {number}",
                "unified": code.upper(),
                "image": f"{code}.png",
                "category": kind,
                "subcategory": f"{kind.lower()}-{number % 6}",
                "has_img_google": number not in UNDRAWN,
                "has_img_twitter": True,
                "skin_variations": {"1F3FB": {"image": f"{code}-1f3fb.png"}},
            }
        )
        pixels = rng.integers(0, 255, (64, 64, 4), dtype=np.uint8)
        pixels[:, :, 3] *= number % 7 != 1
        mode = ("RGBA", "LA", "P")[number % 3]
        if style == "twitter" or number not in UNDRAWN:
            Image.fromarray(pixels).convert(mode).save(pictures / f"{code}.png")
    for number, other in SHARED[style].items():
        (pictures / f"1f{number:03x}.png").write_bytes((pictures / f"1f{other:03x}.png").read_bytes())
    (folder / "emoji.json").write_text(json.dumps(entries[::-1]))
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("packages")
    return {style: package(place / style / "package", style) for style in SHARED}


@pytest.mark.parametrize("style", SHARED)
def test_each_emoji_is_in_one_split_once(packages: dict[str, Path], style: str) -> None:
    source = Emoji(style=style, root=packages[style].parent)
    data, names = source.load(), source.names()
    data.check()
    assert data.classes == ("Kind 0", "Kind 1", "Kind 2")
    assert data.train.inputs.shape[1:] == (3, 64, 64)
    every = [name for split in SPLITS for name in names[split]]
    # Fully transparent pictures are all white: of those, and of shared pictures, one is left.
    white = {f"emoji {number}" for number in range(60) if number % 7 == 1 and number % 3 == 0}
    assert len(every) == len(set(every))
    assert "emoji 60" not in every
    assert ("emoji 7" in every) == (style == "twitter")
    pictures = torch.cat([getattr(data, split).inputs for split in SPLITS])
    assert len(pictures.unique(dim=0)) == len(pictures) == len(every)
    assert len(white & set(every)) <= 1
    for number, other in SHARED[style].items():
        assert len({f"emoji {number}", f"emoji {other}"} & set(every)) <= 1
    for split in SPLITS:
        kinds = [f"Kind {int(name.split()[1]) % 3}" for name in names[split]]
        assert [data.classes[label] for label in getattr(data, split).labels] == kinds


def test_the_styles_of_an_emoji_are_in_the_same_split(packages: dict[str, Path]) -> None:
    for seed in range(3):
        one = Emoji(root=packages["google"], seed=seed).names()
        two = Emoji(root=packages["twitter"], style="twitter", classes="subcategory", size=16, seed=seed).names()
        for split in SPLITS:
            for other in set(SPLITS) - {split}:
                assert not set(one[split]) & set(two[other])
            assert set(one[split]) & set(two[split])
    tests = [Emoji(root=packages["google"], seed=seed).names() for seed in (0, 1)]
    assert tests[0]["test"] == tests[1]["test"]
    assert set(tests[0]["validation"]) != set(tests[1]["validation"])


def test_pictures_are_on_white_and_standardised_by_the_training_split(packages: dict[str, Path]) -> None:
    source = Emoji(root=packages["google"])
    data, names = source.load(), source.names()["train"]
    inputs = data.train.inputs.double()
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-4, rtol=0)
    raw = []
    for name in names:
        file = packages["google"] / "img" / "google" / "64" / f"1f{int(name.split()[1]):03x}.png"
        rgba = np.asarray(Image.open(file).convert("RGBA")).astype(float)
        raw.append(rgba[:, :, :3] * rgba[:, :, 3:] / 255 + 255 - rgba[:, :, 3:])
    raw_NHWC = np.stack(raw)
    wanted = (raw_NHWC - raw_NHWC.mean((0, 1, 2))) / raw_NHWC.std((0, 1, 2))
    np.testing.assert_allclose(inputs.permute(0, 2, 3, 1).numpy(), wanted, atol=2e-2)  # a rounded grey level is 1/70
    small = Emoji(root=packages["google"], size=16).load()
    assert small.train.inputs.shape == (len(data.train), 3, 16, 16)
    with pytest.raises(SettingError, match="size"):
        Emoji(size=128)


def test_a_package_is_found_and_a_missing_one_says_how_to_get_it(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LESSEN_DATA", raising=False)
    with pytest.raises(DataError, match=r"npm pack emoji-datasource-twitter@16\.0\.0 && tar xzf"):
        load("emoji", style="twitter")
    with pytest.raises(DataError, match=r"not in .*nowhere"):
        Emoji(root=tmp_path / "nowhere").load()
    for place in ("data/emoji-google", ".cache/lessen/emoji-google", "node_modules/emoji-datasource-google"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).symlink_to(packages["google"])
        if place.startswith("data"):
            monkeypatch.setenv("LESSEN_DATA", str(tmp_path / "data"))
        assert len(load("emoji").classes or ()) == 3
        (tmp_path / place).unlink()
        monkeypatch.delenv("LESSEN_DATA", raising=False)


def test_damage_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    folder = package(tmp_path / "google", "google", count=12)
    source, table = Emoji(root=folder), folder / "emoji.json"
    picture = folder / "img" / "google" / "64" / "1f003.png"
    whole, entries = picture.read_bytes(), json.loads(table.read_text())

    def refused(said: str) -> None:
        with pytest.raises(DataError, match=said):
            source.load()

    for content in (whole[:200], b"", b"GIF89a" + whole, b"x" * (1 << 20) + b"yz"):
        picture.write_bytes(content)
        refused(r"1f003\.png cannot be read")
    Image.new("RGBA", (65, 64)).save(picture)
    refused(r"1f003\.png cannot be read \(it has 65 x 64 pixels")
    Image.new("RGB", (64, 64)).save(picture, "BMP")
    refused(r"1f003\.png cannot be read")
    picture.unlink()
    refused(r"1f003\.png")
    picture.write_bytes(whole)
    for content, said in (
        ("{", "is damaged"),
        ("{}", "not a list of emoji"),
        ("[]", "not a list of emoji"),
        ("[1]", "Entry 0 of .* has no text at unified, name"),
        (json.dumps([{**entries[0], "name": None}]), "has no text at name"),
        (json.dumps([{**entries[0], "image": "../../secret.png"}]), "secret"),
        (json.dumps([entries[1], entries[1]]), "twice"),
        (json.dumps([{**entries[1], "has_img_google": False}]), "no emoji with a picture of google"),
    ):
        table.write_text(content)
        refused(said)
        refused(r"emoji\.json")


def test_a_recipe_names_it(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for said, made in (("emoji", Emoji()), ("{Emoji: {style: twitter}}", Emoji(style="twitter"))):
        path.write_text(f"network: {{build: 'zoo:residual'}}\ndata: {said}\nsteps: [PruneChannels]\n")
        assert read_recipe(path).data == made


@pytest.mark.parametrize(("style", "sizes"), [("google", (1229, 283, 380)), ("twitter", (1216, 281, 376))])
def test_the_real_package(style: str, sizes: tuple[int, int, int]) -> None:
    try:
        data = Emoji(style=style, classes="subcategory").load()
    except DataError as error:
        if "npm pack" not in str(error):
            raise
        pytest.skip(f"emoji-datasource-{style} is not on this machine")
    assert tuple(len(getattr(data, split)) for split in SPLITS) == sizes
    assert len(data.classes or ()) == 98
    data.check()
