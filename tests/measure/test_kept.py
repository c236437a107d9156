"""Outputs on held-out data are computed once, kept within bounds, and belong to one network and one split."""

import torch

from lessen.core import ArrayExamples
from lessen.measure import KeptOutputs


class Counting:
    """A network that counts the examples it is asked about."""

    def __init__(self, factor: float) -> None:
        self.factor, self.seen = factor, 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen += len(inputs)
        return self.factor * inputs


def split(count: int) -> ArrayExamples:
    return ArrayExamples(torch.arange(4.0 * count).reshape(count, 4), torch.zeros(count, dtype=torch.long))


def test_once_for_each_network_split_and_number_of_examples() -> None:
    kept, one, two, test, validation = KeptOutputs(), Counting(1.0), Counting(2.0), split(10), split(20)
    for _ in range(3):
        assert torch.equal(kept.of(one, test).values, test.fetch(torch.arange(10)).inputs)
        assert torch.equal(kept.of(two, test).values, 2 * test.fetch(torch.arange(10)).inputs)
        assert len(kept.of(one, validation).values) == 20
        assert len(kept.of(one, validation, most=5).values) == 5
    assert (one.seen, two.seen) == (35, 10)


def test_a_network_that_has_gone_is_not_taken_for_the_next_one() -> None:
    kept, test = KeptOutputs(), split(3)
    for factor in range(50):  # without a reference to the network its identity would be given again
        assert torch.equal(kept.of(Counting(factor), test).values, factor * test.fetch(torch.arange(3)).inputs)


def test_what_does_not_fit_is_computed_again() -> None:
    test = split(10)  # 160 bytes of outputs and 80 of labels
    kept, one, two = KeptOutputs(most_bytes=300), Counting(1.0), Counting(2.0)
    kept.of(one, test), kept.of(two, test), kept.of(two, test), kept.of(one, test)
    assert (one.seen, two.seen) == (20, 10)
    kept, one = KeptOutputs(most_bytes=100), Counting(1.0)
    assert len(kept.of(one, test).values) == len(kept.of(one, test).values) == 10
    assert one.seen == 20
