"""What is written follows the distribution that is asked for, and nothing else."""

import pytest
import torch
from torch import Tensor

from lessen.functional.writing import choose, continue_sequences

MATRIX = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])


def bigram(tokens_NL: Tensor) -> Tensor:
    return MATRIX.log()[tokens_NL[:, -1]]


def frequencies(tokens: Tensor) -> Tensor:
    """How often each word follows each."""
    pairs = torch.zeros(4, 4, dtype=torch.float64)
    before, after = tokens[:, :-1].flatten(), tokens[:, 1:].flatten()
    pairs.index_put_((before, after), torch.ones((), dtype=torch.float64), accumulate=True)
    return (pairs / pairs.sum(1, keepdim=True)).float()


def write(count: int, length: int, **more: float) -> Tensor:
    drawn = torch.rand(count, length, generator=torch.Generator().manual_seed(0))
    start = torch.ones(count, dtype=torch.long)
    return continue_sequences(bigram, torch.zeros(count, length, dtype=torch.long), start, drawn, **more)[0]  # type: ignore[arg-type]


def test_what_follows_what_is_as_frequent_as_it_is_probable() -> None:
    tokens = write(4000, 20)
    assert float((frequencies(tokens) - MATRIX).abs().max()) < 0.02
    # A zero is never drawn; and at another temperature, or with the same number for every token, it is not the matrix.
    assert float(frequencies(tokens)[2, [0, 3]].sum()) == 0
    assert float((frequencies(write(4000, 20, temperature=2.0)) - MATRIX).abs().max()) > 0.05
    sharp = (MATRIX**2) / (MATRIX**2).sum(1, keepdim=True)
    assert float((frequencies(write(4000, 20, temperature=0.5)) - sharp).abs().max()) < 0.02
    same = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 20)
    start = torch.ones(4000, dtype=torch.long)
    stuck, _ = continue_sequences(bigram, torch.zeros(4000, 20, dtype=torch.long), start, same)
    assert float((frequencies(stuck) - MATRIX).abs().max()) > 0.05


def test_at_temperature_0_the_most_probable_word_is_taken() -> None:
    assert write(2, 6, temperature=0.0).tolist() == [[0, 3, 0, 3, 0, 3]] * 2


def test_prompts_stay_and_sequences_end() -> None:
    following = torch.eye(5)[[1, 2, 3, 4, 0]] * 99
    tokens = torch.tensor([[2, 9, 9, 9, 9, 9], [0, 0, 9, 9, 9, 9], [1, 1, 1, 1, 1, 1]])
    start = torch.tensor([1, 2, 6])
    given = tokens.clone()
    out, written = continue_sequences(lambda t: following[t[:, -1] % 5], tokens, start, torch.rand(3, 6), end=4, pad=7)
    assert out.tolist() == [[2, 3, 4, 7, 7, 7], [0, 0, 1, 2, 3, 4], [1, 1, 1, 1, 1, 1]]
    assert written.int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0] * 6]
    assert torch.equal(tokens, given)
    calls = []
    continue_sequences(
        lambda t: (calls.append(1), following[t[:, -1]])[1], tokens[:1], start[:1], torch.rand(1, 6), end=4
    )
    assert len(calls) == 2  # nobody is asked once all have ended


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_largest_and_the_smallest_number_choose_words_that_are_possible(dtype: torch.dtype) -> None:
    logits = torch.full((2, 50_000), -torch.inf, dtype=dtype)
    logits[:, 7:40_000] = 0.0
    chosen = choose(logits, torch.tensor([0.0, 1 - 2**-24]), temperature=1.0)
    assert chosen.tolist() == [7, 39_999]
