"""Weights in a few bits against what must be true of them: the best rounding there is, the nearest, and zero."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from lessen.core.errors import NetworkError, PlanError, SettingError
from lessen.operations import Awq, Gptq, Hqq, Nearest, PruneWeights, QuantizeWeights
from lessen.operations.weight_only.awq import awq, column_scales
from lessen.operations.weight_only.gptq import gptq, inverse_factor
from lessen.operations.weight_only.grid import group_grids, on_grids, rounded_step
from lessen.operations.weight_only.hqq import hqq, norm_error
from lessen.operations.weight_only.nearest import nearest
from lessen.operations.weight_only.rounding import Method, Rounding, output_error
from lessen.surgery.forms.codes import Coded, Codes, dequantize, plain_dequantize
from lessen.surgery.forms.registering import form_of
from lessen.testing import EXAMPLES

METHODS = (Nearest(), Gptq(), Gptq(by_activation=True), Awq(), Hqq())


def drawn(rows: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that hang together: their gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64) + 2
    x = torch.randn(64, inputs, generator=generator, dtype=torch.float64) @ mixing
    return weight, x.T @ x


def about(bits: int, group: int, *, symmetric: bool = False, **more: Tensor) -> Rounding:
    return Rounding(bits=bits, group=group, symmetric=symmetric, **more)


def best_error(weight_I: Tensor, coded: Coded, gram: Tensor, bits: int) -> float:
    """The smallest output error of all roundings of one row on the grid that was chosen: every combination is tried."""
    step, zero = float(coded.steps[0, 0]), int(coded.zeros[0, 0])
    choices = []
    for weight in weight_I.tolist():
        low = min(max(int(weight // step) + zero, 0), 2**bits - 1)
        choices.append(sorted({low, min(low + 1, 2**bits - 1)}))
    every = torch.tensor(list(itertools.product(*choices)), dtype=torch.float64)
    return float(output_error(weight_I - (every - zero) * step, gram).min())


def test_gptq_lies_between_the_best_rounding_and_the_nearest() -> None:
    """Up and down for each of 8 weights: 256 roundings. On average over rows GPTQ is nearer to the best of them."""
    bits, best, found, plain = 3, 0.0, 0.0, 0.0
    for seed in range(20):
        weight, gram = drawn(1, 8, seed)
        rounding = about(bits, 8, gram=gram)
        made, near = gptq(weight, gram, rounding), nearest(weight, bits=bits, group=8, symmetric=False)
        assert torch.equal(made.steps, near.steps)  # one group: the grid is chosen before anything is rounded
        best += best_error(weight[0], made, gram, bits)
        found += float(output_error(weight - made.weight(), gram).sum())
        plain += float(output_error(weight - near.weight(), gram).sum())
    assert found < 0.6 * plain
    assert found > best


def test_gptq_that_feeds_back_the_wrong_way_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: the lower factor in the place of the upper, so nothing is handed on."""
    import lessen.operations.weight_only.gptq as module

    monkeypatch.setattr(module, "inverse_factor", lambda gram: inverse_factor(gram).T.contiguous())
    with pytest.raises(AssertionError):
        test_gptq_lies_between_the_best_rounding_and_the_nearest()


@pytest.mark.parametrize("by_activation", [False, True])
def test_inputs_that_have_nothing_to_do_with_each_other_give_the_nearest(by_activation: bool) -> None:
    weight, _ = drawn(5, 24)
    gram = torch.diag(torch.rand(24, dtype=torch.float64) + 0.1)
    made = gptq(weight, gram, about(4, 8, gram=gram), by_activation=by_activation)
    near = nearest(weight, bits=4, group=8, symmetric=False)
    assert torch.equal(made.codes, near.codes)
    assert torch.equal(made.steps, near.steps)


def slow_gptq(weight_OI: Tensor, gram: Tensor, rounding: Rounding, damping: float) -> Tensor:
    """Optimal brain surgery as it is written: after each column, the least-squares answer of those behind it."""
    left, columns = weight_OI.clone(), weight_OI.shape[1]
    gram = gram + damping * gram.diagonal().mean() * torch.eye(columns, dtype=gram.dtype)
    for column in range(columns):
        at = column % rounding.group
        if at == 0:
            step, zero = group_grids(
                left[:, column : column + rounding.group], bits=rounding.bits, group=rounding.group, symmetric=False
            )
        rounded = on_grids(left[:, column : column + 1], step, zero, bits=rounding.bits, group=rounding.group).weight()[
            :, 0
        ]
        change = left[:, column] - rounded
        if column + 1 < columns:
            behind = gram[column + 1 :, column + 1 :]
            left[:, column + 1 :] += change[:, None] * torch.linalg.solve(behind, gram[column + 1 :, column])[None]
        left[:, column] = rounded
    return left


@pytest.mark.parametrize("group", [8, 48, 200])
def test_gptq_is_the_least_squares_answer_column_by_column(group: int) -> None:
    """In blocks of 128 and with a Cholesky factor, it is the same as solving for what is behind, at every column."""
    weight, gram = drawn(3, 200)
    rounding = about(4, group, gram=gram)
    made = gptq(weight, gram, rounding, damping=0.1)
    assert torch.allclose(made.weight(), slow_gptq(weight, gram, rounding, 0.1), atol=1e-9)


