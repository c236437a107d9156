"""Data sets of Hugging Face, given as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lessen.core.data import batches
from lessen.core.errors import DataError
from lessen.data import load

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def tokens(count: int = 40) -> Any:
    return datasets.Dataset.from_dict(
        {
            "input_ids": [list(range(1, i % 4 + 2)) for i in range(count)],
            "attention_mask": [[1] * (i % 4 + 1) for i in range(count)],
            "label": [i % 2 for i in range(count)],
        },
        features=datasets.Features(
            {
                "input_ids": datasets.Sequence(datasets.Value("int64")),
                "attention_mask": datasets.Sequence(datasets.Value("int64")),
                "label": datasets.ClassLabel(names=["no", "yes"]),
            }
        ),
    )


def padding(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What `DataCollatorWithPadding` returns."""
    longest = max(len(item["input_ids"]) for item in items)
    made = {
        name: torch.tensor([item[name] + [0] * (longest - len(item[name])) for item in items])
        for name in ("input_ids", "attention_mask")
    }
    return made | {"labels": torch.tensor([item["label"] for item in items])}


@pytest.mark.parametrize("holder", ["rows", "torch", "splits", "loader", "collated"])
def test_rows_of_hugging_face(holder: str) -> None:
    what: Any = {
        "rows": tokens,
        "torch": lambda: tokens().with_format("torch"),
        "splits": lambda: datasets.DatasetDict({"train": tokens(), "test": tokens(10), "validation": tokens(9)}),
        "loader": lambda: DataLoader(tokens(), batch_size=4),
        "collated": lambda: DataLoader(tokens(), batch_size=4, collate_fn=padding),
    }[holder]()
    data = load(what)
    assert data.classes == ("no", "yes")
    assert getattr(data.train, "labels", None) is not None
    batch = next(batches(data.train, size=9))
    assert isinstance(batch.inputs, dict)
    assert list(batch.inputs) == ["input_ids", "attention_mask"]
    gap = batch.inputs["attention_mask"] == 0
    assert gap.any()
    assert torch.equal(batch.inputs["input_ids"] == 0, gap)
    assert batch.labels is not None
    assert torch.equal(batch.labels, (batch.inputs["attention_mask"].sum(1) - 1) % 2)
    if holder == "splits":
        assert [len(data.train), len(data.validation), len(data.test)] == [40, 9, 10]


def test_pictures_and_other_columns_of_hugging_face() -> None:
    pictures = [Image.fromarray(np.full((4, 4, 3), 5 * i, np.uint8)) for i in range(20)]
    rows = datasets.Dataset.from_dict(
        {"image": pictures, "name": [str(i) for i in range(20)], "label": [i % 2 for i in range(20)]},
        features=datasets.Features(
            {"image": datasets.Image(), "name": datasets.Value("string"), "label": datasets.Value("int64")}
        ),
    )
    with pytest.raises(DataError, match=r"'name' of .* is text"):
        load(rows)
    data = load(rows, inputs="image")
    assert data.example().shape == (2, 3, 4, 4)  # type: ignore[union-attr]
    assert data.classes == ("0", "1")
    changed = rows.with_transform(lambda some: {"x": [np.float32(1)] * len(some["image"]), "y": some["label"]})
    assert load(changed, inputs="x", labels="y").example().tolist() == [1.0, 1.0]  # type: ignore[union-attr]


def test_a_stream_of_hugging_face() -> None:
    stream = datasets.Dataset.from_dict({"x": [[float(i), 0.0] for i in range(20)], "y": [i % 2 for i in range(20)]})
    data = load(stream.to_iterable_dataset())
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    assert data.example().shape == (2, 2)  # type: ignore[union-attr]
