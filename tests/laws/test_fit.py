"""Every setting of `Fit` with every scheme: it trains, ends finite, and a stopped run goes on bit for bit."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lessen.engine import Course
from lessen.graph import (
    SGD,
    Adam,
    AdamW,
    Average,
    Constant,
    DistillationOriented,
    Fit,
    Gradual,
    GroupLasso,
    LayerRates,
    Movement,
    NoDecay,
    Precision,
    StraightThrough,
    TorchOptimizer,
    TorchSchedule,
)
from lessen.surgery.forms.mask import mask_of, masked_parameters
from lessen.testing.schemes import SCHEMES, SchemeLaws, same, scheme_of, states
from lessen.testing.tasks import clusters

BASE = {"batch": 8, "checkpoint_steps": 2, "optimizer": SGD(rate=0.02), "schedule": Constant()}
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "batch": ({"batch": 7},),
    "accumulate": ({"accumulate": 2},),
    "optimizer": tuple(
        {"optimizer": each}
        for each in (
            Adam(rate=0.01),
            AdamW(rate=0.01),
            DistillationOriented(rate=0.02),
            TorchOptimizer(name="Adagrad", rate=0.01),
            SGD(rate=0.02, rules=(NoDecay(), LayerRates(factor=0.7))),
        )
    ),
    "schedule": ({"schedule": TorchSchedule(name="OneCycleLR")},),
    "clip": ({"clip": None}, {"clip": 0.01}),
    "precision": ({"precision": Precision.BFLOAT16},),
    "channels_last": ({"channels_last": True},),
    "average": ({"average": Average(decay=0.6)},),
    "validate_every": ({"validate_every": 2},),
    "validate_steps": ({"validate_steps": 3},),
    "keep_best": ({"keep_best": False},),
    "patience": ({"patience": 1}, {"patience": 2, "validate_steps": 1, "optimizer": SGD(rate=1.0)}),
    "restarts": ({"restarts": 0},),
    "checkpoint_steps": ({"checkpoint_steps": None},),
    "keep_checkpoints": ({"keep_checkpoints": 2},),
    "sparsify": tuple(
        {"sparsify": each}
        for each in (
            Gradual(keep=0.5, updates=2),
            Movement(keep=0.5, updates=2),
            StraightThrough(where=("layer1", "layer2")),
            GroupLasso(strength=0.5),
        )
    ),
    "sync_batchnorm": ({"sync_batchnorm": True},),
}
"""For each field of `Fit` values that are not its default."""
CASES = {f"{name}{number}": each for name, values in OPTIONS.items() for number, each in enumerate(values)}
STOP = 3


def ends(scheme: str, option: dict[str, Any], folder: Path | None = None) -> tuple[dict[str, Tensor], list[Any]]:
    """All networks, with their masks, at the end, and the looks; with a folder, of a run that was left and resumed."""
    fit = Fit(**{**BASE, **option})
    for stop in [STOP, None] if folder else [None]:
        cast = SchemeLaws().cast()
        stages = scheme_of(scheme, epochs=2, fit=fit).stages(cast)
        data = clusters(train=16, other=8)
        course = Course(stages, data, folder=folder, device="cpu", resume=folder is not None)
        steps = course.steps()
        for count, _ in enumerate(steps, start=1):
            if count == stop:
                break
        steps.close()
    found = states(cast)
    for role, networks in cast.items():
        for number, network in enumerate(networks if isinstance(networks, list) else [networks]):
            for path, module, name in masked_parameters(network):
                mask = mask_of(module, name)
                assert mask is not None
                found[f"mask {role}{number}.{path}.{name}"] = mask.kept.clone()
    return found, [row["figures"] for row in course.history.validations]


@functools.cache
def begins() -> dict[str, Tensor]:
    return states(SchemeLaws().cast())


def check(scheme: str, option: dict[str, Any], folder: Path) -> None:
    """The law."""
    whole, looks = ends(scheme, option)
    assert all(bool(value.isfinite().all()) for value in whole.values())
    assert any(not torch.equal(value, whole[name]) for name, value in begins().items()), "nothing has learned"
    again, looked = ends(scheme, option, folder)
    assert same(whole, again)
    assert looks == looked


def test_no_setting_is_left_out() -> None:
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(Fit)}
    for name, values in OPTIONS.items():
        assert all(getattr(Fit(**{**BASE, **each}), name) != getattr(Fit(**BASE), name) for each in values), name


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("option", CASES)
def test_a_stopped_run_goes_on_bit_for_bit(scheme: str, option: str, tmp_path: Path) -> None:
    check(scheme, CASES[option], tmp_path)


@pytest.mark.parametrize(
    ("forgets", "option"),
    [
        ("lessen.engine.keeping.put_back", "optimizer0"),
        ("lessen.engine.averaging.Averages.put_back", "average0"),
    ],
)
def test_a_checkpoint_that_forgets_is_seen(
    forgets: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgets, lambda *given: None)
    with pytest.raises(AssertionError):
        check("Supervised", CASES[option], tmp_path)
