"""Passes that wait: what they show is what a new pass up to each layer would show, and nothing is left behind."""

import gc
import signal
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks

from lessen.core import Batch, Context, Operation
from lessen.core.errors import PlanError
from lessen.operations import PruneByReconstruction, Quantize, QuantizeWeights
from lessen.operations.parts.hessian import InputsOfLayers, layers_of
from lessen.operations.parts.pausing import Pausable
from lessen.operations.parts.walk import Walk
from lessen.operations.quantize.rounding import AdaRound, Brecq, QDrop
from lessen.operations.second_order import Wanda
from lessen.operations.weight_only.awq import Awq
from lessen.operations.weight_only.gptq import Gptq
from lessen.testing import EXAMPLES
from lessen.zoo import residual

CPU = torch.device("cpu")
SEQUENTIAL: dict[str, Operation] = {
    "sparse_gpt": PruneByReconstruction(keep=0.5),
    "wanda": PruneByReconstruction(keep=0.6, method=Wanda()),
    "gptq": QuantizeWeights(bits=3, group=4, method=Gptq()),
    "awq": QuantizeWeights(bits=3, group=4, method=Awq(), symmetric=True),
    "adaround": Quantize(weight_bits=3, rounding=AdaRound(steps=2)),
    "brecq": Quantize(weight_bits=3, rounding=Brecq(steps=2)),
    "brecq without fisher": Quantize(weight_bits=3, rounding=Brecq(steps=2, fisher=False)),
    "qdrop": Quantize(weight_bits=3, rounding=QDrop(steps=2)),
}


class Standardised(nn.Conv2d):
    """Its weight is computed from its parameter in each call."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x_NCHW, weight, self.bias, self.stride, self.padding)


class Odd(nn.Module):
    """All that a pass cannot go on behind: read early, called twice, tied, standardised; and what writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.standardised = Standardised(1, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.read = nn.Conv2d(4, 4, 1)
        self.tied, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.tied.weight
        self.never, self.head = nn.Linear(4, 4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.read.weight.abs().mean()
        x = torch.relu_(self.standardised(x))
        x = x + self.twice(x) * scale
        x = self.twice(torch.relu_(self.read(x))).mean((2, 3))
        x = self.other(torch.relu(self.tied(x)))
        out: Tensor = self.head(x.relu_())
        return out


class Cross(nn.Module):
    """Attentions that multiply with parts of a weight, on several inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 8)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        out: Tensor = self.head(self.decoder(self.cross(x, x.flip(1), x.flip(1))[0], x).mean(1))
        return out


class Nested(nn.Module):
    """A block that joins branches around another one, before and behind which it has layers of its own."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.late = inner or nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.late(torch.relu(self.inner(x)))
        return out


OWN = {
    "odd": (Odd, (1, 6, 6)),
    "cross": (Cross, (5, 4)),
    "nested": (lambda: nn.Sequential(Nested(Nested(Nested())), nn.Linear(4, 10)), (4,)),
    "residual": (lambda: residual(width=2, depth=8), (1, 4, 4)),
}


def context(shape: tuple[int, ...]) -> Context:
    batches = [torch.randn(count, *shape) for count in (5, 3)]
    return Context(
        inputs=batches[0],
        calibration=[Batch(x, torch.arange(len(x)), torch.arange(len(x)) % 10) for x in batches],
        loss=lambda a, b: F.cross_entropy(a, b, reduction="none"),
    )


def subject(name: str) -> tuple[nn.Module, Context]:
    torch.manual_seed(0)
    if name in EXAMPLES:
        return EXAMPLES[name].build().eval(), EXAMPLES[name].context()
    make, shape = OWN[name]
    return make().eval(), context(shape)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = threading.active_count(), len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)
    yield
    after = threading.active_count(), len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)
    assert before == after


