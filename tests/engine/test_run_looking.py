"""Looking while it trains: validation every few steps, checkpoints that stay, and a function called after each step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen import compress
from lessen.core.errors import DivergedError, RunError, SettingError
from lessen.core.files import read_lines
from lessen.engine import Course, StepDone, kept_checkpoints, run
from lessen.graph import SGD, Adam, Average, Constant, Fit, LastEpoch
from lessen.operations import PruneChannels
from lessen.schemes import SelfSnapshot, Supervised
from lessen.testing.schemes import same
from lessen.testing.tasks import clusters, perceptron


def course(model: nn.Module, folder: Path | None, *, epochs: int = 3, snapshots: bool = False, **fit: Any) -> Course:
    settings = Fit(batch=16, optimizer=Adam(rate=0.02), **fit)  # 5 steps an epoch
    scheme = SelfSnapshot(when=LastEpoch(), epochs=epochs, fit=settings) if snapshots else None
    stages = (scheme or Supervised(epochs=epochs, fit=settings)).stages({"student": model})
    return Course(stages, clusters(), folder=folder, device="cpu", resume=True)


def ends(folder: Path | None, stops: tuple[int, ...] = (), **fit: Any) -> tuple[dict[str, Tensor], Course]:
    for stop in [*stops, None]:
        model = perceptron(8, seed=1)
        made = course(model, folder, **fit)
        steps = made.steps()
        for count, _ in enumerate(steps, start=1):
            if count == stop:
                break
        steps.close()
    return model.state_dict(), made


@pytest.mark.parametrize("fit", [
    {"snapshots": True}, {"average": Average(decay=0.6), "checkpoint_steps": 2, "accumulate": 2}, {"patience": 1},
])  # fmt: skip
def test_looks_every_few_steps_are_resumed_bit_for_bit(fit: dict[str, Any], tmp_path: Path) -> None:
    whole, made = ends(None, validate_steps=4, **fit)
    looks = [row["step"] for row in made.history.validations]
    assert looks == [0, 4, 8, 12, 15][: len(looks)]
    assert len(looks) == 5 or "patience" in fit
    parts, again = ends(tmp_path, (7, 2), validate_steps=4, **fit)
    assert same(whole, parts)
    assert [row["figures"] for row in again.history.validations] == [row["figures"] for row in made.history.validations]


@pytest.mark.parametrize("every", [2, 3, 9])
def test_looks_every_few_epochs_are_those_of_each_epoch(every: int) -> None:
    """At the end of epochs `every`, 2 `every`, ..., and of the stage; each finds what a look at each epoch finds."""
    epochs = 5
    _, each = ends(None, epochs=epochs, keep_best=False)
    _, made = ends(None, epochs=epochs, keep_best=False, validate_every=every)
    steps = [0, *(5 * epoch for epoch in range(1, epochs + 1) if epoch % every == 0 or epoch == epochs)]
    found = {row["step"]: row["figures"] for row in each.history.validations}
    assert [(row["step"], row["figures"]) for row in made.history.validations] == [(at, found[at]) for at in steps]


def test_patience_counts_looks_and_looks_do_not_move_anything() -> None:
    _, made = ends(None, validate_steps=1, patience=2, epochs=20)
    assert 2 <= made.history.steps < 100
    assert same(*(ends(None, keep_best=False, **fit)[0] for fit in ({"validate_steps": 2}, {})))


def test_the_newest_checkpoints_stay_with_what_they_need(tmp_path: Path) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    model = perceptron(8, seed=1)
    for training in course(model, tmp_path, checkpoint_steps=2, keep_checkpoints=3, validate_steps=3).steps():
        seen[training.step] = {name: value.clone() for name, value in model.state_dict().items()}
    kept = kept_checkpoints(tmp_path)
    assert [(one.stage, one.step) for one in kept] == [(0, 10), (0, 12), (0, 14), (1, 0)]
    for one in kept[:-1]:
        assert same(one.networks()["student"], seen[one.step])
    assert same(kept[-1].networks()["student"], dict(model.state_dict()))
    for one in kept[1:]:
        one.path.unlink()
    again = perceptron(8, seed=1)
    for _ in course(again, tmp_path, checkpoint_steps=2, keep_checkpoints=3, validate_steps=3).steps():
        pass
    assert same(dict(again.state_dict()), dict(model.state_dict()))


def test_one_checkpoint_stays_unless_more_are_asked_for(tmp_path: Path) -> None:
    ends(tmp_path, checkpoint_steps=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-001-00000000.safetensors"]
    with pytest.raises(RunError, match="has no checkpoints of a training"):
        kept_checkpoints(tmp_path / "checkpoints")


def test_a_kept_checkpoint_holds_the_average_where_there_is_one(tmp_path: Path) -> None:
    _, made = ends(tmp_path, average=Average(decay=0.6), keep_checkpoints=9)
    part = clusters().validation
    looks = {row["step"]: row["figures"]["student"]["accuracy"] for row in made.history.validations}
    kept = [one for one in kept_checkpoints(tmp_path) if one.stage == 0]
    assert [one.step for one in kept] == [5, 10, 15]
    for one in kept:
        model = perceptron(8, seed=0).eval()
        model.load_state_dict(one.networks()["student"])
        right = (model(part.inputs).argmax(1) == part.labels).float().mean() * 100  # type: ignore[attr-defined]
        assert float(right) == pytest.approx(looks[one.step])


def test_a_function_sees_every_step_once_and_changes_nothing(tmp_path: Path) -> None:
    stages = Supervised(epochs=2, fit=Fit(batch=16))
    seen: list[StepDone] = []

    def look(done: StepDone) -> None:
        seen.append(done)
        torch.rand(3)
        done.networks["student"].eval()

    models = [perceptron(8, seed=1) for _ in range(3)]
    run(stages.stages({"student": models[0]}), clusters(), device="cpu", progress=False)
    run(stages.stages({"student": models[1]}), clusters(), folder=tmp_path, device="cpu", progress=False, on_step=look)
    assert same(dict(models[0].state_dict()), dict(models[1].state_dict()))
    rows = [row for row in read_lines(tmp_path / "log.jsonl") if row["kind"] == "step"]
    assert [(done.step, done.epoch, done.losses, done.rates) for done in seen] == [
        (row["step"], row["epoch"], row["loss"], row["rate"]) for row in rows
    ]
    assert {done.steps for done in seen} == {10}
    assert seen[0].networks["student"] is models[1]
    assert seen[3].edges == rows[3]["edges"]


class Mine(Exception):
    """Of the caller."""


@pytest.mark.parametrize("error", [Mine("own"), DivergedError("own"), KeyboardInterrupt()])
def test_what_it_raises_reaches_the_caller_and_the_run_goes_on_without_it(error: BaseException, tmp_path: Path) -> None:
    steps: list[int] = []

    def look(done: StepDone) -> None:
        steps.append(done.step)
        if done.step == 6:
            raise error

    def go(model: nn.Module, **more: Any) -> None:
        stages = Supervised(epochs=2, fit=Fit(batch=16, checkpoint_steps=1)).stages({"student": model})
        run(stages, clusters(), device="cpu", progress=False, **more)

    whole, first, second = (perceptron(8, seed=1) for _ in range(3))
    go(whole)
    with pytest.raises(type(error)) as raised:
        go(first, folder=tmp_path, on_step=look)
    assert raised.value is error
    go(second, folder=tmp_path, resume=True, on_step=lambda done: steps.append(done.step))
    assert steps == list(range(10))
    assert same(dict(whole.state_dict()), dict(second.state_dict()))


def test_a_step_that_diverges_is_shown_when_it_is_made_again() -> None:
    """With a function the log is read at every step; the restart is the same."""
    torch.manual_seed(0)
    found, seen = [], []
    for look in (None, lambda done: seen.append(done.step)):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            for value in model.parameters():
                value.copy_(torch.linspace(-1, 1, value.numel()).sin().reshape(value.shape))
        fit = Fit(batch=16, optimizer=SGD(rate=1e20, momentum=0.0), schedule=Constant(), clip=None, restarts=40)
        stages = Supervised(epochs=2, fit=fit).stages({"student": model})
        history = run(stages, clusters(), device="cpu", progress=False, on_step=look)
        found.append((model.state_dict(), [row["restart"] for row in history.warnings if "restart" in row]))
    assert found[0][1] == found[1][1] != []
    assert same(found[0][0], found[1][0])
    assert (set(seen), seen[-1]) == (set(range(10)), 9)
    assert len(seen) > 10


def test_what_cannot_be_called_is_refused(tmp_path: Path) -> None:
    stages = Supervised(epochs=1).stages({"student": perceptron(8, seed=1)})
    with pytest.raises(SettingError, match="on_step is a int; a function of one argument was expected"):
        run(stages, clusters(), on_step=3)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="on_step is a str"):
        compress(perceptron(8, seed=1), clusters(), steps=[PruneChannels()], run=tmp_path / "s", on_step="print")  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()
