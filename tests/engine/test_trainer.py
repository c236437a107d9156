"""Short trainings of operations: the same numbers as a loop written out, and the errors of the engine."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import DivergedError, PlanError, SettingError
from lessen.core.training import ShortTraining
from lessen.engine import EngineTrainer
from lessen.engine.home import Alone
from lessen.engine.moving import move
from lessen.graph.stage import Precision
from lessen.optim import SGD, Adam

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 2)


def train(network: nn.Module, *, context: Context | None = None, **changes: Any) -> None:
    given: dict[str, Any] = {"steps": 20, "optimizer": Adam(rate=0.01)}
    (context or Context(inputs=X)).train(
        "a test",
        dict(network.named_parameters()),
        changes.pop("loss", lambda step: (network(X) - Y).square().mean()),
        **given | changes,
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    found: Mapping[str, Tensor] = other.state_dict()
    return all(torch.equal(value, found[name]) for name, value in one.state_dict().items())


def test_it_is_the_loop_written_out() -> None:
    ours, theirs = linear(), linear()
    train(ours, schedule=lambda progress: 1 - progress)
    optimizer = torch.optim.Adam(theirs.parameters(), 0.01)
    for step in range(20):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 20)
        optimizer.zero_grad()
        (theirs(X) - Y).square().mean().backward()
        optimizer.step()
    assert same(ours, theirs)
    assert all(parameter.grad is None for parameter in ours.parameters())
    other = linear()
    train(other)
    assert not same(ours, other), "the schedule must matter, or this says nothing"


def test_gradients_from_before_do_not_count_and_no_grad_does_not_matter() -> None:
    ours, theirs = linear(), linear()
    for parameter in ours.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        train(ours)
    train(theirs)
    assert same(ours, theirs)


def test_dropout_draws_from_the_seed_of_the_context_alone() -> None:
    def trained(seed: int, before: int) -> nn.Linear:
        network, dropout = linear(), nn.Dropout(0.5)
        torch.manual_seed(before)
        state = torch.get_rng_state()
        context = Context(inputs=X, seed=seed)
        train(network, context=context, loss=lambda step: (network(dropout(X)) - Y).square().mean())
        assert torch.equal(state, torch.get_rng_state())
        return network

    assert same(trained(0, before=0), trained(0, before=7))
    assert not same(trained(0, before=0), trained(1, before=0))


def test_a_loss_that_is_not_finite_is_named_with_its_step() -> None:
    network = linear()
    says = r"Training a test, step 3: the loss is not a finite number\. Try a lower rate \(0\.001, now 0\.01\)"
    with pytest.raises(DivergedError, match=says):
        train(network, loss=lambda step: network(X).sum() * (torch.inf if step == 3 else 1.0))


def test_where_nothing_learns_it_says_so() -> None:
    with pytest.raises(PlanError, match="Training a test: nothing learns"):
        train(linear().requires_grad_(False))
    other = linear(1)
    with pytest.raises(PlanError, match="the loss does not depend on any parameter"):
        train(linear(), loss=lambda step: other(X).detach().sum())


def test_a_trainer_of_ones_own_is_asked_instead() -> None:
    class Mine:
        def train(self, training: ShortTraining) -> None:
            asked.append(training)

    asked: list[ShortTraining] = []
    network = linear()
    train(network, context=Context(inputs=X, trainer=Mine()), optimizer=SGD(rate=0.5))
    assert [(each.steps, each.optimizer.rate) for each in asked] == [(20, 0.5)]
    assert same(network, linear())


def test_the_forward_pass_is_in_the_precision_of_the_trainer() -> None:
    kinds = set()
    for precision in (Precision.FULL, Precision.BFLOAT16):
        network = linear()

        def loss(step: int, network: nn.Module = network) -> Tensor:
            said = network(X)
            kinds.add(said.dtype)
            return (said - Y).square().mean()

        train(network, context=Context(inputs=X, trainer=EngineTrainer(precision=precision)), loss=loss)
        assert bool(loss(0) < (linear()(X) - Y).square().mean())
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert kinds == {torch.float32, torch.bfloat16}
    with pytest.raises(SettingError, match="FLOAT16 needs a CUDA device, and this computes on cpu"):
        train(linear(), context=Context(inputs=X, trainer=EngineTrainer(precision=Precision.FLOAT16)))


def test_scaled_gradients_move_parameters_as_unscaled_ones_do() -> None:
    """What half precision needs on a GPU, with torch's scaler for the CPU."""
    found = []
    for scale in (1.0, 1024.0):
        network, home = linear(), Alone()
        home.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        home.backward((network(X) - Y).square().mean())
        found.append(network.weight.grad.clone())
        parameters = [*network.parameters()]
        move(home.scaler, optimizer, parameters, rates=[0.1], factor=0.5, clip=0.01)
        found.append(network.weight.detach().clone())
    assert torch.equal(1024 * found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[1], linear().weight)


def test_it_trains_alone_whatever_a_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations run in one process of several: nothing in it may wait for the others."""
    ours, theirs = linear(), linear()
    train(theirs)
    monkeypatch.setenv("WORLD_SIZE", "2")
    train(ours)
    assert same(ours, theirs)


def test_a_context_made_without_the_engine_finds_its_loop() -> None:
    code = (
        "import sys, torch; from torch import nn; from lessen.core import Context; from lessen.optim import SGD\n"
        "assert 'lessen.engine' not in sys.modules\n"
        "p = nn.Parameter(torch.ones(1))\n"
        "context, rule = Context(inputs=torch.ones(1, 1)), SGD(rate=0.5, momentum=0, decay=0)\n"
        "context.train('p', {'p': p}, lambda step: p.sum(), steps=2, optimizer=rule)\n"
        "print(p.item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.0"
