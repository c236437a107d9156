"""One-line descriptions of Debian's packages, and the section of the archive that each is in: text that is there.

The package lists that `apt-get update` fetches hold one record for each package. Descriptions are written by the
maintainers of the packages, under the licences of the packages; nothing is shipped with lessen.

Shapes: N descriptions, L tokens.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import subprocess
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lessen.core.data import ArrayExamples, Data
from lessen.core.errors import DataError
from lessen.core.files import check_regular
from lessen.core.ranges import InnerShare
from lessen.core.settings import settings
from lessen.data.places import usual
from lessen.data.split import cut, shuffled

PADDING, UNKNOWN = 0, 1
"""The ids of what fills a short text up, and of words that are not in the vocabulary."""

LISTS = Path("/var/lib/apt/lists")
"""Where apt keeps its package lists."""

_HELPER = Path("/usr/lib/apt/apt-helper")
"""Part of apt: prints a file, decompressed. Python alone cannot read LZ4, in which Debian's images keep the lists."""

_MOST = 1 << 30
"""Bytes of a list when it is decompressed; that of Debian's main archive has 50 million."""

_KEYS = re.compile(rb"^(Section|Description|Description-en):[ \t]*(\S.*)$", re.MULTILINE)

_LIST = re.compile(r".*Packages(\.(gz|bz2|xz|lz4|zst))?", re.DOTALL)

_WORDS = re.compile(r"[^\W_]+")


