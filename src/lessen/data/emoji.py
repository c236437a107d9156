"""About 1,900 emoji of 64 x 64 pixels in colour, in two styles, with categories and English names.

The packages `emoji-datasource-google` and `emoji-datasource-twitter` of npm, Cal Henderson, https://github.com/iamcal/emoji-data
(data: MIT). The pictures of Google are Noto Emoji (Apache-2.0), those of Twitter are Twemoji (CC-BY-4.0: name the
authors where you show them).

Shapes: N emoji, H x W positions, 3 channels.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt
from torch import Tensor

from lessen.core.data import ArrayExamples, Data
from lessen.core.errors import DataError, need
from lessen.core.files import check_regular, read_json
from lessen.core.ranges import InnerShare
from lessen.core.settings import settings
from lessen.data.places import usual
from lessen.data.split import cut, shuffled
from lessen.data.transforms import AnyView

VERSION = "16.0.0"
"""Of the packages: that of Unicode's emoji."""

SIDE = 64
"""Height and width of a picture, in pixels."""

_LARGEST = 1 << 20
"""Bytes of a picture; real ones have about 4,000."""

_TEXTS = ("unified", "name", "image", "category", "subcategory")

_LEFT_OUT = "Component"
"""The category of the five skin tones: parts of emoji, not emoji."""


class _Emoji(NamedTuple):
    name: str
    image: str
    category: str
    subcategory: str
    drawn: bool


