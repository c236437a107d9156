"""Layer-adaptive and Erdős-Rényi allocations against their definitions in slow loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lessen.operations import ErdosRenyi, Global, LayerAdaptive, Magnitude, PruneWeights, Uniform
from lessen.operations.parts.allocation import Allocation, densities, layer_adaptive
from lessen.operations.parts.packed import unpack
from lessen.testing import EXAMPLES

SHAPES = {"stem": (8, 3, 3, 3), "inner": (8, 8, 3, 3), "head": (10, 32)}


def slow_layer_adaptive(score: Tensor) -> Tensor:
    """The definition: sort, then a sum over all that are as large or larger, for each."""
    values = score.flatten().tolist()
    worth = []
    for u, mine in enumerate(values):
        # Of equals the earlier is taken to be larger, so that the tie is cut as everywhere else.
        rest = sum(v * v for place, v in enumerate(values) if v > mine or (v == mine and place <= u))
        worth.append(mine * mine / rest)
    return torch.tensor(worth, dtype=torch.float64).view(score.shape)


def scores(seed: int = 0) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=drawn).abs() * (1 + k) for k, (name, shape) in enumerate(SHAPES.items())}


def test_layer_adaptive_is_its_definition() -> None:
    for score in (*scores().values(), torch.tensor([2.0, 1.0, 2.0, 1.0])):
        assert torch.allclose(layer_adaptive(score), slow_layer_adaptive(score))
    # The planted error: magnitudes in the place of their squares, a common slip.
    score = scores()["head"]
    assert not torch.allclose(layer_adaptive(score.sqrt()), slow_layer_adaptive(score))


def test_layer_adaptive_competes_over_all_layers_and_never_empties_one() -> None:
    found = scores()
    total = sum(score.numel() for score in found.values())
    worths = torch.cat([slow_layer_adaptive(score).flatten() for score in found.values()])
    least = worths.sort(descending=True).values[round(0.1 * total) - 1]
    by_hand = {name: int((slow_layer_adaptive(score) >= least).sum()) for name, score in found.items()}
    assert LayerAdaptive().counts(found, 0.1) == by_hand
    # The scale of a layer does not count, which is what it repairs in Global().
    scaled = {name: score * 10.0**k for k, (name, score) in enumerate(found.items())}
    assert LayerAdaptive().counts(scaled, 0.1) == by_hand
    assert Global().counts(scaled, 0.1) != Global().counts(found, 0.1)
    assert min(LayerAdaptive().counts(scaled, 3 / total).values()) == 1


def test_layer_adaptive_takes_nothing_that_is_gone() -> None:
    score = torch.tensor([-torch.inf, 1.0, 2.0])
    assert layer_adaptive(score).tolist() == [-math.inf, 0.2, 1.0]


def test_erdos_renyi_is_its_definition() -> None:
    counts = ErdosRenyi().counts(scores(), 0.2)
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    assert sum(counts.values()) == round(0.2 * sum(sizes.values()))
    # By hand: density = e * (sum of sizes) / (product of sizes), one e for all, here without any layer above 1.
    raw = {name: sum(shape) / sizes[name] for name, shape in SHAPES.items()}
    e = 0.2 * sum(sizes.values()) / sum(raw[name] * sizes[name] for name in SHAPES)
    assert all(e * share < 1 for share in raw.values())
    for name in SHAPES:
        assert abs(counts[name] - e * raw[name] * sizes[name]) <= 1
    assert counts != Uniform().counts(scores(), 0.2)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 10)), min_size=1, max_size=6),
    st.floats(0.01, 1),
)
def test_densities_fill_up_to_one_and_keep_the_total(parts: list[tuple[int, float]], keep: float) -> None:
    sizes = {str(k): size for k, (size, _) in enumerate(parts)}
    weights = {str(k): weight for k, (_, weight) in enumerate(parts)}
    total = keep * sum(sizes.values())
    found = densities(sizes, weights, total)
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx(total)
    assert all(0 <= value <= 1 + 1e-9 for value in found.values())
    open_ = {name: found[name] / weights[name] for name in sizes if found[name] < 1}
    assert len({round(value / max(open_.values()), 6) for value in open_.values()}) <= 1
    if open_:  # what is full would be above 1 at the same scale
        assert all(weights[name] * max(open_.values()) >= 1 - 1e-6 for name in sizes if name not in open_)


@pytest.mark.parametrize("allocation", [LayerAdaptive(), ErdosRenyi()])
def test_a_network_keeps_exactly_the_asked_number(allocation: Allocation) -> None:
    example = EXAMPLES["convolutions"]
    operation = PruneWeights(keep=0.3, score=Magnitude(), allocation=allocation)
    made = operation.plan(example.build(), example.context())
    weights = [m.weight.numel() for m in example.build().modules() if type(m).__name__ in {"Conv2d", "Linear"}]
    whole = sum(weights) - sum(math.prod(shape) for shape in made.shapes.values())
    kept = whole + sum(int(unpack(text, made.shapes[name]).sum()) for name, text in made.masks.items())
    assert kept == round(0.3 * sum(weights))
