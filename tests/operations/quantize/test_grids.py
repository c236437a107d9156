"""Grids, rounding and observers against independent references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessen.operations.quantize import Entropy, MeanMagnitude, MinMax, Percentile, SquaredError
from lessen.operations.quantize.fake import fake_quantize, quantize_weight, weight_scale
from lessen.operations.quantize.observers import BINS, Observer, Seen, candidates, grid, squared_error


@given(st.floats(-50, 50), st.floats(0, 100))
@settings(max_examples=200, deadline=None)
def test_a_grid_holds_zero_and_covers_its_range(low: float, width: float) -> None:
    scale, zero = grid(low, low + width, levels=255)
    assert 0 <= zero <= 255
    assert scale > 0
    ends = np.array([min(low, 0.0), max(low + width, 0.0)])
    held = (np.clip(np.rint(ends / scale) + zero, 0, 255) - zero) * scale
    if scale != 1.0:  # a range of nothing but zero
        assert np.abs(held - ends).max() <= 0.5 * scale * (1 + 1e-5)


@pytest.mark.parametrize("high", [6.0, 1.0, 0.1, 3.3333333])
def test_the_largest_code_is_not_above_a_clip(high: float) -> None:
    scale, zero = grid(0.0, high, levels=255)
    assert zero == 0
    assert np.float32(scale) * np.float32(255) <= np.float32(high)


@pytest.mark.parametrize("levels", [255, 15])
def test_activations_are_rounded_as_by_pytorch_itself(levels: int) -> None:
    torch.manual_seed(0)
    # With a step that is a power of two PyTorch's multiplication by its inverse is exact, too.
    x, scale, zero = torch.randn(1000) * 10, torch.tensor(2.0**-4), torch.tensor(97 * levels // 255, dtype=torch.int32)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, levels)
    assert torch.equal(fake_quantize(x, scale, zero, low=0, high=levels), expected)
    assert not torch.equal(fake_quantize(x, scale, zero + 1, low=0, high=levels), expected)


def test_the_gradient_passes_straight_through_and_stops_where_clamped() -> None:
    torch.manual_seed(0)
    x = (torch.randn(1000) * 10).requires_grad_()
    again = x.detach().clone().requires_grad_()
    scale, zero, weight = torch.tensor(2.0**-4), torch.tensor(97, dtype=torch.int32), torch.randn(1000)
    (fake_quantize(x, scale, zero, low=0, high=255) * weight).sum().backward()
    (torch.fake_quantize_per_tensor_affine(again, scale, zero, 0, 255) * weight).sum().backward()
    assert torch.equal(x.grad, again.grad)
    assert 0 < int((x.grad == 0).sum()) < 1000


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("limit", [127, 63, 7])
def test_weights_are_rounded_for_each_channel_as_by_pytorch_itself(axis: int, limit: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    others = [place for place in range(4) if place != axis]
    # The largest of each channel is a power of two times the limit, so that steps are powers of two.
    weight = weight / weight.abs().amax(others, keepdim=True) * limit * 2.0**-5
    weight.requires_grad_()
    scale = weight_scale(weight, limit=limit, axis=axis).detach()
    assert torch.allclose(scale, torch.full_like(scale, 2.0**-5))
    scale = torch.full_like(scale, 2.0**-5)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    found = quantize_weight(weight, limit=limit, axis=axis)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -limit, limit)
    assert float((found - expected).detach().abs().max()) < 1e-5
    wrong = torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -limit + 1, limit - 1)
    assert float((found - wrong).detach().abs().max()) > 0.01
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_zero_weights_and_dead_channels_stay_zero() -> None:
    weight = torch.randn(4, 9)
    weight[1] = 0
    weight[2, 3] = 0
    found = quantize_weight(weight, limit=127, axis=0)
    assert not found[1].any()
    assert found[2, 3] == 0
    assert not quantize_weight(torch.zeros(2, 2), limit=127, axis=0).any()


def seen(values: np.ndarray) -> Seen:
    """What two passes over the values leave, in parts as batches are."""
    what = Seen()
    parts = [torch.from_numpy(part) for part in np.array_split(values, 3)]
    for part in parts:
        what.stretch(part)
        what.look_for_spikes(part)
    for part in parts:
        what.count(part)
    return what


def draws(kind: str) -> np.ndarray:
    source = np.random.default_rng(0)
    values = source.standard_t(3, 30000).astype(np.float32)
    return np.maximum(values, 0) if kind == "relu" else values


KINDS = ("clean", "spiked", "pruned", "background")
OBSERVERS = (MinMax(), Percentile(), SquaredError(), Entropy(), MeanMagnitude())


def data(kind: str) -> np.ndarray:
    """Activations or weights as they come, in a shuffled order.

    Clean; with 70 % of exact zeros, as behind a ReLU; with the smaller half set to zero, as by pruning; and with 80 %
    of one value that is not zero, as an image's background.
    """
    source = np.random.default_rng(0)
    values = source.laplace(size=20000)
    if kind == "spiked":
        values = np.append(np.abs(values), np.zeros(46667))
    elif kind == "pruned":
        values[np.abs(values) < np.median(np.abs(values))] = 0
    elif kind == "background":
        values = np.append(np.abs(values) - 0.42, np.full(80000, -0.42))
    return source.permutation(values).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_come_again_and_again_are_counted_by_themselves(kind: str) -> None:
    values = data(kind)
    what = seen(values)
    spikes = {"clean": [], "background": [np.float64(np.float32(-0.42))]}.get(kind, [0.0])
    assert what.spikes.tolist() == spikes
    assert what.held is not None
    assert what.held.tolist() == [float((values == spike).sum()) for spike in spikes]
    assert what.counts is not None
    assert what.counts.sum() + what.held.sum() == len(values)
    expected = np.histogram(values[~np.isin(values, spikes)], BINS, (values.min(), values.max()))[0]
    assert np.abs(np.cumsum(what.counts - expected)).max() <= 2  # a value at an edge of two bins may be in either


@pytest.mark.parametrize("levels", [15, 255])
@pytest.mark.parametrize("spike", [0.0, 0.3, -0.7, 1.1])
def test_entropy_is_moved_by_no_spike_inside(spike: float, levels: int) -> None:
    """By hand: all of a spike has one code, which tells all there is to know of it; so the rest alone decides."""
    values = np.append(data("clean"), [25.0]).astype(np.float32)
    low, high = Entropy().range_of(seen(values), levels=levels)
    assert high < 25  # it does cut
    assert low < spike < high
    more = np.random.default_rng(1).permutation(np.append(values, np.full(60000, spike, np.float32)))
    assert Entropy().range_of(seen(more), levels=levels) == (low, high)


def test_entropy_does_not_clamp_a_spike() -> None:
    """A background far out is half of all values: without it the best range would end before it."""
    values = np.append(data("clean"), [30.0]).astype(np.float32)
    assert Entropy().range_of(seen(values), levels=15)[1] < 20
    more = np.random.default_rng(1).permutation(np.append(values, np.full(20000, 20.0, np.float32)))
    assert Entropy().range_of(seen(more), levels=15)[1] >= 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("observer", OBSERVERS, ids=lambda each: type(each).__name__)
def test_no_observer_is_far_worse_than_min_max_at_eight_bits(observer: Observer, kind: str) -> None:
    """Root mean squared error over the values themselves."""
    values = data(kind).astype(np.float64)

    def error(ends: tuple[float, float]) -> float:
        return squared_error(values, np.ones_like(values), *ends, levels=255) ** 0.5

    least = error((values.min(), values.max()))
    assert error(observer.range_of(seen(data(kind)), levels=255)) <= 3 * least
    assert error((values.min() / 3, values.max() / 3)) > 3 * least  # the ruler sees a range that is far too narrow


@pytest.mark.parametrize("kind", ["relu", "signed"])
def test_min_max_is_the_smallest_and_the_largest(kind: str) -> None:
    values = draws(kind)
    assert MinMax().range_of(seen(values), levels=255) == (values.min(), values.max())


@pytest.mark.parametrize("kind", ["relu", "signed"])
@pytest.mark.parametrize("percent", [99.0, 99.9])
def test_percentile_is_that_of_the_sorted_values(kind: str, percent: float) -> None:
    values = draws(kind)
    outside = (100 - percent) / 2
    bin_width = (values.max() - values.min()) / BINS
    low, high = Percentile(percent=percent).range_of(seen(values), levels=255)
    expected = np.percentile(values, [outside, 100 - outside], method="inverted_cdf")
    assert abs(low - expected[0]) <= 1.01 * bin_width
    assert abs(high - expected[1]) <= 1.01 * bin_width
    assert abs(high - np.percentile(values, 100 - 3 * outside)) > 1.01 * bin_width


@pytest.mark.parametrize("kind", ["relu", "signed"])
@pytest.mark.parametrize("levels", [255, 15])
def test_squared_error_is_the_best_of_its_lattice_over_the_values_themselves(kind: str, levels: int) -> None:
    values = draws(kind).astype(np.float64)
    ones = np.ones_like(values)

    def error(ends: tuple[float, float]) -> float:
        return squared_error(values, ones, *ends, levels=levels)

    best = min(error(ends) for ends in candidates(values.min(), values.max()))
    assert error(SquaredError().range_of(seen(values), levels=levels)) <= 1.02 * best
    if levels == 15:
        assert error(MinMax().range_of(seen(values), levels=levels)) > 1.02 * best


def test_half_precision_is_rounded_as_its_values_are_in_full() -> None:
    torch.manual_seed(0)
    x, scale, zero = torch.randn(1000).bfloat16(), torch.tensor(0.0173), torch.tensor(120, dtype=torch.int32)
    expected = fake_quantize(x.float(), scale, zero, low=0, high=255).bfloat16()
    found = fake_quantize(x, scale, zero, low=0, high=255)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    assert not torch.equal((x / scale.bfloat16()).round() * scale.bfloat16(), expected)
