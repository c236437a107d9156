"""An operation from outside lessen is loaded, packed and resumed, or refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import nn

import lessen
from lessen.core import Card, Context, others, settings
from lessen.core.errors import LessenError, PlanError
from lessen.knowledge import SoftTargets
from lessen.pipeline import pack, unpack, walk
from lessen.schemes import offline
from lessen.surgery.copying import copy_network
from lessen.testing.tasks import clusters, perceptron

CARD = Card(row="operations / other", paper="none", says="A test.", costs="Nothing.", fails_when="Never.")


@settings
class RoundedPlan:
    """Weights rounded to multiples of a step; a plan that can be kept."""

    step: float

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = copy_network(model)
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_((weight / self.step).round() * self.step)
        return network

    def describe(self) -> list[dict[str, Any]]:
        return [{"module": "all", "edit": "rounded", "before": "any", "after": f"multiples of {self.step:g}"}]


@settings
class HookedPlan(RoundedPlan):
    """Doubles the output by a hook that only `values=True` makes."""

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = copy_network(model)
        if values:
            network.register_forward_hook(twice)
        return network


@settings
class ShortenedPlan(RoundedPlan):
    """Makes the network smaller, but not where only its structure is asked for."""

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = copy_network(model)
        if values:
            network.layer1, network.layer2 = nn.Linear(8, 4), nn.Linear(4, network.layer2.out_features)
        return network


def twice(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


@settings
class FunctionPlan(RoundedPlan):
    """Holds what no file can."""

    how: Callable[[torch.Tensor], torch.Tensor] = torch.relu


@settings
class NoNumberPlan(RoundedPlan):
    """Holds a number that JSON does not have."""

    limit: float = float("nan")


def operation(kind: type, **more: Any) -> Any:
    """An operation whose plan is of this class."""

    @settings
    class Operation:
        """Plans it."""

        card: ClassVar[Card] = CARD

        def plan(self, model: nn.Module, context: Context) -> Any:
            return kind(step=0.125, **more)

        @classmethod
        def neutral(cls) -> Self:
            return cls()

    return Operation()


def compress(steps: Any, run: Path) -> Any:
    return lessen.compress(
        perceptron(8, seed=0),
        clusters(),
        steps=steps,
        run=run,
        deploy=None,
        progress=False,
        measuring={"repeats": 6, "calibration": 16},
    )


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "_allowed", set())


def test_what_can_be_kept_is_loaded_packed_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compress([operation(RoundedPlan), offline(SoftTargets(), epochs=1)], tmp_path / "run")
    x = torch.randn(4, 8)
    with torch.no_grad():
        wanted = made.model(x)
        assert torch.equal(lessen.load(tmp_path / "run", perceptron(8, seed=1))(x), wanted)
        pack(made.model, tmp_path / "own.safetensors", plans=[RoundedPlan(step=0.5)])
        assert torch.equal(unpack(tmp_path / "own.safetensors", perceptron(8, seed=1))(x), wanted)
    monkeypatch.setattr(others, "_allowed", set())
    refused = r"RoundedPlan comes from the module .*lessen\.use\(.*allow_import=True"
    with pytest.raises(PlanError, match=refused):
        lessen.load(tmp_path / "run", perceptron(8, seed=1))
    with pytest.raises(PlanError, match=refused):
        unpack(tmp_path / "own.safetensors", perceptron(8, seed=1))
    assert lessen.use(RoundedPlan) is RoundedPlan
    with torch.no_grad():
        assert torch.equal(lessen.load(tmp_path / "run", perceptron(8, seed=1))(x), wanted)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (HookedPlan, "gives other outputs"),
        (ShortenedPlan, r"apply\(model, values=False\) must make a network that takes the tensors"),
        (FunctionPlan, "cannot be written to plan.json"),
        (NoNumberPlan, "cannot be written to plan.json"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_training(
    kind: type, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*given: Any, **more: Any) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr(walk, "train_stages", trained)
    with pytest.raises(PlanError, match=rf"step 2.*{kind.__name__}.*{said}"):
        compress([offline(SoftTargets(), epochs=1), operation(kind)], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_with_the_name_of_one_of_lessens_is_refused(tmp_path: Path) -> None:
    @settings
    class PrunedWeights(RoundedPlan):
        pass

    with pytest.raises(PlanError, match="PrunedWeights is the name of a plan of lessen as well"):
        compress([operation(PrunedWeights)], tmp_path / "run")


def test_a_class_of_a_script_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings
    class Scripted(RoundedPlan):
        pass

    Scripted.__module__ = "__main__"
    compress([operation(Scripted)], tmp_path / "run")
    monkeypatch.setattr(others, "_allowed", set())
    for allowed in (False, True):
        with pytest.raises(PlanError, match=r"Scripted was defined in a script or notebook.*lessen\.use\(Scripted\)"):
            lessen.load(tmp_path / "run", perceptron(8, seed=1), allow_import=allowed)
    lessen.use(Scripted)
    lessen.load(tmp_path / "run", perceptron(8, seed=1))


def test_a_file_can_name_no_class_but_a_plan(tmp_path: Path) -> None:
    lessen.use(RoundedPlan)
    plan = tmp_path / "run" / "plan.json"
    compress([operation(RoundedPlan)], tmp_path / "run")
    right = plan.read_text()
    for wrong, said in (
        (right.replace("RoundedPlan", "CARD"), "has no 'CARD'"),
        (right.replace('"step": 0.125', '"step": "a"'), "step"),
        (right.replace(RoundedPlan.__module__, "os"), "'os'"),
        (right.replace(f'"{RoundedPlan.__module__}"', "3"), "'3'"),
    ):
        assert wrong != right
        plan.write_text(wrong)
        with pytest.raises(LessenError, match=said):
            lessen.load(tmp_path / "run", perceptron(8, seed=1))
