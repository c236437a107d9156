"""Trackers of a run: parameters, stages apart, measurements; and a server that is away ends nothing."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lessen
from lessen.core.errors import SettingError
from lessen.core.settings import settings
from lessen.engine import MLflow, StepDone, Tracked, run
from lessen.engine.log import read_log
from lessen.engine.track import as_trackers
from lessen.graph import Fit
from lessen.recipe import read_recipe
from lessen.schemes import offline, supervised
from lessen.testing.tasks import clusters, perceptron

SENT: list[tuple[dict[str, float], int]] = []
TOLD: list[dict[str, Any]] = []


@settings
class Own:
    """Keeps what it gets, and fails at some calls.

    Args:
        fails: The numbers of the calls that fail; -1 is opening.
    """

    fails: tuple[int, ...] = ()

    def open(self, name: str, folder: Path | None, /) -> "Kept":
        if -1 in self.fails:
            raise ConnectionError("nobody is there")
        return Kept(self.fails)


class Kept:
    def __init__(self, fails: tuple[int, ...]) -> None:
        self.fails, self.calls = fails, 0

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        TOLD.append(values)

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls += 1
        if self.calls - 1 in self.fails:
            raise ConnectionError("nobody is there")
        SENT.append((values, step))

    def finish(self) -> None:
        if 1000 in self.fails:
            raise ConnectionError("nobody is there")


@pytest.fixture(autouse=True)
def nothing() -> None:
    SENT.clear()
    TOLD.clear()


def test_compress_sends_parameters_stages_and_measurements(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train = [supervised(epochs=1, fit=Fit(batch=16))]
    seen: list[tuple[str, int, list[str]]] = []

    def look(done: StepDone) -> None:
        seen.append((done.stage, done.step, sorted(done.networks)))

    made = lessen.compress(**job(train=train), run=tmp_path / "r", track=Own(), on_step=look)
    rows = read_log(tmp_path / "r" / "log.jsonl")
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert {stage: networks for stage, _, networks in seen} == {
        "supervised": ["student"],
        "offline": ["student", "teacher"],
    }
    assert sorted(step for _, step, _ in seen) == sorted(steps)
    assert "on_step" not in (tmp_path / "r" / "checkpoints" / "state.json").read_text()
    names = {name for values, _ in SENT for name in values}
    assert {"teacher Supervised/loss/student", "2 Offline/loss/student", "2 Offline/figures/student/accuracy"} <= names
    (told,) = TOLD
    assert told["steps.0"] == "PruneWeights"
    assert told["steps.1.knowledge.0.temperature"] == 4.0
    assert told["seed"] == 0
    measured = {step: values["network/accuracy"] for values, step in SENT if "network/accuracy" in values}
    assert measured == {row.step: row.value for row in made.records if row.figure == "accuracy" and row.file is None}


def test_stages_of_one_name_are_kept_apart() -> None:
    stages = [
        *supervised(epochs=1, fit=Fit(batch=16)).stages({"student": (net := perceptron(6, seed=0))}),
        *supervised(epochs=1, fit=Fit(batch=16)).stages({"student": net}),
    ]
    run(stages, clusters(), progress=False, track=Own())
    steps = [
        (name, step)
        for values, step in SENT
        for name in values
        if name.endswith("loss/student") and "edges" not in name
    ]
    assert len(steps) == len(set(steps)) == 10
    assert {name for name, _ in steps} == {"supervised/loss/student", "supervised 2/loss/student"}


@pytest.mark.parametrize("fails", [(-1,), (0,), (0, 1), tuple(range(500)), (1000,)])
def test_a_server_that_is_away_ends_nothing_and_is_said_once(
    fails: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def train(name: str, **more: Any) -> Any:
        stages = offline(epochs=2, fit=Fit(batch=16)).stages(
            {"teacher": perceptron(8, seed=0), "student": perceptron(6, seed=1)}
        )
        return run(stages, clusters(), folder=tmp_path / name, progress=False, **more)

    plain = train("plain")
    with caplog.at_level(logging.WARNING, "lessen"):
        tracked = train("tracked", track=Own(fails=fails))
    assert plain.validations == tracked.validations
    said = [row.getMessage() for row in caplog.records if "tracker" in row.getMessage()]
    assert len(said) == 1
    assert "Own failed (ConnectionError: nobody is there)" in said[0]
    if fails in {(0,), (0, 1), (1000,)}:  # what could not be sent was sent with the next
        assert sum("loss/student" in values for values, _ in SENT) == 10


def test_trackers_by_name(tmp_path: Path) -> None:
    names = [type(one).__name__ for one in as_trackers(["tensorboard", "MLflow", "wandb"])]
    assert names == ["TensorBoard", "MLflow", "Tracked"]
    assert as_trackers("trackio") == (Tracked(name="trackio"),)
    with pytest.raises(SettingError, match="did you mean 'tensorboard'"):
        as_trackers("tensorbord")
    with pytest.raises(SettingError, match="a tracker was expected"):
        as_trackers(3)
    plain = "network: {build: 'zoo:mlp'}\ndata: Digits\nsteps: []\n"
    (tmp_path / "r.yaml").write_text(plain + "track: [tensorboard, {Tracked: {name: aim}}]")
    assert read_recipe(tmp_path / "r.yaml").arguments()["track"][1] == Tracked(name="aim")


def test_tensorboard_of_a_run(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lessen.compress(**job(), run=tmp_path / "r", track="tensorboard")
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard" / "r"))
    events.Reload()
    assert {"2 Offline/loss/student", "network/accuracy"} <= set(events.Tags()["scalars"])
    assert list((tmp_path / "r" / "tensorboard").rglob("hparams.yml"))


def test_mlflow_of_a_run(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    where = (tmp_path / "mlruns").as_uri()
    lessen.compress(**job(), run=tmp_path / "r", track=MLflow(where=where, experiment="mine"))
    client = MlflowClient(tracking_uri=where)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (made,) = client.search_runs([experiment.experiment_id])
    assert made.info.status == "FINISHED"
    assert {"2 Offline/loss/student", "network/accuracy"} <= set(made.data.metrics)
    steps = [point.step for point in client.get_metric_history(made.info.run_id, "2 Offline/loss/student")]
    assert steps == sorted(set(steps))
    assert len(steps) == 5
    assert made.data.params
