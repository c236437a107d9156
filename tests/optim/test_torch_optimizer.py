"""Any optimizer of torch by name, rules by path, and resuming bit for bit with each."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import encode, settings
from lessen.core.errors import LessenError, SettingError
from lessen.engine import Course
from lessen.graph import SGD, Adam, AdamW, Fit, LayerRates, NoDecay, Rule, TorchOptimizer, validate
from lessen.optim.rules import groups
from lessen.optim.torch_optimizer import REFUSED, torch_optimizers
from lessen.recipe import read_recipe
from lessen.schemes import Mutual, Supervised
from lessen.surgery.decay import OwnDecay
from lessen.testing.tasks import clusters, perceptron
from lessen.zoo import residual, transformer

USABLE = sorted(set(torch_optimizers().values()) - set(REFUSED))


@settings
class Counting:
    """An optimizer of someone's own that counts in its groups, and remembers nested and odd things."""

    rate: float = 0.05

    def build(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        class Own(torch.optim.SGD):
            @torch.no_grad()
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                for group in self.param_groups:
                    group["count"] = group.get("count", 0) + 1
                    for parameter in group["params"]:
                        held = self.state[parameter].setdefault("past", ([torch.zeros_like(parameter)], -float("inf")))
                        held[0][0].add_(parameter.grad).mul_(0.9)
                        parameter.add_(held[0][0], alpha=-group["lr"] / group["count"])
                        self.state[parameter]["past"] = (held[0], max(held[1], float(parameter.abs().max())))

        return Own(parameters.values(), lr=self.rate)


@settings
class Closure:
    """An optimizer that needs a closure."""

    rate: float = 0.1

    def build(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        class Needy(torch.optim.SGD):
            def step(self, closure: Any) -> Any:  # type: ignore[override]
                return closure()

        return Needy(parameters.values(), lr=self.rate)


def network(dtype: torch.dtype = torch.float32, *, flat: bool = True) -> nn.Module:
    made = perceptron(8, seed=1)
    if not flat:  # Muon moves matrices alone
        made = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
        with torch.no_grad():
            for value, like in zip(made.parameters(), perceptron(8, seed=1).parameters(), strict=False):
                value.copy_(torch.linspace(-0.5, 0.5, value.numel()).sin().reshape(value.shape) + like.mean())
    return made.to(dtype)


def course(optimizer: Any, model: nn.Module, folder: Path | None, **fit: Any) -> Course:
    fit = {"batch": 16, "checkpoint_steps": 3, **fit}
    stages = Supervised(epochs=2, fit=Fit(optimizer=optimizer, **fit)).stages({"student": model})
    return Course(stages, clusters(), folder=folder, device="cpu", resume=True)


def ends(optimizer: Any, folder: Path | None, stop: int | None = None, **fit: Any) -> dict[str, Tensor]:
    flat = getattr(optimizer, "name", "") != "Muon"
    if stop is not None:
        steps = course(optimizer, network(flat=flat), folder, **fit).steps()
        for _ in range(stop):
            next(steps)
        steps.close()
    model = network(flat=flat)
    for _ in course(optimizer, model, folder, **fit).steps():
        pass
    return model.state_dict()


CASES = [
    *[TorchOptimizer(name=name, rate=0.01, rules=(Rule("*weight", rate_factor=0.5),)) for name in USABLE],
    TorchOptimizer(name="RMSprop", rate=0.01, decay=0.1, settings={"momentum": 0.9, "centered": True}),
    Counting(),
]


@pytest.mark.parametrize("optimizer", CASES, ids=lambda found: getattr(found, "name", "own"))
def test_every_optimizer_is_resumed_bit_for_bit(optimizer: Any, tmp_path: Path) -> None:
    whole = ends(optimizer, None)
    parts = ends(optimizer, tmp_path, stop=7)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize("more", [{"accumulate": 2, "clip": None}, {"keep_best": False, "checkpoint_steps": None}])
def test_rules_and_other_settings_of_fit_are_resumed_together(more: dict[str, Any], tmp_path: Path) -> None:
    optimizer = TorchOptimizer(name="NAdam", rate=0.02, rules=(NoDecay(), LayerRates(factor=0.5)))
    whole = ends(optimizer, None, **more)
    parts = ends(optimizer, tmp_path, stop=6, **more)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["NAdam", "ASGD", "Adafactor"])
def test_a_state_keeps_its_own_type(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Torch's own loading casts it to that of the weights."""
    optimizer = TorchOptimizer(name=name, rate=0.01)
    fit = Fit(batch=16, checkpoint_steps=1, keep_best=False, optimizer=optimizer)
    found = []
    for turns in ([None], [4, None]):
        folder = None if len(turns) == 1 else tmp_path
        for stop in turns:
            model = network(dtype)
            stages = Supervised(epochs=2, fit=fit).stages({"student": Cast(model, dtype)})
            steps = Course(stages, clusters(), folder=folder, device="cpu", resume=True).steps()
            for _, training in zip(range(stop or 100), steps, strict=False):
                (built,) = training.optimizers.values()
            steps.close()
        held = [value for state in built.state.values() for value in state.values() if isinstance(value, Tensor)]
        found.append([model.state_dict(), [value.dtype for value in held]])
    assert found[0][1] == found[1][1]
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())


class Cast(nn.Module):
    """A network of another type between inputs and outputs of 32 bits."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs.to(self.dtype)).float()


def told(model: nn.Module, *rules: Any, **more: Any) -> dict[str, tuple[float, float]]:
    """The rate and the decay of each parameter."""
    names = {id(value): name for name, value in model.named_parameters()}
    built = AdamW(rate=0.1, decay=0.3, rules=rules, **more).build(dict(model.named_parameters()))
    return {
        names[id(value)]: (group["lr"], group["weight_decay"])
        for group in built.param_groups
        for value in group["params"]
    }


def test_the_last_rule_that_says_something_counts() -> None:
    found = told(
        perceptron(8, seed=0), NoDecay(), Rule("layer*", rate_factor=0.5, decay=0.2), Rule("layer2", rate_factor=0)
    )
    assert found == {
        "layer1.weight": (0.05, 0.2),
        "layer1.bias": (0.05, 0.2),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
        "layer2.weight": (0.0, 0.2),
        "layer2.bias": (0.0, 0.2),
        "head.weight": (0.1, 0.3),
        "head.bias": (0.1, 0.0),
    }


def test_layer_rates_are_those_of_beit() -> None:
    """Embeddings are layer 0, block i is layer i + 1, the rest is the top (`get_num_layer_for_vit` of BEiT)."""
    model = transformer(image=8, patch=4, dim=8, depth=3, heads=2)
    for name, (rate, _) in told(model, LayerRates(factor=0.5)).items():
        block = re.match(r"blocks\.(\d)", name)
        layer = int(block[1]) + 1 if block else 4 if name.startswith(("norm", "head")) else 0
        assert rate == 0.1 * 0.5 ** (4 - layer), name
    stages = told(residual(width=2, depth=14), LayerRates(factor=0.5))
    assert {n.split(".")[0]: rate for n, (rate, _) in stages.items() if n.startswith(("layer", "head"))} == {
        "layer1": 0.0125, "layer2": 0.025, "layer3": 0.05, "head": 0.1,
    }  # fmt: skip
    named = told(perceptron(8, seed=0), LayerRates(factor=0.5, layers=("layer1", "layer2", "head")))
    assert {name: rate for name, (rate, _) in named.items() if name.endswith("weight")} == {
        "layer1.weight": 0.025, "norm.weight": 0.1, "layer2.weight": 0.05, "head.weight": 0.1,
    }  # fmt: skip
    with pytest.raises(SettingError, match=r"no numbered layers.*layers=\('one', 'two'\)"):
        told(nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)}), LayerRates())


def test_a_decay_of_its_own_stays_and_pruned_weights_keep_their_names() -> None:
    own = OwnDecay(torch.ones(1), decay=0.01)
    assert groups({"step": own}, (Rule("step", decay=0.5),))[0]["weight_decay"] == 0.01
    masked = {"head.parametrizations.weight.original": nn.Parameter(torch.ones(2, 2))}
    assert groups(masked, (Rule("head.weight", rate_factor=2),), rate=0.1)[0]["lr"] == 0.2


def test_a_rule_moves_what_it_says() -> None:
    for optimizer in (
        SGD(rules=Rule("layer1", rate_factor=0)),
        Adam(rules=Rule("layer1", rate_factor=0)),
        TorchOptimizer(name="Adagrad", rate=0.1, rules=Rule("layer1", rate_factor=0)),
    ):
        found = ends(optimizer, None, keep_best=False)
        before = network().state_dict()
        still = [name for name, value in found.items() if torch.equal(value, before[name])]
        assert still == ["layer1.weight", "layer1.bias"], optimizer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SGD(rules=Rule("layr1.*", decay=0)), r"student.*'layr1\.\*'.*did you mean 'layer1\.\*'"),
        (lambda: SGD(rules=Rule(("head", "haed.weight"), decay=0)), "'haed.weight'.*did you mean 'head.weight'"),
        (lambda: SGD(rules=LayerRates(layers=("layr1",))), "'layr1'.*did you mean 'layer1'"),
        (lambda: TorchOptimizer(name="RMSProb", rate=0.1), r"no optimizer 'RMSProb': did you mean 'RMSprop'\?"),
        (lambda: TorchOptimizer(name="LBFGS", rate=0.1), "LBFGS cannot be used here: it computes the loss several"),
        (lambda: TorchOptimizer(name="SparseAdam", rate=0.1), "sparse gradients"),
        (lambda: TorchOptimizer(name="NAdam", rate=0.1, settings={"beta": 1}), "did you mean 'betas'"),
        (lambda: TorchOptimizer(name="NAdam", rate=0.1, settings={"lr": 1}), "lr is called rate here"),
        (lambda: TorchOptimizer(name="NAdam", rate=0.1, settings={"betas": [2, 0]}), "Invalid beta"),
        (lambda: TorchOptimizer(name="Muon", rate=0.1), "optimizer of 'student' cannot be made: Muon only supports 2D"),
        (lambda: Rule("head"), "it says nothing"),
        (lambda: Fit(optimizer="nadam"), r"TorchOptimizer\(name='NAdam', rate=...\)"),
        (lambda: Fit(optimizer=torch.optim.NAdam), r"TorchOptimizer\(name='NAdam', rate=...\)"),
        (Closure, "Needy cannot be used here: it computes the loss several times"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(make: Any, says: str) -> None:
    with pytest.raises(LessenError, match=says):
        next(course(make(), network(), None).steps())


def test_a_recipe_names_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("""
network: {build: zoo:perceptron}
data: Digits
steps:
  - Supervised:
      fit:
        optimizer:
          TorchOptimizer:
            name: nadam
            rate: 0.002
            settings: {betas: [0.9, 0.99]}
            rules: [NoDecay, LayerRates: {factor: 0.5}, Rule: {paths: head, rate_factor: 10}]
""")
    (step,) = read_recipe(tmp_path / "r.yaml").steps
    optimizer = step.fit.optimizer  # type: ignore[union-attr]
    assert optimizer == TorchOptimizer(
        name="NAdam",
        rate=0.002,
        settings={"betas": [0.9, 0.99]},
        rules=(NoDecay(), LayerRates(factor=0.5), Rule("head", rate_factor=10)),
    )
    assert encode(optimizer)["TorchOptimizer"]["rules"][2] == {
        "Rule": {"paths": "head", "rate_factor": 10.0, "decay": None}
    }
    built = optimizer.build(dict(perceptron(8, seed=0).named_parameters()))
    assert built.defaults["betas"] == (0.9, 0.99)


def test_a_node_whose_weights_all_stay_needs_no_optimizer() -> None:
    students = [perceptron(8, seed=1), perceptron(8, seed=2).requires_grad_(False)]
    (stage,) = Mutual(epochs=1, fit=Fit(batch=16)).stages({"students": students})
    validate(stage, clusters().train.fetch(torch.arange(4)), task=clusters().facts)
