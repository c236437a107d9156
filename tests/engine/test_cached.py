"""A cache gives what the teacher gives, saves its forward pass, and refuses to be used for anything else."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lessen.core import ArrayExamples, Batch, Data, settings
from lessen.core.errors import GraphError, RunError, SettingError
from lessen.core.sealed import read_sealed, write_sealed
from lessen.engine import Course, run
from lessen.engine.cached import Reader, keep_top, spread_top, tap_name
from lessen.graph import Cache, Fit, Stored
from lessen.knowledge import Hint, OverTokens, SoftTargets
from lessen.schemes import Offline, at
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters, perceptron

FULL = {"stored": Stored.FULL}


def cast() -> dict[str, nn.Module]:
    return {"teacher": perceptron(12, seed=1), "student": perceptron(8, seed=2)}


def scheme(cache: Cache | None, *, epochs: int = 2, **more: Any) -> Offline:
    lessons = (SoftTargets(), at("layer2", Hint()))
    return Offline(**{"knowledge": lessons, "epochs": epochs, "fit": Fit(batch=16), "cache": cache, **more})


def train(how: Offline, played: dict[str, nn.Module] | None = None, **more: Any) -> dict[str, Tensor]:
    """The student after training."""
    networks = played or cast()
    run(how.stages(networks), more.pop("data", clusters()), device="cpu", progress=False, **more)
    return dict(networks["student"].state_dict())


def close(one: dict[str, Tensor], two: dict[str, Tensor], error: float = 1e-4) -> bool:
    """Whether two students are equal but for rounding: a cache is computed in other batches than a step."""
    return all(torch.allclose(value.float(), two[name].float(), atol=error, rtol=error) for name, value in one.items())


def test_training_from_a_full_cache_equals_training_without(tmp_path: Path) -> None:
    without = train(scheme(None))
    assert close(train(scheme(Cache(**FULL)), folder=tmp_path), without)
    assert (tmp_path / "cache" / "teacher" / "cache.json").is_file()


def test_a_cache_of_the_wrong_examples_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "__call__", wrong(Reader.__call__))
    monkeypatch.setattr(Reader, "differs", lambda self, index, now: None)  # this would see it earlier
    assert not close(train(scheme(Cache(**FULL)), folder=tmp_path), train(scheme(None)))


def wrong(read: Any) -> Any:
    return lambda self, index: read(self, (index + 1) % 80)


def test_half_precision_is_close_and_half_as_large(tmp_path: Path) -> None:
    half, without = train(scheme(Cache(folder=tmp_path))), train(scheme(None))
    assert close(half, without, 1e-2)
    assert not close(half, without, 1e-6)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npy")) < 80 * (4 + 6) * 2 + 2 * 200


def test_the_teacher_is_called_once_for_each_example(tmp_path: Path) -> None:
    calls: list[int] = []
    # The check, again with a copy of the tap; the filling, in the first run; the comparison.
    for expected in ([4, 4, 80, 4], [4, 4, 4]):
        networks = cast()
        networks["teacher"].register_forward_hook(lambda m, given, out: calls.append(len(out)))
        calls.clear()
        train(scheme(Cache(folder=tmp_path)), networks)
        assert calls == expected


def test_taps_that_are_missing_are_filled_in(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path, **FULL)
    train(scheme(cache, knowledge=(SoftTargets(),)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert close(train(scheme(cache)), train(scheme(None)))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(tmp_path.glob("*.npy"))) == 2


def other_data() -> Data:
    data = clusters()
    return Data(
        train=ArrayExamples(data.train.inputs + 1, data.train.labels),
        validation=data.validation,
        test=data.test,
        classes=data.classes,
    )


@settings
class Scaled:
    by: float = 2.0
    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs * self.by + uniforms_NK.sum()


def viewed(view: Scaled) -> Data:
    data = clusters()
    return Data(train=data.train, validation=data.validation, test=data.test, classes=data.classes, augment=view)


def other_teacher() -> dict[str, nn.Module]:
    networks = cast()
    with torch.no_grad():
        next(networks["teacher"].parameters()).view(-1)[0] += 1e-6
    return networks


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"played": other_teacher()}, "'teacher'"),
        ({"data": other_data()}, "'examples'"),
        ({"data": viewed(Scaled())}, "'view'"),
        ({"how": scheme(Cache(top_k=2))}, "'top_k'"),
        ({"how": scheme(Cache(**FULL))}, "'stored'"),
    ],
    ids=["teacher", "examples", "view", "top_k", "stored"],
)
def test_a_cache_of_something_else_is_refused(more: dict[str, Any], says: str, tmp_path: Path) -> None:
    train(scheme(Cache(folder=tmp_path)))
    given = dict(more)
    how = given.pop("how", scheme(Cache()))
    moved = Cache(folder=tmp_path, stored=how.cache.stored, top_k=how.cache.top_k)
    with pytest.raises(RunError, match=f"another setting of {says}"):
        train(scheme(moved), given.pop("played", None), **given)


class Files:
    """Examples that are no array in memory."""

    def __init__(self, given: ArrayExamples) -> None:
        self.given = given

    def __len__(self) -> int:
        return len(self.given)

    def fetch(self, index_N: Tensor) -> Batch:
        return self.given.fetch(index_N)


@pytest.mark.parametrize("form", [ArrayExamples, Files])
def test_a_cache_is_refused_if_any_one_example_differs(form: Any, tmp_path: Path) -> None:
    """All but the first four, at which the teacher is asked again anyway."""
    data = clusters()
    assert isinstance(data.train, ArrayExamples)
    assert isinstance(data.train.inputs, Tensor)

    def changed(place: int | None) -> Data:
        x = data.train.inputs.clone()  # type: ignore[attr-defined]
        if place is not None:
            x[place, 0] += 1e-3
        given = ArrayExamples(x, data.train.labels)  # type: ignore[attr-defined]
        train = given if form is ArrayExamples else form(given)
        return Data(train=train, validation=data.validation, test=data.test, classes=data.classes)

    train(scheme(Cache(folder=tmp_path)), data=changed(None))
    for place in (4, 41, 79):
        with pytest.raises(RunError, match="another setting of 'examples'"):
            train(scheme(Cache(folder=tmp_path)), data=changed(place))


def test_a_random_view_cannot_be_cached_and_a_fixed_one_can(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="random view"):
        train(scheme(Cache(folder=tmp_path / "a")), data=viewed(Scaled(draws=1)))
    cache = Cache(folder=tmp_path / "b", **FULL)
    assert close(train(scheme(cache), data=viewed(Scaled())), train(scheme(None), data=viewed(Scaled())))


def test_a_cache_needs_a_folder_and_finite_numbers_that_fit(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no folder"):
        train(scheme(Cache()))
    networks = cast()
    with torch.no_grad():
        networks["teacher"].head.bias += 1e5  # type: ignore[operator]
    with pytest.raises(ValueError, match="half precision"):
        train(scheme(Cache(folder=tmp_path)), networks)
    assert not list(tmp_path.glob("*"))


def test_a_full_disk_leaves_no_cache_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("lessen.engine.cache.os.fsync", no_room)
        with pytest.raises(RunError, match="No space left"):
            train(scheme(Cache(folder=tmp_path)))
    assert not list(tmp_path.glob("*"))
    train(scheme(Cache(folder=tmp_path)))
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        train(scheme(Cache(folder=tmp_path)))


@pytest.mark.parametrize("kept", [1, 3, 6])
@pytest.mark.parametrize("shape", [(5, 6), (2, 4, 6)], ids=["one each", "one a position"])
def test_top_k_is_a_distribution_and_keeps_what_is_large(shape: tuple[int, ...], kept: int) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    dense = spread_top(*keep_top(logits, kept), 6)
    torch.testing.assert_close(dense.exp().sum(-1), torch.ones(shape[:-1]))
    true = logits.log_softmax(-1)
    top = true.topk(kept, dim=-1).indices
    torch.testing.assert_close(dense.gather(-1, top), true.gather(-1, top), atol=1e-5, rtol=1e-4)
    if kept == 6:
        torch.testing.assert_close(dense, true)
    rest = dense.scatter(-1, top, float("-inf")).exp()
    assert kept == 6 or float((rest.amax(-1) - rest.sum(-1) / (6 - kept)).abs().max()) < 1e-6


def test_a_certain_teacher_leaves_no_infinity() -> None:
    dense = spread_top(*keep_top(torch.tensor([[1000.0, 0.0, 0.0]]), 1), 3)
    assert bool(torch.isfinite(dense).all())


def test_top_k_of_all_classes_trains_like_the_whole(tmp_path: Path) -> None:
    whole = train(scheme(None, knowledge=(SoftTargets(),)))
    for kept, alike in ((4, True), (1, False)):
        cache = Cache(folder=tmp_path / str(kept), top_k=kept, **FULL)
        assert close(train(scheme(cache, knowledge=(SoftTargets(),))), whole) == alike


def in_positions(*shape: int) -> dict[str, nn.Module]:
    def made(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(8, 12), nn.Unflatten(1, shape))

    return {"teacher": made(1), "student": made(2)}


def test_top_k_at_each_position_of_a_text(tmp_path: Path) -> None:
    """All classes kept: as without a cache; one of four: not; and the file holds no more than that one and its tail."""
    labelled = clusters()
    texts = Data(
        **{
            name: ArrayExamples(
                part.fetch(torch.arange(len(part))).inputs, torch.zeros(len(part), 3, dtype=torch.int64)
            )
            for name, part in (("train", labelled.train), ("validation", labelled.validation), ("test", labelled.test))
        }
    )

    def trained(cache: Cache | None) -> dict[str, Tensor]:
        how = Offline(
            knowledge=(OverTokens(objective=SoftTargets()),), labels=0.0, epochs=2, fit=Fit(batch=16), cache=cache
        )
        return train(how, in_positions(3, 4), data=texts)

    whole = trained(None)
    assert close(trained(Cache(folder=tmp_path / "4", top_k=4, **FULL)), whole)
    assert close(trained(Cache(folder=tmp_path / "4", top_k=4, **FULL)), whole)  # read, not filled
    assert not close(trained(Cache(folder=tmp_path / "1", top_k=1, **FULL)), whole)
    assert sorted(np.load(file).shape for file in (tmp_path / "1").glob("*.npy")) == [(80, 3, 1), (80, 3, 2)]


def test_top_k_of_a_map_is_refused(tmp_path: Path) -> None:
    how = Offline(labels=0.0, cache=Cache(folder=tmp_path, top_k=2), epochs=1)
    with pytest.raises(SettingError, match=r"top_k needs outputs of shape \(N, C\), or \(N, L, C\)"):
        Course(how.stages(in_positions(2, 3, 2)), clusters(), device="cpu").steps().__next__()


def test_caches_of_taps_have_names_of_their_own() -> None:
    taps = [Tap(), Tap(path="a"), Tap(path="a", side="input"), Tap(path="a", call=0)]
    assert len({tap_name(tap) for tap in taps}) == 4


class Black(nn.Module):
    """A teacher without weights: what it says comes from somewhere else."""

    def __init__(self, sign: float = 1.0, *, weight: bool = False) -> None:
        super().__init__()
        self.ask, self.sign = [perceptron(12, seed=1).eval()], sign
        self.own = nn.Parameter(torch.ones(())) if weight else None

    def forward(self, x: Tensor) -> Tensor:
        return self.ask[0](x).detach() * Black.mood * self.sign

    mood = 1.0


def black(teacher: nn.Module, cache: Cache) -> dict[str, Tensor]:
    return train(scheme(cache, knowledge=(SoftTargets(),)), {"teacher": teacher, "student": perceptron(8, seed=2)})


def test_a_teacher_without_weights_needs_a_key_and_is_asked_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"no weights.*Cache\(key=...\)"):
        black(Black(), Cache(folder=tmp_path))
    teacher, calls = Black(), []
    teacher.register_forward_hook(lambda m, given, out: calls.append(len(out)))
    for expected in ([4, 80], [4]):
        calls.clear()
        black(teacher, Cache(folder=tmp_path, key="one"))
        assert calls == expected
    with pytest.raises(RunError, match="'teacher'"):
        black(teacher, Cache(folder=tmp_path, key="two"))


@pytest.mark.parametrize("top_k", [None, 2])
def test_a_teacher_with_other_settings_or_answers_is_another(
    top_k: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(folder=tmp_path, top_k=top_k)
    black(Black(weight=True), cache)
    black(Black(weight=True), cache)
    with pytest.raises(RunError, match="another setting of 'teacher'"):
        black(Black(-1.0, weight=True), cache)
    monkeypatch.setattr(Black, "mood", -1.0)  # nothing of the teacher tells it
    with pytest.raises(RunError, match=r"differs from what 'teacher' now computes.*another teacher"):
        black(Black(weight=True), cache)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Any] = {
    "two bytes": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "ten examples": lambda path: np.save(path, np.load(path)[:10]),
    "objects": lambda path: np.save(path, np.array([{}] * 80, dtype=object), allow_pickle=True),
    "other shape": lambda path: np.save(path, np.zeros((80, 7), np.float16)),
    "numbers": lambda path: np.save(path, np.zeros((80, 4), np.int64)),
}


@pytest.mark.parametrize(
    ("damage", "sealed"), [*((name, False) for name in DAMAGE), *((name, True) for name in DAMAGE if name[:3] != "two")]
)
def test_a_damaged_array_is_one_error(damage: str, sealed: bool, tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path)
    train(scheme(cache, knowledge=(SoftTargets(),)))
    (path,) = tmp_path.glob("*.npy")
    DAMAGE[damage](path)
    if sealed and path.is_file():
        content = read_sealed(tmp_path / "cache.json", advice="")
        next(iter(content["taps"].values()))["checksums"] = [hashlib.sha256(path.read_bytes()).hexdigest()]
        write_sealed(tmp_path / "cache.json", content)
    with pytest.raises(RunError, match=r"another teacher|emove the folder of the cache"):
        train(scheme(cache, knowledge=(SoftTargets(),)))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("taps"),
        lambda found: found.update(taps=[]),
        lambda found: found.update(taps={":": {"dtype": "int3", "shape": [4]}}),
        lambda found: next(iter(found["taps"].values())).update(classes=10**9),
        lambda found: next(iter(found["taps"].values())).update(checksums=[]),
        lambda found: next(iter(found["taps"].values())).update(files=["../../../x.npy"]),
        lambda found: found.update(key={}),
    ],
)
def test_a_forged_index_is_one_error(change: Any, tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path)
    train(scheme(cache, knowledge=(SoftTargets(),)))
    content = read_sealed(tmp_path / "cache.json", advice="")
    change(content)
    write_sealed(tmp_path / "cache.json", content)
    with pytest.raises(RunError, match=r"cache"):
        train(scheme(cache, knowledge=(SoftTargets(),)))
    for raw in (b"[]", b"\xff", b"", b'{"sha256": 1, "content": 2}'):
        (tmp_path / "cache.json").write_bytes(raw)
        with pytest.raises(RunError, match="emove the folder of the cache"):
            train(scheme(cache, knowledge=(SoftTargets(),)))
