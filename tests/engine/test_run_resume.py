"""A run that is killed anywhere and resumed ends as the run that was not, bit for bit."""

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from lessen.core import files
from lessen.core.errors import RunError
from lessen.core.files import read_lines, read_tensors, write_tensors
from lessen.engine import Course, Stopped, run
from lessen.engine import checkpoint as checkpoints
from lessen.engine.checkpoint import Checkpoints, Saved
from lessen.engine.training import Training
from lessen.graph import Fit
from lessen.knowledge import CrossEntropy
from lessen.schemes import Supervised, supervised
from lessen.surgery.digest import digest
from lessen.testing.tasks import clusters, perceptron

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def without_seconds(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_lines(folder / "log.jsonl")]


def train(program: ModuleType, folder: Path, kill_at: int | None = None) -> int:
    command = [sys.executable, str(program.__file__), "train", str(folder), *([str(kill_at)] if kill_at else [])]
    return subprocess.run(command, env=ENVIRONMENT, check=False, capture_output=True).returncode


@pytest.mark.slow
def test_kill_9_at_a_random_step_then_resume_equals_no_interruption(program: ModuleType, tmp_path: Path) -> None:
    drawn = random.Random(os.urandom(8))
    # 18 steps of the first stage (bridge, cache, schedule, moving average), 9 of the second (snapshot of the last step)
    kills = [drawn.randrange(2, 12), drawn.randrange(5, 15)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        program.train(tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    for kill_at in kills:
        assert train(program, tmp_path / "killed", kill_at) == -signal.SIGKILL
    assert train(program, tmp_path / "killed") == 0
    whole, killed = (read_tensors(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items()), f"killed at {kills}"
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "killed")
    left = [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert left == ["checkpoint-002-00000000.safetensors"]


def stop_and_go(program: ModuleType, folder: Path, stops: list[int]) -> dict[str, Tensor]:
    """Leave a run after so many steps, several times, then finish it."""
    for stop in stops:
        student = program.make_network(8, 2)
        steps = Course(
            program.make_stages(folder, student), program.make_data(), folder=folder, device="cpu", resume=True
        ).steps()
        for _ in range(stop):
            next(steps)
        steps.close()
    return dict(program.train(folder).state_dict())


def test_a_run_left_at_any_step_goes_on_as_if_it_had_not_been(program: ModuleType, tmp_path: Path) -> None:
    whole = stop_and_go(program, tmp_path / "whole", [])
    for stops in ([1], [17], [21], [3, 7]):
        parts = stop_and_go(program, tmp_path / f"{stops}", stops)
        assert all(torch.equal(value, parts[name]) for name, value in whole.items()), stops
        assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / f"{stops}")


@pytest.mark.parametrize("lost", ["part/", "snapshot/", "optimizer/"])
def test_a_checkpoint_without_one_part_would_not_do(
    lost: str, program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: the bridge, the moving average or the optimizer is left as it was made."""
    whole = stop_and_go(program, tmp_path / "whole", [])
    original = checkpoints.under

    def forgetful(prefix: str, tensors: Any) -> Any:
        return {} if prefix.startswith(lost) and "labels" not in prefix else original(prefix, tensors)

    monkeypatch.setattr(Training, "compare", lambda self, before: None)  # this would find it earlier
    monkeypatch.setattr("lessen.engine.keeping.under", forgetful)
    monkeypatch.setattr(
        "lessen.engine.keeping._load", lambda module, found: module.load_state_dict(found, strict=bool(found))
    )
    monkeypatch.setattr(torch.optim.Optimizer, "load_state_dict", without_empty(torch.optim.Optimizer.load_state_dict))
    parts = stop_and_go(program, tmp_path / "parts", [13])
    assert not all(torch.equal(value, parts[name]) for name, value in whole.items())


def without_empty(load: Any) -> Any:
    return lambda self, state: load(self, state) if state["state"] else None


class Asking:
    """Labels, and in one call a signal to the own process."""

    card = CrossEntropy.card
    left: ClassVar[int] = 0  # of the class: with another attribute it would be another run

    def __init__(self, call: int) -> None:
        type(self).left = call

    def __call__(self, given: Tensor, labels: Tensor) -> Tensor:
        type(self).left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return CrossEntropy()(given, labels)


def test_sigterm_writes_a_checkpoint_and_leaves(tmp_path: Path) -> None:
    networks = [perceptron(8, seed=1) for _ in range(3)]

    def go(network: nn.Module, call: int, **more: Any) -> None:
        stages = supervised(Asking(call), epochs=4, fit=Fit(batch=16)).stages({"student": network})
        run(stages, clusters(), device="cpu", progress=False, **more)

    go(networks[0], -1)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="after step 7 of stage 'supervised'") as stopped:
        go(networks[1], 9, folder=tmp_path)  # one call is the check before the first step, one the first checkpoint
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == [
        "checkpoint-000-00000007.safetensors"
    ]
    go(networks[2], -1, folder=tmp_path, resume=True)
    assert digest(networks[2]) == digest(networks[0])


def full_at_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """The fourth file is begun, then there is no room."""
    original, written = files.write_whole, []

    def write(path: Path, fill: Any) -> None:
        written.append(path)

        def cut_short(part: Path) -> None:
            part.write_bytes(b"x" * 100)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        original(path, cut_short if len(written) == 5 else fill)

    patch.setattr(files, "write_whole", write)


def full_at_log(patch: pytest.MonkeyPatch) -> None:
    """There is room for eight lines."""
    original = Path.open

    def open_or_fail(self: Path, mode: str = "r", **more: Any) -> Any:
        if self.name == "log.jsonl" and mode == "a" and self.is_file() and len(self.read_text().splitlines()) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, mode, **more)

    patch.setattr(Path, "open", open_or_fail)


@pytest.mark.parametrize("fill", [full_at_checkpoint, full_at_log])
def test_a_full_disk_loses_nothing_that_was_there(
    fill: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = [perceptron(8, seed=1) for _ in range(3)]

    def go(network: nn.Module, **more: Any) -> None:
        stages = Supervised(epochs=4, fit=Fit(batch=16, keep_best=False)).stages({"student": network})
        run(stages, clusters(), device="cpu", progress=False, **more)

    go(networks[0])
    with monkeypatch.context() as patch:
        fill(patch)
        with pytest.raises(RunError, match=r"No space left.*is intact\. Free some space"):
            go(networks[1], folder=tmp_path)
    (left,) = (tmp_path / "checkpoints").iterdir()
    assert left.suffix == ".safetensors"
    go(networks[2], folder=tmp_path, resume=True)
    assert digest(networks[2]) == digest(networks[0])
    steps = [row["step"] for row in read_lines(tmp_path / "log.jsonl") if row["kind"] == "step"]
    assert steps == list(range(20))


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    """The same with the real thing: the system refuses to write more than a few kilobytes into a file."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
        with pytest.raises(RunError, match="cannot be written"):
            run(
                Supervised(epochs=2, fit=Fit(batch=16)).stages({"student": perceptron(400, seed=1)}),
                clusters(),
                folder=tmp_path,
                device="cpu",
                progress=False,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    stages = Supervised(epochs=1).stages({"student": perceptron(8, seed=1)})
    path = folder / "checkpoint-000-00000001.safetensors"
    write_tensors(path, {"a": torch.ones(1)})
    with pytest.raises(RunError, match="not a checkpoint of lessen"):
        Course(stages, clusters(), folder=tmp_path, resume=True)
    path.write_bytes(b"cut short")
    with pytest.raises(RunError, match="cannot be read"):
        Course(stages, clusters(), folder=tmp_path, resume=True)


def test_a_checkpoint_is_tensors_and_json(tmp_path: Path) -> None:
    stages = Supervised(epochs=1).stages({"student": perceptron(8, seed=1)})
    course = Course(stages, clusters(), folder=tmp_path, device="cpu")
    for _ in course.steps():
        (path,) = (tmp_path / "checkpoints").glob("checkpoint-*")
        with safe_open(path, framework="pt") as file:
            assert set(file.metadata()) == {"about", "lessen.sha256"}
            assert any(name.startswith("optimizer/student/0/momentum_buffer") for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ("lessen.SGD", True),
        ("lessen.elsewhere.SGD", True),
        ("lessen.Adam", False),
        ("lessens.graph.SGD", False),
        ("SGD", False),
    ],
)
def test_classes_of_lessen_may_have_moved_since(now: str, same: bool, tmp_path: Path) -> None:
    """Earlier versions told the modules of classes as well; they may lie elsewhere now."""
    before = Checkpoints(tmp_path / "checkpoints", {"fit": {"class": "lessen.graph.optimizer.SGD"}})
    before.begin()
    before.write(0, 3, Saved({"x": torch.ones(1)}, {}))
    after = Checkpoints(tmp_path / "checkpoints", {"fit": {"class": now}})
    if same:
        assert after.newest() is not None
    else:
        with pytest.raises(RunError, match="before and now"):
            after.newest()
    # What is told next to the checkpoint is not believed if the checkpoint says otherwise.
    after.begin()
    with pytest.raises(RunError, match="belongs to a run with other"):
        Checkpoints(tmp_path / "checkpoints", {"fit": {"class": f"lessen.x.{now.split('.')[-1]}"}}).newest()