@pytest.mark.parametrize("network", [*OWN, *EXAMPLES])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_plans_are_those_of_a_new_pass_for_each_layer(name: str, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = subject(network)
    found = SEQUENTIAL[name].plan(model, given)
    go = Walk.go

    def anew(self: Walk, wanted: object) -> list:
        self._stale = True
        return go(self, wanted)

    monkeypatch.setattr(Walk, "go", anew)
    assert found == SEQUENTIAL[name].plan(model, given)


class Counted(nn.Module):
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.passes += 1
        return x


@pytest.mark.parametrize(("network", "passes"), [("residual", 1), ("cross", 3), ("odd", 5)])
def test_one_pass_is_enough_but_for_what_was_read_too_early(network: str, passes: int) -> None:
    inner, given = subject(network)
    model = nn.Sequential(Counted(), inner).eval()
    weights = [name for name, tensor in model.named_parameters() if tensor.ndim > 1]
    layers = layers_of(model, given.inputs, weights)
    Counted.passes = 0
    with InputsOfLayers(model, layers, [batch.inputs for batch in given.calibration], device=CPU) as walk:
        for name, layer in layers.items():
            walk.gram(layer)
            with torch.no_grad():
                model.get_parameter(name).mul_(0.5)
            walk.changed([name])
    assert Counted.passes == passes * len(given.calibration)


def alive() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_what_waits_does_not_grow_with_depth() -> None:
    counts = []
    for depth in (4, 16):
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))
        layers = layers_of(model, torch.randn(2, 3), [f"{place}.weight" for place in range(depth)])
        with InputsOfLayers(model, layers, [torch.randn(2, 3)], device=CPU) as walk:
            walk.gram(layers["0.weight"])
            first = alive()
            for name, layer in layers.items():
                walk.gram(layer)
                walk.changed([name])
            counts.append(alive() - first)
    assert counts[0] == counts[1]


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise LookupError("in the middle")


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_what_a_network_raises_arrives(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 10))
    given = context((4,))
    calls = iter(range(10**6))
    error: list[int] = []

    def sometimes(*_: object) -> None:
        if next(calls) in error:
            raise LookupError("in the middle")

    model[3].register_forward_hook(sometimes)
    SEQUENTIAL[name].plan(model, given)
    error += range(next(calls) * 2 - 2, 10**6)  # in the last pass but one of as many again
    with pytest.raises(LookupError, match="in the middle"):
        SEQUENTIAL[name].plan(model, given)


def test_a_caller_that_fails_ends_the_passes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    layers = layers_of(model, torch.randn(2, 3), ["0.weight", "1.weight"])

    def work() -> None:
        with InputsOfLayers(model, layers, [torch.randn(2, 3)] * 3, device=CPU) as walk:
            walk.gram(layers["0.weight"])
            assert threading.active_count() > 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread() and Endless.at_once:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            for _ in range(10**5):  # for ever, but for a test that fails
                x = x + 1
            raise AssertionError("nobody ended this pass")
        return x

    at_once = False


def test_an_interrupt_ends_a_pass_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 3), Endless(), nn.Linear(3, 3))
    layers = layers_of(model, torch.randn(2, 3), ["0.weight", "2.weight"])
    monkeypatch.setattr(Endless, "at_once", True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's own workers do not listen
    try:
        with pytest.raises(KeyboardInterrupt), InputsOfLayers(model, layers, [torch.randn(2, 3)], device=CPU) as walk:
            walk.gram(layers["2.weight"])
    finally:
        signal.signal(signal.SIGINT, before)


def state() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_device(),
        torch.empty(1).device,
    )


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad(),
        torch.enable_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.float16),
        torch.device("meta"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_pass_runs_in_the_state_of_its_caller(around: torch.no_grad) -> None:
    seen: list[tuple[object, ...]] = []
    with around:
        work = Pausable(lambda: (seen.append(state()), work.pause(), seen.append(state())))
        work.resume()
    work.resume()
    with around:
        assert seen == [state()] * 2
    assert work.done


class Sometimes(nn.Module):
    """Runs its second layer on batches of more than three examples only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.third(self.second(x) if len(x) > 3 else x)
        return out


def test_a_unit_that_does_not_run_on_a_batch_is_named() -> None:
    with pytest.raises(PlanError, match="second runs on the example inputs, but not in calibration batch 1"):
        SEQUENTIAL["adaround"].plan(Sometimes(), context((4,)))
    plan = SEQUENTIAL["sparse_gpt"].plan(Sometimes(), context((4,)))
    assert list(plan.errors) == ["first.weight", "second.weight", "third.weight"]  # type: ignore[attr-defined]
