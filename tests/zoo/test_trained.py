"""The networks that come trained are as good as they say, and say how they were trained."""

import json
from pathlib import Path

import pytest
import torch

import lessen
from lessen.core.data import batches
from lessen.core.errors import DataError
from lessen.data import FashionMNIST
from lessen.recipe import read_recipe
from lessen.zoo import build, teacher, teachers

ROOT = Path(lessen.__file__).parents[2]


def test_each_names_the_recipe_that_trains_it() -> None:
    assert set(teachers()) == {"fashion_mnist"}
    for name, recipe in teachers().items():
        asked = read_recipe(ROOT / recipe)
        about = json.loads((ROOT / f"src/lessen/zoo/weights/{name}.json").read_text())
        assert (asked.network.build, asked.network.arguments) == (about["build"], about["arguments"])
        assert asked.train
        built = build(f"trained:{name}")
        assert not built.training
        assert all(torch.equal(a, b) for a, b in zip(built.parameters(), teacher(name).parameters(), strict=True))


def test_the_teacher_of_fashion_mnist_is_right_on_93_percent() -> None:
    try:
        data = FashionMNIST().load()
    except DataError as error:
        pytest.skip(str(error))
    network = teacher("fashion_mnist")

    with torch.no_grad():
        told = [(network(batch.inputs).argmax(1), batch.labels) for batch in batches(data.test, size=500)]

    def right(*, shift: int = 0) -> float:
        found = [(said == (labels + shift) % 10).float() for said, labels in told if labels is not None]
        return 100 * float(torch.cat(found).mean())

    about = json.loads((ROOT / "src/lessen/zoo/weights/fashion_mnist.json").read_text())
    assert right() >= 93.0
    assert right() == pytest.approx(about["test_accuracy"], abs=0.1)
    assert right(shift=1) < 10.0  # against other labels it is not