@settings
class Emoji:
    """Emoji as standardised images of shape (3, 64, 64), float32, on white.

    Each emoji appears once, in its skin tone without a person's choice, and a picture that several emoji share appears
    once as well. Which emoji are for validation and test does not depend on style and classes, so of packages of one
    version the two styles of an emoji are never in different splits, unless the seeds differ. The package 16.0.0 gives
    1,892 pictures of Google and 1,873 of Twitter.

    Of the test split, the largest category is 20 % and ridge regression on 32 x 32 pixels is right on 60 %; the largest
    subcategory is 13 to 14 % and ridge right on 45 to 49 % (`python benchmarks/simple/run.py emoji`).

    Args:
        style: Whose pictures: "google" or "twitter".
        classes: What is learned: "category" (9: flags, food, ...) or "subcategory" (98, some with one emoji).
        root: Folder of the unpacked package. None looks in `$LESSEN_DATA/emoji-STYLE`, `~/.cache/lessen/emoji-STYLE`
            and `node_modules/emoji-datasource-STYLE` of the current folder.
        size: Height and width; smaller ones are averages of pixels.
        validation: Share of all emoji to choose settings by.
        test: Share of all emoji to report on. Which ones is fixed, whatever the seed.
        seed: Which of the others are for validation.
        augment: The view of a training batch, or None.
    """

    style: Literal["google", "twitter"] = "google"
    classes: Literal["category", "subcategory"] = "category"
    root: Path | None = None
    size: Annotated[int, Field(ge=8, le=SIDE)] = SIDE
    validation: InnerShare = 0.15
    test: InnerShare = 0.2
    seed: NonNegativeInt = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits, standardised with the mean and spread of each channel of the training split.

        Raises:
            DataError: the package is nowhere, or damaged; the text names the file.
            MissingExtraError: Pillow is not installed.
        """
        emoji, splits, pixels_NHWC = self._read()
        if self.size != SIDE:
            pixels_NHWC = np.stack([_smaller(picture, self.size) for picture in pixels_NHWC])
        names = sorted({getattr(one, self.classes) for one in emoji})
        labels = torch.tensor([names.index(getattr(one, self.classes)) for one in emoji])
        learned = pixels_NHWC[splits["train"].numpy()].reshape(-1, 3)
        mean = learned.mean(0, dtype=np.float64)
        spread = np.maximum(learned.std(0, dtype=np.float64), 1e-3)

        def examples(rows: Tensor) -> ArrayExamples:
            images = torch.from_numpy(pixels_NHWC[rows.numpy()]).permute(0, 3, 1, 2).float()
            images -= torch.from_numpy(mean).float()[:, None, None]
            images /= torch.from_numpy(spread).float()[:, None, None]
            return ArrayExamples(images.contiguous(), labels[rows])

        return Data(
            train=examples(splits["train"]),
            validation=examples(splits["validation"]),
            test=examples(splits["test"]),
            classes=tuple(names),
            augment=self.augment,
            name=f"emoji-{self.style}",
        )

    def names(self) -> dict[str, tuple[str, ...]]:
        """English names of the emoji of each split ("train", "validation", "test"), in the order of its examples.

        An emoji has the same name in both styles.

        Raises:
            DataError: as `load`.
            MissingExtraError: Pillow is not installed.
        """
        emoji, splits, _ = self._read()
        return {split: tuple(emoji[row].name for row in rows.tolist()) for split, rows in splits.items()}

    def _read(self) -> tuple[list[_Emoji], dict[str, Tensor], NDArray[np.uint8]]:
        """All emoji of the table, the rows of each split without repeated pictures, and all pictures."""
        folder = _find(self.root, self.style)
        emoji = _table(folder / "emoji.json", self.style)
        pictures = folder / "img" / self.style / str(SIDE)
        pixels_NHWC = np.zeros((len(emoji), SIDE, SIDE, 3), np.uint8)
        for row, one in enumerate(emoji):
            if one.drawn:
                pixels_NHWC[row] = _picture(pictures / one.image)
        kinds = sorted({(one.category, one.subcategory) for one in emoji})
        kind_N = torch.tensor([kinds.index((one.category, one.subcategory)) for one in emoji])
        order = shuffled(len(emoji), kind_N, seed=0, purpose="test")
        reported = cut(len(emoji), self.test, "test")
        test, rest = order[:reported], order[reported:]
        rest = rest[shuffled(len(rest), kind_N[rest], seed=self.seed, purpose="validation")]
        chosen = cut(len(rest), round(len(emoji) * self.validation), "validation")
        drawn_N = torch.tensor([one.drawn for one in emoji])
        # A shared picture stays in the test split rather than in another, so that the test split is always the same.
        seen: set[bytes] = set()
        splits = {
            "test": _new(test, drawn_N, pixels_NHWC, seen),
            "validation": _new(rest[:chosen], drawn_N, pixels_NHWC, seen),
            "train": _new(rest[chosen:], drawn_N, pixels_NHWC, seen),
        }
        return emoji, splits, pixels_NHWC


def _new(rows: Tensor, drawn_N: Tensor, pixels_NHWC: NDArray[np.uint8], seen: set[bytes]) -> Tensor:
    """The rows that have a picture which was not seen before; it is now."""
    kept = []
    for row in rows[drawn_N[rows]].tolist():
        picture = pixels_NHWC[row].tobytes()
        if picture not in seen:
            seen.add(picture)
            kept.append(row)
    return torch.tensor(kept, dtype=torch.int64)


def _table(path: Path, style: str) -> list[_Emoji]:
    """All emoji in the order of their code points, drawn in this style or not, because the splits are of all."""
    advice = "Unpack the package again."
    entries = read_json(path, error=DataError)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} is not a list of emoji. {advice}")
    found: dict[str, _Emoji] = {}
    for number, entry in enumerate(entries):
        texts: dict[str, Any] = {key: entry.get(key) for key in _TEXTS} if isinstance(entry, dict) else {}
        wrong = [key for key in _TEXTS if not isinstance(texts.get(key), str) or not texts[key]]
        if wrong:
            raise DataError(f"Entry {number} of {path} has no text at {', '.join(wrong)}. {advice}")
        # A name that leads to another folder is not followed.
        if not re.fullmatch(r"[0-9a-f-]{1,100}\.png", texts["image"]):
            raise DataError(
                f"Entry {number} of {path} has the picture {texts['image'][:40]!r}, not codes.png. {advice}"
            )
        if texts["unified"] in found:
            raise DataError(f"{path} has {texts['unified'][:40]!r} twice. {advice}")
        if texts["category"] != _LEFT_OUT:
            drawn = entry.get(f"has_img_{style}") is True
            found[texts["unified"]] = _Emoji(
                texts["name"].lower(), texts["image"], texts["category"], texts["subcategory"], drawn
            )
    if not any(one.drawn for one in found.values()):
        raise DataError(f"{path} has no emoji with a picture of {style}. Give the package of this style.")
    return [found[code] for code in sorted(found)]


def _smaller(picture_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    pil: Any = need("PIL.Image", "data")
    return np.array(pil.fromarray(picture_HWC).resize((size, size), pil.Resampling.BOX), dtype=np.uint8)


def _picture(path: Path) -> NDArray[np.uint8]:
    """A picture on white, shape (64, 64, 3)."""
    check_regular(path, error=DataError, expected="a picture of the package")
    pil: Any = need("PIL.Image", "data")
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        with pil.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"it has {image.width} x {image.height} pixels, not {SIDE} x {SIDE}")
            drawn = image.convert("RGBA")
        made = pil.alpha_composite(pil.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
        return np.array(made, dtype=np.uint8)
    except Exception as error:  # whatever a damaged file leads to
        raise DataError(f"The picture {path} cannot be read ({error}). Unpack the package again.") from error


def _find(root: Path | None, style: str) -> Path:
    package = f"emoji-datasource-{style}"
    places = [*usual(f"emoji-{style}"), Path("node_modules") / package] if root is None else [root.expanduser()]
    for place in places:
        for folder in (place, place / "package"):  # npm packs everything into a folder of this name
            if (folder / "emoji.json").is_file() and (folder / "img" / style / str(SIDE)).is_dir():
                return folder
    looked = ", ".join(str(place) for place in places)
    target = f"~/.cache/lessen/emoji-{style}"
    raise DataError(
        f"The package {package} is not in {looked}: emoji.json and img/{style}/{SIDE} are expected there. Get it with: "
        f"mkdir -p {target} && npm pack {package}@{VERSION} && tar xzf {package}-{VERSION}.tgz -C {target} "
        f"(or, for the current folder: npm install {package}@{VERSION}). Name other folders with root= or the "
        "environment variable LESSEN_DATA."
    )
