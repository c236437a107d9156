"""Every scheme is a step of a run: from Python, in a recipe, stopped in the middle of the step and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic.dataclasses import is_pydantic_dataclass
from torch import Tensor, nn

import lessen
from lessen import recipe, schemes
from lessen.core.errors import LessenError, RecipeError, RunError
from lessen.core.files import write_tensors
from lessen.graph import Fit
from lessen.pipeline import Roles, RunFolder, roles
from lessen.schemes import AssistantChain, Mutual, Offline
from lessen.testing.tasks import perceptron
from lessen.zoo import Build, build

Arguments = Callable[..., dict[str, Any]]

FIT = "steps: 4, fit: {batch: 128, checkpoint_steps: 2}"
OTHER = '{build: "zoo:mlp", arguments: {hidden: [12, 8]}}'
STEPS = {
    "AssistantChain": f"Roles: {{scheme: {{AssistantChain: {{{FIT}}}}}, assistants: [{OTHER}]}}",
    "Mutual": f"Roles: {{scheme: {{Mutual: {{{FIT}}}}}, students: 3}}",
    "Offline": f"Offline: {{{FIT}}}",
    "InTurn": f"InTurn: {{schemes: [{{Supervised: {{{FIT}}}}}, {{Offline: {{{FIT}}}}}]}}",
    "Pattern": "Pattern: {nodes: [Labels, {Role: {name: teacher}}, {Role: {name: student, learns: true}}], "
    "edges: [{source: teacher, target: student, objective: SoftTargets}, "
    "{Edge: {source: labels, target: student, objective: TaskLoss, weight: 0.5}}], "
    f"{FIT}}}",
    "SelfBranches": f"SelfBranches: {{taps: [layer1], {FIT}}}",
    "SelfSnapshot": f"SelfSnapshot: {{{FIT}}}",
    "SeveralTeachers": f"Roles: {{scheme: {{SeveralTeachers: {{{FIT}}}}}, teachers: [{OTHER}]}}",
    "Staged": f"Staged: {{hints: [{{objective: Hint, tap: layer1}}], hint_steps: 4, {FIT}}}",
    "Supervised": f"Supervised: {{{FIT}}}",
}
RECIPE = """
network: {build: "zoo:mlp", arguments: {hidden: [16, 8]}}
data: Digits
steps: [%s]
deploy: {runtimes: []}
measuring: {repeats: 6, calibration: 32}
seed: 3
"""


class Stop(Exception):
    """What stops a run, as a kill would, without taking the test with it."""


def exported() -> list[str]:
    """The names of all schemes in `lessen.schemes`."""
    return [name for name in schemes.__all__ if is_pydantic_dataclass(kind := getattr(schemes, name)) and
            hasattr(kind, "stages")]  # fmt: skip


def read(folder: Path, step: str, name: str = "recipe.yaml") -> recipe.Recipe:
    (folder / name).write_text(RECIPE % step)
    return recipe.read_recipe(folder / name)


def stop_after(count: int) -> Callable[[Any], None]:
    """What raises after so many steps of training."""
    calls: list[int] = []

    def after(done: Any) -> None:
        calls.append(done.step)
        if len(calls) == count:
            raise Stop

    return after


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run(asked: recipe.Recipe, folder: Path, **more: Any) -> lessen.Compressed:
    return lessen.compress(**asked.arguments(), run=folder, asked=recipe.as_data(asked), progress=False, **more)


@pytest.mark.parametrize("name", exported())
def test_every_scheme_is_a_step_of_a_run(name: str, tmp_path: Path) -> None:
    asked = read(tmp_path, STEPS[name])
    whole = run(asked, tmp_path / "whole")
    assert not same(whole.model, whole.teacher)

    # From Python, with the settings in the place of the file.
    arguments = asked.arguments()
    python = lessen.compress(**arguments, run=tmp_path / "python", progress=False)
    assert same(python.model, whole.model)

    # Stopped in the middle, in the last stage, and resumed by the folder alone.
    trained = (whole.run / "log.jsonl").read_text().count('"kind": "step"')
    with pytest.raises(Stop):
        run(asked, tmp_path / "stopped", on_step=stop_after(trained - 1))
    assert RunFolder(tmp_path / "stopped").open().completed == 0
    assert same(recipe.resume(tmp_path / "stopped", progress=False).model, whole.model)

    # The recipe in the folder is complete.
    again = recipe.read_run(whole.run)
    assert recipe.as_data(again)["steps"] == recipe.as_data(asked)["steps"]


def test_copies_are_drawn_from_the_seed_each_anew() -> None:
    given = perceptron(8, seed=0)

    def drawn(seed: int, **more: Any) -> list[nn.Module]:
        own = {"teacher": given, "student": given, "teachers": [given]}
        return list(Roles(scheme=Mutual(), students=3, **more).cast(own, seed=seed)["students"])

    one, again, other = drawn(1), drawn(1), drawn(2)
    assert one[0] is given
    assert all(map(same, one, again))
    for two in (one[2], given, other[1]):
        assert not same(one[1], two)
    copied = drawn(1, copies="copied")[1]
    assert same(copied, given)
    assert copied is not given


def test_networks_from_python_are_copied(job: Arguments, tmp_path: Path) -> None:
    one, two = perceptron(10, seed=5), perceptron(6, seed=6)
    before = [{name: tensor.clone() for name, tensor in each.state_dict().items()} for each in (one, two)]
    chain = AssistantChain(epochs=1, fit=Fit(batch=16))
    made = lessen.compress(run=tmp_path / "run", **job(steps=[Roles(scheme=chain, assistants=(one, two))]))
    for network, kept in zip((one, two), before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())
        assert network.training
    written = yaml.safe_load((made.run / "recipe.yaml").read_text())
    assert "Roles" in str(written["steps"])


def test_the_roles_move_the_student(job: Arguments, tmp_path: Path) -> None:
    """Two runs that differ in the roles only differ in the student."""
    mutual = Mutual(epochs=1, fit=Fit(batch=16, keep_best=False))
    made = {
        name: lessen.compress(run=tmp_path / name, **job(steps=[Roles(scheme=mutual, **given)])).model
        for name, given in {
            "fresh": {"students": 2},
            "copied": {"students": 2, "copies": "copied"},
            "build": {"students": (perceptron(6, seed=9),)},
        }.items()
    }
    assert not same(made["fresh"], made["copied"])
    assert not same(made["fresh"], made["build"])


CHAIN = AssistantChain(epochs=1, fit=Fit(batch=16))
WRONG: dict[str, tuple[Any, str]] = {
    "no students": (
        Mutual(),
        r"step 1 \(Mutual\).*at least 2 .*'students', got 1.*Roles\(scheme=Mutual\(\), students=2\)",
    ),
    "no assistants": (CHAIN, r"needs the role 'assistants'.*Roles\(scheme=AssistantChain\(\), assistants=1\)"),
    "one student": (
        Roles(scheme=Mutual()),
        r"got 1\. As a step of a run, write Roles\(scheme=Mutual\(\), students=2\)",
    ),
    "not a role of it": (
        Roles(scheme=Offline(), students=2),
        r"Roles: students: Offline has no such role.*student, teacher",
    ),
    "no such network": (
        Roles(scheme=CHAIN, assistants=(Build(build="zoo:mpl"),)),
        r"step 1 \(AssistantChain\): Roles: assistants\[0\]: There is no network 'mpl' in zoo: did you mean 'mlp'",
    ),
    "other classes": (
        Roles(scheme=CHAIN, assistants=(perceptron(8, seed=0, classes=7),)),
        r"step 1 \(AssistantChain\).*'assistant1'",
    ),
    "other inputs": (Roles(scheme=CHAIN, assistants=(nn.Linear(3, 4),)), r"step 1 \(AssistantChain\)"),
    "nothing to draw": (Roles(scheme=Mutual(), students=2), r"students\[0\]: No module of this Bare"),
}


class Bare(nn.Module):
    """A network whose only weight no module can draw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_before_anything_starts(case: str, job: Arguments, tmp_path: Path) -> None:
    step, said = WRONG[case]
    more = {"teacher": Bare()} if case == "nothing to draw" else {}
    with pytest.raises(LessenError, match=rf"(?s){said}"):
        lessen.compress(run=tmp_path / "run", **job(steps=[step], **more))
    assert not (tmp_path / "run").exists()


