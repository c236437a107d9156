"""Batches keep their numbers; bad data is found before anything long starts."""

import numpy as np
import pytest
import torch

from lessen.core.data import ArrayExamples, Data, SubsetExamples, batches, call
from lessen.core.errors import DataError
from lessen.core.seeds import generator, seeded, uniforms
from lessen.data.items import ItemExamples


def make(count: int = 10, classes: int = 3) -> ArrayExamples:
    return ArrayExamples(torch.arange(count * 2.0).reshape(count, 2), torch.arange(count) % classes)


def data(train: ArrayExamples | None = None) -> Data:
    return Data(train=make() if train is None else train, validation=make(), test=make(), classes=("a", "b", "c"))


def test_index_follows_the_example() -> None:
    subset = SubsetExamples(make(), torch.tensor([7, 2, 5]))
    batch = subset.fetch(torch.tensor([2, 0]))
    assert torch.equal(batch.inputs, make().inputs[[5, 7]])
    assert batch.index.tolist() == [2, 0]
    assert [len(part) for part in batches(make(), size=4)] == [4, 4, 2]


def test_a_map_style_dataset_gives_the_same_batches() -> None:
    rows = [(torch.tensor([float(i)]), i % 2) for i in range(5)]
    batch = ItemExamples(rows).fetch(torch.tensor([3, 1]))
    assert batch.inputs.tolist() == [[3.0], [1.0]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 1]


def test_call_takes_tensor_tuple_and_dict() -> None:
    def network(a: torch.Tensor, b: torch.Tensor | float = 0.0) -> torch.Tensor:
        return a + b

    one = torch.ones(1)
    assert call(network, one) == 1
    assert call(network, (one, one)) == 2
    assert call(network, {"a": one, "b": one}) == 2


def test_good_data_passes_and_calibration_is_from_training() -> None:
    data().check()
    seen = data().calibration(4, batch=3, seed=1)
    assert [len(part) for part in seen] == [3, 1]
    assert all(torch.equal(part.inputs, make().inputs[part.index]) for part in seen)


def test_bad_data_is_named() -> None:
    holes = make().inputs.clone()
    holes[4, 1] = torch.nan
    with pytest.raises(DataError, match=r"NaN or infinity in the inputs of the train split .* example 4"):
        data(ArrayExamples(holes, make().labels)).check()
    with pytest.raises(DataError, match=r"run from 0 to 3, but there are 3 classes"):
        data(make(classes=4)).check()
    with pytest.raises(DataError, match="no examples"):
        data(ArrayExamples(torch.zeros(0, 2), torch.zeros(0).long())).check()


def test_uniforms_depend_on_the_example_alone_and_are_uniform() -> None:
    index = torch.arange(20000)
    drawn = uniforms(index, 3, seed=5)
    assert torch.equal(uniforms(index[[9, 4]], 3, seed=5), drawn[[9, 4]])
    assert not torch.equal(uniforms(index, 3, seed=6), drawn)
    for column in drawn.T:
        counts, _ = np.histogram(column.numpy(), bins=20, range=(0, 1))
        assert abs(counts - 1000).max() < 150
    assert abs(torch.corrcoef(drawn.T) - torch.eye(3)).max() < 0.03


def test_seeds_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    with seeded(3, "a"):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3, "a"):
        assert torch.equal(torch.rand(2), first)
    assert not torch.equal(torch.rand(2, generator=generator(3, "b")), first)