@settings
class DebianDescriptions:
    """Descriptions as ids of words, shape (16,), int64; classes are sections with many packages.

    A description that several packages share appears once; one that is in several sections is left out. Packages that
    are built from one source have similar descriptions ("... - documentation"), and may be in different splits. The
    examples depend on the lists of the machine: copy these to repeat a result elsewhere.

    The lists of Debian 12 (amd64, main, of July 2026) give 57,893 descriptions in 41 classes. The largest is 10.5 % of
    the test split, and logistic regression on hashed words is right on 77 % of it
    (`python benchmarks/simple/run.py debian_descriptions`).

    Args:
        root: A package list, or a folder of lists named `*Packages`: plain, .gz, .bz2, .xz, and where apt is installed
            also .lz4 and .zst. None looks in `$LESSEN_DATA/debian`, `~/.cache/lessen/debian` and `/var/lib/apt/lists`.
        words: Entries of the vocabulary: the most frequent words of the training split, after 0 for padding and 1 for
            any other word.
        length: Words of an example; longer descriptions are cut, shorter ones padded with 0.
        least: Descriptions that a section must have to be a class.
        validation: Share of all descriptions to choose settings by.
        test: Share of all descriptions to report on. Which ones is fixed for the same lists, whatever the seed.
        seed: Which of the others are for validation.
    """

    root: Path | None = None
    words: Annotated[int, Field(ge=3)] = 8192
    length: PositiveInt = 16
    least: PositiveInt = 200
    validation: InnerShare = 0.1
    test: InnerShare = 0.15
    seed: NonNegativeInt = 0

    def load(self) -> Data:
        """The three splits, every class in about the same share of each.

        Raises:
            DataError: the lists are nowhere or damaged, or leave fewer than two classes.
        """
        texts, labels, classes, splits = self._read()
        known = vocabulary([texts[row] for row in splits["train"].tolist()], self.words)

        def examples(rows: Tensor) -> ArrayExamples:
            return ArrayExamples(tokens([texts[row] for row in rows.tolist()], known, self.length), labels[rows])

        return Data(
            train=examples(splits["train"]),
            validation=examples(splits["validation"]),
            test=examples(splits["test"]),
            classes=classes,
            name="debian_descriptions",
        )

    def vocabulary(self) -> tuple[str, ...]:
        """The word of each id; the first two are "" for padding and "?" for unknown words.

        Raises:
            DataError: as `load`.
        """
        texts, _, _, splits = self._read()
        return vocabulary([texts[row] for row in splits["train"].tolist()], self.words)

    def texts(self) -> dict[str, tuple[str, ...]]:
        """The descriptions of each split ("train", "validation", "test"), in the order of its examples.

        Raises:
            DataError: as `load`.
        """
        texts, _, _, splits = self._read()
        return {split: tuple(texts[row] for row in rows.tolist()) for split, rows in splits.items()}

    def _read(self) -> tuple[list[str], Tensor, tuple[str, ...], dict[str, Tensor]]:
        sections: dict[str, set[str]] = {}
        files = _files(self.root)
        for file in files:
            for description, section in records(_content(file), str(file)):
                sections.setdefault(description, set()).add(section)
        single = {text: next(iter(found)) for text, found in sections.items() if len(found) == 1}
        count = Counter(single.values())
        classes = tuple(sorted(section for section, texts in count.items() if texts >= self.least))
        if len(classes) < 2:
            raise DataError(
                f"{', '.join(map(str, files))}: {len(classes)} sections have {self.least} or more descriptions, but "
                "at least two are needed. Give a smaller least=, or more lists."
            )
        # Sorted, so that the order of the files does not matter.
        texts = sorted(text for text, section in single.items() if section in classes)
        number = {section: label for label, section in enumerate(classes)}
        labels = torch.tensor([number[single[text]] for text in texts])
        order = shuffled(len(texts), labels, seed=0, purpose="test")
        reported = cut(len(texts), self.test, "test")
        test, rest = order[:reported], order[reported:]
        rest = rest[shuffled(len(rest), labels[rest], seed=self.seed, purpose="validation")]
        chosen = cut(len(rest), round(len(texts) * self.validation), "validation")
        return texts, labels, classes, {"train": rest[chosen:], "validation": rest[:chosen], "test": test}


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, in lower case.

    >>> words_of("GNU C++ library (v2)")
    ['gnu', 'c', 'library', 'v2']
    """
    return _WORDS.findall(text.lower())


def vocabulary(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """The most frequent words of texts, at most `most` entries with the two in front; ties are in alphabetical order.

    >>> vocabulary(["a game", "the game"], 4)
    ('', '?', 'game', 'a')
    """
    count = Counter(word for text in texts for word in words_of(text))
    ranked = sorted(count, key=lambda word: (-count[word], word))
    return ("", "?", *ranked[: most - 2])


def tokens(texts: Sequence[str], known: Sequence[str], length: int) -> Tensor:
    """The ids of the words of texts, shape (N, L), int64: cut at `length`, padded behind with 0.

    A text without words is one unknown word, so that no row is all padding.

    >>> tokens(["the game", ""], ("", "?", "game"), 3)
    tensor([[1, 2, 0],
            [1, 0, 0]])
    """
    place = {word: number for number, word in enumerate(known) if number > UNKNOWN}
    rows = []
    for text in texts:
        ids = [place.get(word, UNKNOWN) for word in words_of(text)[:length]] or [UNKNOWN]
        rows.append(ids + [PADDING] * (length - len(ids)))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), length)


def records(content: bytes, source: str) -> list[tuple[str, str]]:
    r"""Description and section of each package of a list; "contrib/games" is the section "games".

    Args:
        content: Records of lines `Key: value`, with empty lines between them.
        source: Where it comes from, for the error.

    Raises:
        DataError: no record has both.

    >>> records(b"Package: a\nSection: contrib/games\nDescription: A game\n\nPackage: b\n", "here")
    [('A game', 'games')]
    """
    found = []
    for record in re.split(rb"\r?\n[ \t]*\r?\n", content):
        fields = dict(_KEYS.findall(record))
        description = fields.get(b"Description", fields.get(b"Description-en"))
        if description is not None and b"Section" in fields:
            section = fields[b"Section"].decode(errors="replace").strip().rpartition("/")[2]
            found.append((description.decode(errors="replace").strip(), section))
    if not found and content.strip():
        raise DataError(f"{source} is not a package list: no record has a Section and a Description. {_ADVICE}")
    return found


_ADVICE = (
    "Fetch the lists with: apt-get update (as root, on Debian and its derivatives). Elsewhere, copy a list from such a "
    "machine, made with: apt-cache dumpavail > Packages, and name it with root="
)


def _files(root: Path | None) -> list[Path]:
    places = [*usual("debian"), LISTS] if root is None else [root.expanduser()]
    for place in places:
        if place.is_file():
            return [place]
        names = sorted(place.iterdir()) if place.is_dir() else []
        files = [file for file in names if _LIST.fullmatch(file.name) and file.is_file()]
        if files:
            return files
    looked = ", ".join(str(place) for place in places)
    raise DataError(f"There are no package lists (*Packages) in {looked}. {_ADVICE}")


def _content(file: Path) -> bytes:
    check_regular(file, error=DataError, expected="a package list")
    try:
        if file.suffix in {".lz4", ".zst"}:
            return _printed(file)
        with _opened(file) as stream:
            return _limited(stream, file)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be read ({error}). {_ADVICE}") from error


def _opened(file: Path) -> IO[bytes]:
    opening: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    stream: IO[bytes] = opening.get(file.suffix, open)(file, "rb")
    return stream


def _printed(file: Path) -> bytes:
    """The content of a list that Python cannot decompress, as apt prints it."""
    if not _HELPER.is_file():
        raise DataError(
            f"{file} cannot be read: Python cannot decompress {file.suffix}, and apt is not here. {_ADVICE}"
        )
    command = [str(_HELPER), "cat-file", str(file.absolute())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            content = _limited(process.stdout, file)
        except DataError:
            process.kill()
            raise
    if process.returncode != 0:
        raise DataError(f"{file} cannot be read: {_HELPER} failed with {process.returncode}. {_ADVICE}")
    return content


def _limited(stream: IO[bytes], file: Path) -> bytes:
    content = stream.read(_MOST + 1)
    if len(content) > _MOST:
        raise DataError(f"{file} holds more than {_MOST} bytes, which no package list does. {_ADVICE}")
    return content