def test_roles_and_the_weights_of_their_files_belong_to_the_run(job: Arguments, tmp_path: Path, stop_at: Any) -> None:
    file = tmp_path / "assistant.safetensors"
    write_tensors(file, build("zoo:mlp", inputs=8, hidden=[6], classes=4, seed=1).state_dict())

    def arguments(**more: Any) -> dict[str, Any]:
        one = Build(build="zoo:mlp", arguments={"inputs": 8, "hidden": [6], "classes": 4}, weights=file)
        return job(steps=[Roles(scheme=CHAIN, **{"assistants": (one,), **more})])

    error = stop_at("gather", 2)
    with pytest.raises(error):
        lessen.compress(run=tmp_path / "run", **arguments())
    with pytest.raises(RunError, match=r"steps\.0\.assistants"):
        lessen.resume(tmp_path / "run", **arguments(assistants=2))
    kept = file.read_bytes()
    write_tensors(file, build("zoo:mlp", inputs=8, hidden=[6], classes=4, seed=2).state_dict())
    with pytest.raises(RunError, match=r"weights of roles"):
        lessen.resume(tmp_path / "run", **arguments())
    file.write_bytes(kept)
    lessen.resume(tmp_path / "run", **arguments())


def test_a_module_for_a_role_is_imported_only_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_roles.py").write_text("from lessen.zoo import mlp as make\n")
    monkeypatch.syspath_prepend(tmp_path)
    for where in ("steps", "train"):
        text = RECIPE % STEPS["AssistantChain"].replace("zoo:mlp", "strange_roles:make")
        (tmp_path / "recipe.yaml").write_text(
            text if where == "steps" else text.replace("\nsteps:", "\nsteps: []\ntrain:")
        )
        asked = recipe.read_recipe(tmp_path / "recipe.yaml")
        with pytest.raises(RecipeError, match=r"'strange_roles:make'.*--allow-import"):
            recipe.check_imports(asked, tmp_path, allow_import=False)
        recipe.check_imports(asked, tmp_path, allow_import=True)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("learns: true", "learns: perhaps", r"line 4: Role: learns: got 'perhaps', but true or false was expected"),
        ("weight: 0.5", "weight: much", r"line 4: Edge: weight: got 'much', but a number was expected"),
        ("weight: 0.5", "wieght: 0.5", r"line 4: Edge has no setting 'wieght': did you mean 'weight'"),
        ("Role: {name: teacher}", "Rolle: {name: teacher}", r"line 4: there is no 'Rolle': did you mean 'Role'"),
    ],
)
def test_slips_in_a_pattern_are_found_when_it_is_read(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        read(tmp_path, STEPS["Pattern"].replace(right, wrong))


def test_the_law_finds_copies_that_are_not_drawn_from_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted error: the seed of a copy does not follow from that of the run."""
    draws = iter(range(100))
    monkeypatch.setattr(roles, "derive", lambda *purpose: next(draws))
    with pytest.raises(AssertionError):
        test_every_scheme_is_a_step_of_a_run("Mutual", tmp_path)
