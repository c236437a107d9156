"""Descriptions of Debian's packages: lists of our own in every form, what can be wrong, and those of the machine."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
import torch

from lessen.core.errors import DataError
from lessen.data import DebianDescriptions, debian, load
from lessen.data.debian import tokens, words_of
from lessen.recipe import read_recipe

SPLITS = ("train", "validation", "test")


def record(package: str, section: str, description: str) -> str:
    return f"Package: {package}\nVersion: 1\nDescription: {description}\n long: text\nSection: {section}\nSize: 1\n"


def text(count: int = 60) -> str:
    """Games and libraries in equal numbers; a few of a section that is too small, doubled, in two, or without one."""
    made = [record(f"game{n}", "games" if n % 2 else "contrib/games", f"Game of level {n}") for n in range(count)]
    made += [record(f"lib{n}", "libs", f"Library for number {n}") for n in range(count)]
    made += [record("again", "games", "Game of level 3"), record("two", "libs", "Game of level 4")]
    made += [record("rare", "news", "A reader of news"), "Package: none\nDescription: of no section\n"]
    return "\n".join(made)


def source(root: Path, **settings: int) -> DebianDescriptions:
    return DebianDescriptions(root=root, least=20, **{"words": 40, "length": 5, **settings})


def test_each_description_is_there_once_with_its_section(tmp_path: Path) -> None:
    (tmp_path / "Packages").write_text(text())
    here = source(tmp_path / "Packages")
    data, texts = here.load(), here.texts()
    data.check()
    assert data.classes == ("games", "libs")
    every = [one for split in SPLITS for one in texts[split]]
    assert len(every) == len(set(every)) == 119  # the description in two sections is left out
    assert "Game of level 4" not in every
    for split in SPLITS:
        examples = getattr(data, split)
        assert examples.labels.tolist() == [int(one.startswith("Library")) for one in texts[split]]
        assert torch.equal(examples.inputs, tokens(texts[split], here.vocabulary(), 5))
    other = source(tmp_path / "Packages", seed=1).texts()
    assert other["test"] == texts["test"]
    assert set(other["validation"]) != set(texts["validation"])
    assert here.texts() == texts


def test_the_vocabulary_knows_the_training_split_alone(tmp_path: Path) -> None:
    (tmp_path / "Packages").write_text(text())
    here = source(tmp_path / "Packages", words=1000)
    known, data, texts = here.vocabulary(), here.load(), here.texts()
    assert known[:2] == ("", "?")
    assert set(known[2:]) == {word for one in texts["train"] for word in words_of(one)}
    assert not (data.train.inputs == 1).any()
    numbers = {words_of(one)[-1] for one in texts["test"]} - set(known)
    assert numbers
    assert (data.test.inputs == 1).any()
    short = source(tmp_path / "Packages", words=5)
    assert len(short.vocabulary()) == 5
    assert int(short.load().train.inputs.max()) == 4
    assert data.train.inputs.dtype == torch.int64
    assert data.train.inputs.shape[1] == 5


def test_lists_are_found_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text().encode()
    pressed = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    wanted = None
    monkeypatch.setattr(debian, "LISTS", tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, (ending, press) in enumerate(pressed.items()):
        folder = tmp_path / str(number) / "debian"
        folder.mkdir(parents=True)
        (folder / f"a_main_Packages{ending}").write_bytes(press(whole))
        (folder / "empty_Packages").write_bytes(b"")
        (folder / "a_InRelease").write_bytes(b"not a list")
        monkeypatch.setenv("LESSEN_DATA", str(folder.parent))
        found = DebianDescriptions(least=20).texts()
        wanted = wanted or found
        assert found == wanted
    monkeypatch.delenv("LESSEN_DATA")
    with pytest.raises(DataError, match="apt-get update"):
        load("debian_descriptions")


@pytest.mark.skipif(not debian._HELPER.is_file(), reason="needs apt")
def test_what_only_apt_can_read_is_read_by_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "Packages.lz4"
    # An LZ4 frame of one block that is stored as it is (the highest bit of its size), and the end mark.
    whole = text().encode()
    block = (len(whole) | 1 << 31).to_bytes(4, "little") + whole
    file.write_bytes(bytes.fromhex("04224d18604082") + block + bytes(4))
    assert len(source(file).load().train) == 89
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=r"Packages\.lz4 "):
        source(file).load()
    monkeypatch.setattr(debian, "_HELPER", tmp_path / "none")
    with pytest.raises(DataError, match="apt is not here"):
        source(file).load()


def test_damage_is_one_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(text().encode())
    for name, content, said in (
        ("a_Packages.gz", whole[:-40], "a_Packages.gz cannot be read"),
        ("a_Packages.gz", b"not gzip", "a_Packages.gz cannot be read"),
        ("a_Packages.xz", whole, "a_Packages.xz cannot be read"),
        ("Packages", b"hello world", "Packages is not a package list"),
        ("Packages", text(3).encode(), "0 sections have 20 or more"),
        ("Packages", b"\xff\xfe" * 50, "not a package list"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            source(tmp_path / name).load()
    with pytest.raises(DataError, match="There are no package lists"):
        source(tmp_path / "nowhere").load()
    (tmp_path / "Packages").write_text(text())
    monkeypatch.setattr(debian, "_MOST", 1000)
    with pytest.raises(DataError, match="more than 1000 bytes"):
        source(tmp_path / "Packages").load()


def test_a_recipe_names_it(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for said, made in (
        ("debian_descriptions", DebianDescriptions()),
        ("{DebianDescriptions: {length: 8}}", DebianDescriptions(length=8)),
    ):
        path.write_text(f"network: {{build: 'zoo:mlp'}}\ndata: {said}\nsteps: [PruneChannels]\n")
        assert read_recipe(path).data == made


def test_the_lists_of_this_machine() -> None:
    try:
        data = load("debian_descriptions")
    except DataError as error:
        if "There are no package lists" not in str(error):
            raise
        pytest.skip("there are no package lists on this machine")
    data.check()
    assert len(data.classes or ()) > 20
    assert data.train.inputs.shape[1] == 16
