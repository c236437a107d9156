"""The average of a network's weights: it is validated, kept and shipped, and survives whatever a run survives."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lessen.core.errors import GraphError
from lessen.engine import Course, run
from lessen.engine.averaging import Averages
from lessen.graph import (
    SGD,
    Adam,
    Average,
    Constant,
    Fit,
    Gradual,
    GroupLasso,
    Movement,
    Stage,
    StraightThrough,
)
from lessen.schemes import Supervised
from lessen.surgery.forms.mask import masked_parameters
from lessen.testing.schemes import SCHEMES, SchemeLaws, same, scheme_of, states
from lessen.testing.tasks import clusters, perceptron

FIT = {"batch": 40, "checkpoint_steps": 1, "optimizer": Adam(rate=0.02)}
SPARSE = {"gradual": Gradual(keep=0.3, updates=2), "movement": Movement(keep=0.3, updates=2), "2:4": StraightThrough()}
CASES: dict[str, Any] = {
    **{name: (name, {}) for name in SCHEMES},
    **{name: ("Supervised", {"sparsify": how}) for name, how in SPARSE.items()},
    "accumulate": ("Supervised", {"accumulate": 2, "clip": None, "keep_best": False}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return CASES[request.param]  # type: ignore[no-any-return]


def stages(case: tuple[str, dict[str, Any]], cast: Any, average: Average | None) -> list[Stage]:
    name, more = case
    fit = Fit(**FIT, **more, average=average)
    return scheme_of(name, epochs=2, fit=fit).stages(cast)


def ends(case: tuple[str, dict[str, Any]], average: Average | None, folder: Path | None = None, stop: int = 0) -> Any:
    """All networks, with their masks, at the end; and the looks at the validation split."""
    for left in [stop, None] if stop else [None]:
        cast = SchemeLaws().cast()
        course = Course(stages(case, cast, average), clusters(), folder=folder, device="cpu", resume=folder is not None)
        steps = course.steps()
        for count, _ in enumerate(steps, start=1):
            if count == left:
                break
        steps.close()
    masks = {f"mask {p}": m.parametrizations[n][0].kept for p, m, n in masked_parameters(cast["student"])}  # type: ignore[index,union-attr]
    return {**states(cast), **masks}, [row["figures"] for row in course.history.validations]


def test_it_is_resumed_bit_for_bit_and_decay_0_is_none(case: Any, tmp_path: Path) -> None:
    whole = ends(case, Average(decay=0.6))
    parts = ends(case, Average(decay=0.6), tmp_path, stop=3)
    without, with_0 = ends(case, None), ends(case, Average(decay=0))
    for one, two in ((whole, parts), (without, with_0)):
        assert same(one[0], two[0])
        assert one[1] == two[1]
    assert not same(whole[0], without[0])


def test_a_checkpoint_without_it_would_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = ends(CASES["Offline"], Average(decay=0.6))
    monkeypatch.setattr(Averages, "put_back", lambda self, tensors: None)
    assert not same(whole, ends(CASES["Offline"], Average(decay=0.6), tmp_path, stop=3)[0])


@pytest.mark.parametrize("how", [Average(decay=0.7, warmup=False), Average(decay=0.7)])
def test_it_is_the_average_by_hand_of_weights_and_running_statistics(how: Average) -> None:
    model = perceptron(8, seed=1)
    mean = {name: value.clone().double() for name, value in model.state_dict().items()}
    stage = Supervised(epochs=2, fit=Fit(batch=16, keep_best=False, average=how)).stages({"student": model})
    course = Course(stage, clusters(), device="cpu")
    for number, _ in enumerate(course.steps()):
        kept = min(0.7, (1 + number) / (10 + number)) if how.warmup else 0.7
        for name, value in model.state_dict().items():
            mean[name] = kept * mean[name] + (1 - kept) * value if value.is_floating_point() else value.clone()
    for name, value in model.state_dict().items():
        assert torch.allclose(value.double(), mean[name].double(), atol=1e-6), name
    part = clusters().validation
    right = (model(part.inputs).argmax(1) == part.labels).float().mean() * 100  # type: ignore[attr-defined]
    assert course.history.validations[-1]["figures"]["student"]["accuracy"] == pytest.approx(float(right))


def test_what_is_kept_as_best_is_the_average(tmp_path: Path) -> None:
    """Of an average that lags, the looks differ from those at the network itself, and the best of them is shipped."""
    looks = {}
    for average in (None, Average(decay=0.8, warmup=False)):
        model = perceptron(16, seed=1)
        fit = Fit(batch=16, optimizer=SGD(rate=0.5), schedule=Constant(), average=average)
        history = run(
            Supervised(epochs=6, fit=fit).stages({"student": model}), clusters(), device="cpu", progress=False
        )
        looks[average] = [row["figures"]["student"]["accuracy"] for row in history.validations]
        part = clusters().validation
        right = (model(part.inputs).argmax(1) == part.labels).float().mean() * 100  # type: ignore[attr-defined]
        assert float(right) == pytest.approx(max(looks[average]))
    assert len(set(map(tuple, looks.values()))) == 2


def test_channels_that_shrink_to_zero_have_no_average() -> None:
    with pytest.raises(GraphError, match=r"GroupLasso shrinks channels to zero.*Leave out average or sparsify"):
        ends(("Supervised", {"sparsify": GroupLasso(strength=0.1)}), Average())
