"""Teachers that are files, or functions: the student learns the same, bit for bit, as from the live teacher."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lessen.core.errors import DataError, SettingError, TapError
from lessen.engine import run
from lessen.graph import Fit, Remote, TeacherFile
from lessen.knowledge import Hint, SoftTargets
from lessen.schemes import at, offline
from lessen.testing.tasks import clusters, perceptron


class Exact(nn.Module):
    """A teacher of whole numbers, whose sums do not depend on how many examples are computed at once."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randint(-3, 4, (8, 4), generator=drawn).float())

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs * 8).round() @ self.weight / 16


def learned(teacher: nn.Module) -> dict[str, Tensor]:
    student = perceptron(6, seed=1)
    scheme = offline(SoftTargets(temperature=2.0), epochs=2, fit=Fit(batch=16))
    run(scheme.stages({"teacher": teacher, "student": student}), clusters(), progress=False)
    return student.state_dict()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    data, teacher = clusters(), Exact()
    with torch.no_grad():
        outputs = [
            teacher(split.fetch(torch.arange(len(split))).inputs).numpy() for split in (data.train, data.validation)
        ]
    np.savez(tmp_path / "logits.npz", train=outputs[0], validation=outputs[1])
    return tmp_path / "logits.npz"


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_file_teaches_as_the_live_teacher_does_bit_for_bit(stored: Path, tmp_path: Path) -> None:
    live = learned(Exact())
    assert equal(learned(TeacherFile(stored)), live)
    with np.load(stored) as found:
        logits = found["train"]
    np.save(tmp_path / "one.npy", logits)
    assert equal(learned(TeacherFile(tmp_path / "one.npy")), live)
    logits[3, 0] += 1.0
    np.savez(tmp_path / "other.npz", anything=logits)
    assert not equal(learned(TeacherFile(tmp_path / "other.npz")), live)


def test_without_labels_the_file_judges_as_well(stored: Path) -> None:
    scheme = offline(SoftTargets(temperature=2.0), labels=0.0, epochs=2, fit=Fit(batch=16))

    def unlabelled(teacher: nn.Module) -> Any:
        import dataclasses

        data = clusters()
        splits = {
            name: dataclasses.replace(getattr(data, name), labels=None) for name in ("train", "validation", "test")
        }
        cast = {"teacher": teacher, "student": perceptron(6, seed=1)}
        return run(scheme.stages(cast), dataclasses.replace(data, classes=None, **splits), progress=False)

    assert unlabelled(TeacherFile(stored)).validations == unlabelled(Exact()).validations


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: np.savez(path, train=np.zeros((79, 4), np.float32)), "79 rows for the train split, which has 80"),
        (lambda path: np.savez(path, test=np.zeros((80, 4)), validation=np.zeros((32, 4))), "'train' was expected"),
        (lambda path: np.savez(path, train=np.zeros((80, 4), int)), "floating-point numbers"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read"),
        (lambda path: None, "There is no file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(write: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    write(tmp_path / "t.npz")
    with pytest.raises(DataError, match=says):
        learned(TeacherFile(tmp_path / "t.npz"))


def test_a_file_has_no_layers(stored: Path) -> None:
    cast = {"teacher": TeacherFile(stored), "student": perceptron(6, seed=1)}
    stages = offline(at("layer1", Hint()), epochs=1, fit=Fit(batch=16)).stages(cast)
    with pytest.raises(TapError, match="layer1"):
        run(stages, clusters(), progress=False)


def test_a_function_is_asked_once_for_each_example_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    teacher, seen = Exact(), []

    def service(inputs: Tensor) -> np.ndarray[Any, Any]:
        seen.append(len(inputs))
        if len(seen) == 3:
            raise ConnectionError("busy")
        with torch.no_grad():
            found: np.ndarray[Any, Any] = teacher(inputs).numpy()
            return found

    assert equal(learned(Remote(service, key="one", folder=tmp_path, batch=10, wait=0.0)), learned(Exact()))
    asked = sum(seen)
    assert asked <= 80 + 10
    assert max(seen) <= 10
    assert equal(learned(Remote(service, key="one", folder=tmp_path)), learned(Exact()))
    assert sum(seen) == asked
    learned(Remote(service, key="two", folder=tmp_path))
    assert sum(seen) == asked + 80


def test_a_function_that_keeps_failing_is_named_and_loses_nothing(tmp_path: Path) -> None:
    teacher, seen = Exact(), []

    def service(inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        if len(seen) > 2:
            raise ConnectionError("gone")
        return teacher(inputs)

    with pytest.raises(DataError, match=r"'mine' failed 2 times, .*ConnectionError: gone"):
        learned(Remote(service, key="mine", folder=tmp_path, retries=1, wait=0.0))
    done = sum(seen[:2])
    rest: list[int] = []
    learned(Remote(lambda x: (rest.append(len(x)), teacher(x))[1], key="mine", folder=tmp_path))
    assert sum(rest) == 80 - done
    with pytest.raises(DataError, match="one row for each"):
        learned(Remote(lambda x: teacher(x)[0], key="shape", folder=tmp_path))
    with pytest.raises(SettingError, match="a name for what it is"):
        Remote(service, key="")
