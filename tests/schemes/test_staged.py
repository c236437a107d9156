"""Hints first: the laws of schemes, and what moves in which stage."""

from typing import Any

import pytest
import torch

from lessen.core.errors import SettingError
from lessen.engine import run
from lessen.graph import Fit
from lessen.knowledge import ActivationBoundary, AutoBridge, Hint, SoftTargets
from lessen.schemes import Staged, at, staged
from lessen.testing.schemes import SchemeLaws
from lessen.testing.tasks import clusters

FIT = Fit(batch=20, checkpoint_steps=3)
SHORT: dict[str, Any] = {"hint_epochs": 1, "epochs": 2, "fit": FIT}


class TestStaged(SchemeLaws):
    schemes = (
        Staged(hints=(at("layer2", Hint()),), **SHORT),
        Staged(hints=(at("layer1", ActivationBoundary(), bridge=AutoBridge()),), **SHORT),
        Staged(hints=(at("layer2", Hint()),), labels=0.0, knowledge=(SoftTargets(),), **SHORT),
    )


def moved(scheme: Staged, stages: slice) -> set[str]:
    """The weights of the student that some stages move."""
    cast = TestStaged().cast()
    student = cast["student"]
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    run(scheme.stages(cast)[stages], clusters(), device="cpu", progress=False)
    return {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("layer", "weights"), [("layer1", {"layer1"}), ("layer2", {"layer1", "norm", "layer2"})])
def test_hints_move_nothing_behind_them(layer: str, weights: set[str]) -> None:
    scheme = staged(at(layer, Hint(), bridge=AutoBridge()), **SHORT)
    names = moved(scheme, slice(0, 1))
    assert {name.split(".")[0] for name in names} == weights
    assert {name.split(".")[0] for name in moved(scheme, slice(1, 2))} == {"layer1", "norm", "layer2", "head"}


def test_labels_in_the_first_stage_would_move_the_head() -> None:
    """What the test above would see if the first stage taught more than hints."""
    scheme = staged(at("layer1", Hint(), bridge=AutoBridge()), at("", SoftTargets()), **SHORT)
    assert any(name.startswith("head") for name in moved(scheme, slice(0, 1)))


def test_nothing_is_chosen_by_answers_that_say_nothing_yet() -> None:
    first, second = Staged(
        hints=(at("layer2", Hint()),), fit=Fit(keep_best=True, patience=2), epochs=3, hint_steps=7
    ).stages(TestStaged().cast())
    assert (first.fit.keep_best, first.fit.patience, first.steps) == (False, None, 7)
    assert (second.fit.keep_best, second.fit.patience, second.epochs) == (True, 2, 3)


def test_there_must_be_a_hint() -> None:
    with pytest.raises(SettingError, match="hints"):
        staged()