def test_awq_without_scaling_is_the_nearest() -> None:
    weight, gram = drawn(4, 16)
    assert torch.equal(column_scales(gram, 0.0), torch.ones(16, dtype=torch.float64))
    flat = torch.eye(16, dtype=torch.float64)  # all inputs alike: scaling can gain nothing
    made, near = awq(weight, flat, about(3, 16)), nearest(weight, bits=3, group=16, symmetric=False)
    assert made.columns is None
    assert torch.equal(made.codes, near.codes)


def test_awq_is_never_worse_than_the_nearest_and_better_where_some_inputs_are_large() -> None:
    better = 0
    for seed in range(6):
        weight, _ = drawn(8, 32, seed)
        size = torch.ones(32, dtype=torch.float64)
        size[:2] = 30
        gram = torch.diag(size.square())
        near = nearest(weight, bits=3, group=32, symmetric=False)
        made = awq(weight, gram, about(3, 32))
        errors = [float(output_error(weight - each.weight(), gram).sum()) for each in (made, near)]
        assert errors[0] <= errors[1]
        better += errors[0] < 0.5 * errors[1]
    assert better >= 5


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_hqq_is_never_worse_than_its_start(bits: int, symmetric: bool) -> None:
    weight, _ = drawn(16, 64)
    weight[:, ::16] *= 6  # a few that are far from the rest
    start = nearest(weight, bits=bits, group=32, symmetric=symmetric)
    made = hqq(weight, about(bits, 32, symmetric=symmetric))
    before, after = (norm_error(weight, each, power=0.7) for each in (start, made))
    assert bool((after <= before).all())
    assert float(after.sum()) < 0.995 * float(before.sum())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_nearest_is_within_half_a_step_and_zero_is_exact(bits: int, symmetric: bool) -> None:
    weight, _ = drawn(6, 37)
    weight[weight.abs() < 0.3] = 0
    made = nearest(weight, bits=bits, group=8, symmetric=symmetric)
    assert made.codes.dtype == torch.uint8
    assert int(made.codes.max()) < 2**bits
    assert bool((made.weight()[weight == 0] == 0).all())
    wide = made.steps.abs().repeat_interleave(8, 1)[:, :37]
    # Steps are rounded to 11 bits, so the ends may be off by a little more than half a step.
    near = (weight - made.weight()).abs() <= wide * (0.5 + 2**bits * 2.0**-11)
    clamped = made.codes == 2**bits - 1  # a symmetric grid has one code fewer on this side
    assert bool((near | clamped if symmetric else near).all())
    again = on_grids(made.weight(), made.steps, made.zeros.double(), bits=bits, group=8)
    assert torch.equal(again.codes, made.codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_symmetric_grid_uses_all_its_codes(bits: int) -> None:
    weight, _ = drawn(64, 32)
    half, rows = 2 ** (bits - 1), range(64)
    made = nearest(weight, bits=bits, group=32, symmetric=True)
    assert bool((made.codes.amin(1) == 0).all())
    assert bool((made.zeros == half).all())

    def nearest_of(values: Tensor, row: int) -> float:
        """By hand: the squared error of a row, each weight to the nearest of these values."""
        return float((weight[row][:, None] - values).abs().amin(1).square().sum())

    # The lowest code is the largest weight, whatever its sign.
    largest = [float(max(weight[row], key=abs)) for row in rows]
    by_hand = [nearest_of(-largest[row] / half * torch.arange(-half, half), row) for row in rows]
    error = (weight - made.weight()).square().sum(1)
    assert torch.allclose(error, torch.tensor(by_hand, dtype=error.dtype), rtol=2e-2)
    # The usual one: a step of 2 max / (2^bits - 1), clamped at half a step inside the largest weight.
    usual = [nearest_of(abs(largest[row]) * 2 / (2 * half - 1) * torch.arange(-half, half), row) for row in rows]
    assert float(error.sum()) <= sum(usual)
    unused = [nearest_of(abs(largest[row]) / (half - 1) * torch.arange(1 - half, half), row) for row in rows]
    assert float(error.sum()) < 0.8 * sum(unused)


def test_a_grid_without_zero_would_be_seen() -> None:
    """The planted error: a range that starts at the smallest weight, as AWQ's code has it."""
    weight = torch.tensor([[1.0, 2.0, 3.0, 0.0]], dtype=torch.float64)
    step = (weight.max() - 0.4) / 3
    codes = ((weight - 0.4) / step).round()
    assert float((codes * step + 0.4)[0, 3]) != 0
    assert float(nearest(weight, bits=2, group=4, symmetric=False).weight()[0, 3]) == 0


def test_steps_take_sixteen_bits() -> None:
    steps = rounded_step(torch.tensor([0.1, 1e-9, 3e5, 0.0], dtype=torch.float64))
    assert float(steps[0]) == float(torch.tensor(0.1).half())
    assert steps[1:].tolist() == [1e-9, 3e5, 1.0]  # too small and too large for it: kept; a dead group: 1


def test_dequantize_against_a_loop_and_its_gradient() -> None:
    codes = torch.randint(0, 16, (3, 10), dtype=torch.uint8)
    zeros = torch.randint(0, 16, (3, 3), dtype=torch.uint8)
    steps = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
    made = dequantize(codes, steps, zeros, group=4)
    slow = [
        [float(steps.detach()[o, i // 4]) * (int(codes[o, i]) - int(zeros[o, i // 4])) for i in range(10)]
        for o in range(3)
    ]
    assert torch.equal(made.detach(), torch.tensor(slow, dtype=torch.float64))
    assert torch.equal(plain_dequantize(codes, steps, zeros, group=4), made)
    assert torch.autograd.gradcheck(lambda s: dequantize(codes, s, zeros, group=4), steps)
    made.square().sum().backward()
    whole = steps.grad
    steps.grad = None
    dequantize(codes, steps, zeros, group=4, gain=0.25).square().sum().backward()
    assert whole is not None
    assert torch.allclose(steps.grad, 0.25 * whole)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_keeps_the_contract(method: Method) -> None:
    assert isinstance(method, Method)
    assert eval(repr(method)) == method
    example = EXAMPLES["perceptron"]
    plan = QuantizeWeights(bits=3, group=8, method=method).plan(example.build(), example.context())
    made = plan.apply(example.build())
    codes = form_of(made.again, "weight", Codes)  # type: ignore[arg-type]
    assert codes is not None
    assert codes.codes.dtype == torch.uint8
    assert int(codes.codes.max()) < 8
    with torch.no_grad():
        before = example.build()(example.inputs())
        error = made(example.inputs()) - before
    assert float(error.norm()) < 0.5 * float(before.norm())


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("network", ["convolutions", "attention"])
def test_pruned_weights_stay_zero(network: str, method: Method) -> None:
    example = EXAMPLES[network]
    sparse = PruneWeights(keep=0.4).plan(example.build(), example.context()).apply(example.build())
    made = QuantizeWeights(bits=4, group=16, method=method).plan(sparse, example.context()).apply(sparse)
    names = [name for name, module in example.build().named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for name in names:
        old, new = sparse.get_submodule(name).weight, made.get_submodule(name).weight
        assert bool((new[old == 0] == 0).all()), name
        assert bool((new[old != 0] != 0).any()), name


def test_sequential_methods_see_what_rounded_layers_give() -> None:
    """With two bits in front, the second layer is rounded for other inputs than without."""
    example = EXAMPLES["perceptron"]
    both = QuantizeWeights(bits=2, group=8, method=Gptq()).plan(example.build(), example.context())
    alone = QuantizeWeights(bits=2, group=8, method=Gptq(), where="last").plan(example.build(), example.context())
    assert both.values is not None
    assert alone.values is not None
    name = "last.weight.codes"
    assert both.values[name] != alone.values[name]
    first = QuantizeWeights(bits=2, group=8, method=Gptq(), where="first").plan(example.build(), example.context())
    assert first.values is not None
    assert all(both.values[key] == text for key, text in first.values.items())


def test_weights_in_codes_cannot_be_written_to() -> None:
    example = EXAMPLES["perceptron"]
    made = QuantizeWeights().plan(example.build(), example.context()).apply(example.build())
    with pytest.raises(NetworkError, match="quantize them then"):
        made.first.weight = torch.zeros(32, 12)


def test_what_is_left_alone_says_why() -> None:
    example = EXAMPLES["perceptron"]
    once = QuantizeWeights(where="first").plan(example.build(), example.context()).apply(example.build())
    plan = QuantizeWeights().plan(once, example.context())
    assert plan.left == {"first.weight": "it is already stored as integer codes"}
    assert set(plan.groups) == {"again.weight", "last.weight"}


def test_embeddings_are_rounded_when_they_are_named() -> None:
    model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 3))
    context = EXAMPLES["perceptron"].context()
    assert set(QuantizeWeights().plan(model, context).groups) == {"1.weight"}
    plan = QuantizeWeights(where=(nn.Embedding, nn.Linear)).plan(model, context)
    assert set(plan.groups) == {"0.weight", "1.weight"}
    tokens = torch.tensor([[1, 2]])
    assert float((plan.apply(model)(tokens) - model(tokens)).abs().max().detach()) < 0.3


def test_errors_say_what_to_do() -> None:
    example = EXAMPLES["perceptron"]
    with pytest.raises(PlanError, match="no layer with weights"):
        QuantizeWeights(where=torch.nn.LSTM).plan(example.build(), example.context())
    with pytest.raises(SettingError, match="bits"):
        QuantizeWeights(bits=9)
    from lessen.core import Context

    with pytest.raises(PlanError, match=r"Gptq needs calibration batches.*Nearest\(\)"):
        QuantizeWeights(method=Gptq()).plan(example.build(), Context(inputs=example.inputs()))
    plan = QuantizeWeights().plan(example.build(), example.context())
    with pytest.raises(PlanError, match="should be"):
        plan.apply(EXAMPLES["shared"].build())
