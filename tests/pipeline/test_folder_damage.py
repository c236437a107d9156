"""Whatever happens to the files of a run: one error that names the file and what to do, or the same bits as ever."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lessen
from lessen.core.errors import LessenError, RunError
from lessen.core.files import read_tensors
from lessen.core.sealed import write_sealed
from lessen.graph import Cache, Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import RunFolder
from lessen.schemes import offline, supervised

Arguments = Callable[..., dict[str, Any]]
STEPS = [PruneWeights(keep=0.5), offline(SoftTargets(temperature=4.0), epochs=2, fit=Fit(batch=16), cache=Cache())]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def given(job: Arguments) -> dict[str, Any]:
    return job(steps=STEPS, train=[supervised(epochs=1, fit=Fit(batch=16))])


@pytest.fixture
def whole(places: Path, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a run ends with when nothing happens to it."""
    if not (places / "whole").exists():
        lessen.compress(run=places / "whole", **given)
    return read_tensors(places / "whole" / "weights.safetensors")


@pytest.fixture
def stopped(places: Path, given: dict[str, Any], stop_at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run that was stopped in the last step, in the middle of its training."""
    if not (places / "stopped").exists():
        with monkeypatch.context():
            error = stop_at("with_masks")
            with pytest.raises(error):
                lessen.compress(run=places / "stopped", **given)
    monkeypatch.undo()
    shutil.copytree(places / "stopped", tmp_path / "run")
    return tmp_path / "run"


def damages(content: bytes) -> list[bytes]:
    """A file cut, flipped in the middle, emptied, with other things in it."""
    middle = len(content) // 2
    return [
        b"",
        content[:middle],
        content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
        b"\x00" * len(content),
        b"\xff\xfe" + content,
        b"{}",
        b"[[1]]",
        b'{"completed": 1}',
        b"null",
    ]


NEEDED = ["recipe.yaml", "checkpoints/state.json", "checkpoints/step-1/step.json"]
NEEDED += [f"checkpoints/{name}.safetensors" for name in ("step-0/given", "step-0/network", "step-1/network")]


def said(call: Callable[[], Any]) -> tuple[str | None, Any]:
    """The text of the error, or what came."""
    try:
        return None, call()
    except LessenError as error:
        return str(error), None


def test_damage_in_any_file_is_one_error_or_changes_nothing(
    stopped: Path, given: dict[str, Any], whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    files = [path for path in sorted(stopped.rglob("*")) if path.is_file() and path.name != ".lock"]
    names = {str(path.relative_to(stopped)) for path in files}
    assert names >= {*NEEDED, "checkpoints/step-2/training/log.jsonl"}
    assert any("/cache/" in name for name in names)
    assert any("checkpoint-" in name for name in names)
    refused: dict[str, int] = {}
    for path in files:
        name = str(path.relative_to(stopped))
        for content in damages(path.read_bytes()) if name in NEEDED else damages(path.read_bytes())[2:5:2]:
            run = tmp_path / "damaged"
            shutil.copytree(stopped, run)
            (run / name).write_bytes(content)
            error, made = said(lambda run=run: lessen.resume(run, **given))
            if error is not None:
                assert path.name in error, f"{name}: {error}"
                refused[name] = refused.get(name, 0) + 1
            else:
                state = made.model.state_dict()
                assert all(torch.equal(value, state[at]) for at, value in whole.items()), f"{name}: other weights"
            shutil.rmtree(run)
    for name in NEEDED:
        assert refused.get(name, 0) >= 8, f"{name}: {refused}"


STATES: dict[str, Any] = {
    "completed": [1.9, True, -7, "1", None, 3, 2**70],
    "finished": [1, "yes", None, True],
    "frozen": [[], {"teacher": 1}, None],
    "given": [{}, {"teacher": "0"}, []],
    "asked": [None, "", "[", 3],
    "job": [{}, [], None],
    "kind": ["lessen run, version 1", None, 2],
}


def test_a_state_that_was_forged_is_refused_as_well(stopped: Path, given: dict[str, Any]) -> None:
    """With a checksum that fits, as a program would write it; every field of the state is among them."""
    state = RunFolder(stopped).open().model_dump(mode="json")
    assert state.keys() == STATES.keys()
    for name, values in STATES.items():
        for value in values:
            write_sealed(RunFolder(stopped).state, {**state, name: value})
            with pytest.raises(LessenError) as found:
                lessen.resume(stopped, **given)
            assert str(stopped) in str(found.value), f"{name} = {value!r}: {found.value}"
        left = {other: value for other, value in state.items() if other != name}
        write_sealed(RunFolder(stopped).state, left)
        with pytest.raises(LessenError):
            lessen.resume(stopped, **given)


def test_plans_that_were_emptied_do_not_drop_the_masks(stopped: Path, given: dict[str, Any]) -> None:
    folder = RunFolder(stopped)
    path = folder.step(1) / "step.json"
    kept = folder.read_kept(1).model_dump(mode="json")
    for plans in ({}, None, [1], [{"Nothing": {}}], [{"PrunedWeights": {"masks": 3}}]):
        write_sealed(path, {**kept, "plans": plans})
        with pytest.raises(LessenError):
            lessen.resume(stopped, **given)


def test_a_damaged_log_loses_its_damaged_lines_only(
    stopped: Path, given: dict[str, Any], whole: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    log = RunFolder(stopped).step(2) / "training" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    row = json.loads(lines[0])
    bad = [
        b"\x00" * 40 + b"\n",
        lines[0][:20] + b"\n",
        b"\xff\xfe\n",
        json.dumps({**row, "stage": "0"}).encode() + b"\n",
        b'{"kind": "other"}\n',
        b"[" * 5000 + b"\n",
        b'{"kind": "step", "stage": 0, "step": NaN}\n',
    ]
    log.write_bytes(lines[0] + b"".join(bad) + b"".join(lines[1:]) + lines[-1][:9])
    made = lessen.resume(stopped, **given)
    assert f"{len(bad)} damaged lines were skipped" in caplog.text
    assert all(torch.equal(value, made.model.state_dict()[at]) for at, value in whole.items())
    kept = [json.loads(line) for line in (stopped / "log.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (stopped.parent / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in kept] == [row["step"] for row in plain]


@pytest.mark.parametrize("name", ["recipe.yaml", "records.jsonl", "plan.json", "weights.safetensors"])
def test_what_others_read_of_a_complete_run_is_named_where_it_is_damaged(
    name: str, places: Path, whole: dict[str, torch.Tensor], given: dict[str, Any], tmp_path: Path
) -> None:
    for content in damages((places / "whole" / name).read_bytes())[:6]:
        run = tmp_path / "run"
        shutil.copytree(places / "whole", run)
        (run / name).write_bytes(content)
        for call in (lambda run=run: lessen.load(run, given["teacher"]), lambda run=run: lessen.resume(run, **given)):
            error, made = said(call)
            if error is not None:
                assert name in error, f"{name}: {error}"
            else:
                state = (made if isinstance(made, torch.nn.Module) else made.model).state_dict()
                assert all(torch.equal(value, state[at]) for at, value in whole.items())
        shutil.rmtree(run)


BOMB = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1'}]" for i in range(8))


MERGED = "\n".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" if i else "a0: &a0 {x: 1}" for i in range(7)
)
HOSTILE = {
    "number": "seed: 0x" + "f" * 5000,
    "number to the base of 60": "seed: 1" + ":1" * 5000,
    "aliases": BOMB,
    "merged mappings": MERGED,
    "itself": "a: &a [*a]",
    "values": "steps: [" + "1," * 200_000 + "]",
    "depth": "steps: " + "[" * 5000,
    "length": "#" * (5 << 20),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_recipe_that_is_larger_than_it_looks_is_refused(text: str, stopped: Path, tmp_path: Path) -> None:
    run = tmp_path / "larger"
    shutil.copytree(stopped, run)
    (run / "recipe.yaml").write_text(text)
    with pytest.raises(RunError, match=r"recipe\.yaml, cannot be read \(.*(is too large|more than|deeper than|alias)"):
        RunFolder(run).read_recipe()


def test_a_run_with_links_is_refused_before_anything_is_written_through_them(
    stopped: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    """A run from somebody else could lead to any file of its reader: `resume` appends to the log."""
    mine = tmp_path / "mine.txt"
    mine.write_text("as it was")
    for name in ("log.jsonl", "checkpoints/new", "checkpoints/step-9", "checkpoints/.lock"):
        run = tmp_path / "linked"
        shutil.copytree(stopped, run)
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(mine)
        with pytest.raises(RunError, match=f"{name} is a symbolic link"):
            lessen.resume(run, **given)
        shutil.rmtree(run)
    assert mine.read_text() == "as it was"
    beginning = RunFolder(tmp_path / "new")
    beginning.checkpoints.mkdir(parents=True)
    (beginning.checkpoints / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(RunError, match="cannot be written"), beginning.locked():
        pass
    assert not (tmp_path / "made").exists()
