"""Two processes tell the same object alike, and any setting, own code or content that differs otherwise."""

import copy
import dataclasses
import enum
import functools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.data import ArrayExamples, Batch, SubsetExamples, examples_digest
from lessen.core.identity import differences, identify, identity

SCALE = 2.0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = 1.0
    hidden: int = dataclasses.field(default=1, repr=False)


class Plain:
    def __init__(self, t: float) -> None:
        self.t = t

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b) * self.t


class Slotted:
    __slots__ = ("t",)

    def __init__(self, t: float) -> None:
        self.t = t


class Scaled(nn.Module):
    def __init__(self, k: float, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net, self.k, self.seen = nn.Linear(2, 2), k, None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.net(x) * self.k
        return self.seen


def helper(x: Tensor) -> Tensor:
    return x * SCALE


def uses_helper(x: Tensor) -> Tensor:
    return helper(x)


def closed_over(factor: float) -> Any:
    return lambda a, b: (a - b) * factor


def with_default(factor: float) -> Any:
    def made(a: Tensor, b: Tensor, f: float = factor, *, g: float = factor) -> Tensor:
        return (a - b) * f * g

    return made


def one(a: Tensor) -> Tensor:
    return a + 1


def two(a: Tensor) -> Tensor:
    return a + 2


two.__name__, two.__qualname__ = one.__name__, one.__qualname__

# Each pair must be told apart; each member must be told as a second one of the same kind is.
PAIRS: dict[str, list[Any]] = {
    "number": [lambda: 1.0, lambda: 2.0],
    "truth": [lambda: True, lambda: 1],
    "text": [lambda: "1", lambda: 1],
    "enum": [lambda: Colour.RED, lambda: Colour.BLUE],
    "path": [lambda: Path("a"), lambda: Path("b")],
    "bytes": [lambda: b"a", lambda: b"b"],
    "infinity": [lambda: float("inf"), lambda: float("nan")],
    "tuple": [lambda: (1, 2), lambda: (2, 1)],
    "mapping": [lambda: {"a": 1}, lambda: {"a": 2}],
    "mapping by number": [lambda: {1: "a"}, lambda: {2: "a"}],
    "set": [lambda: {"a", "b"}, lambda: {"a", "c"}],
    "dataclass": [Settings, lambda: Settings(rate=2.0)],
    "field that is not shown": [Settings, lambda: Settings(hidden=2)],
    "object": [lambda: Plain(1.0), lambda: Plain(2.0)],
    "object with slots": [lambda: Slotted(1.0), lambda: Slotted(2.0)],
    "class": [lambda: Plain, lambda: Slotted],
    "method": [lambda: Plain(1.0).loss, lambda: Plain(2.0).loss],
    "partial": [lambda: functools.partial(one, 1), lambda: functools.partial(one, 2)],
    "function": [lambda: one, lambda: two],
    "library function": [lambda: F.mse_loss, lambda: F.l1_loss],
    "closure": [lambda: closed_over(1.0), lambda: closed_over(4.0)],
    "default": [lambda: with_default(1.0), lambda: with_default(4.0)],
    "tensor": [lambda: torch.ones(2), lambda: torch.zeros(2)],
    "dtype": [lambda: torch.ones(2), lambda: torch.ones(2, dtype=torch.float64)],
    "half": [lambda: torch.ones(2).bfloat16(), lambda: torch.zeros(2).bfloat16()],
    "array": [lambda: np.ones(2), lambda: np.zeros(2)],
    "weights": [lambda: Scaled(1.0), lambda: Scaled(1.0, seed=1)],
    "attribute of a module": [lambda: Scaled(1.0), lambda: Scaled(-1.0)],
    "inner module": [lambda: nn.Sequential(nn.Dropout(0.1)), lambda: nn.Sequential(nn.Dropout(0.2))],
    "shared": [lambda: [SHARED, SHARED], lambda: [SHARED, copy.deepcopy(SHARED)]],
    "examples": [lambda: examples(), lambda: examples(change=5)],  # noqa: PLW0108  # it is defined below
    "namespace": [lambda: SimpleNamespace(a=1), lambda: SimpleNamespace(a=2)],
}
SHARED = nn.Identity()


def examples(count: int = 100, change: int | None = None, label: int | None = None) -> ArrayExamples:
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, 3, generator=drawn), torch.zeros(count, dtype=torch.int64)
    if change is not None:
        x[change, 1] += 1e-3
    if label is not None:
        y[label] = 1
    return ArrayExamples(x, y)


@pytest.mark.parametrize("pair", PAIRS)
def test_what_differs_is_told_apart_and_what_is_alike_is_not(pair: str) -> None:
    first, second = PAIRS[pair]
    assert identify(first()) == identify(first())
    assert identity(first()) != identity(second())
    json.dumps(identify(first()), allow_nan=False)


def test_a_plain_global_and_an_own_function_count_where_a_function_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(uses_helper)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert list(differences(before, identify(uses_helper))) == ["around.helper.around.SCALE: 2.0 and 3.0"]


def test_what_a_module_remembers_of_a_call_is_not_what_it_is() -> None:
    module = Scaled(1.0)
    before = identify(module)
    module(torch.ones(1, 2))
    assert isinstance(module.seen, Tensor)
    assert identify(module) == before


def test_weights_that_move_are_told_by_shape() -> None:
    assert identify(Scaled(1.0), moving=[]) != identify(Scaled(1.0, seed=1), moving=[])
    a, b = Scaled(1.0), Scaled(1.0, seed=1)
    assert identify(a, moving=[a]) == identify(b, moving=[b])
    b.net.weight.requires_grad_(False)
    assert identify(a, moving=[a]) != identify(b, moving=[b])


def test_objects_in_a_circle_and_things_of_the_process_do_not_stop_it() -> None:
    circle: list[Any] = []
    circle.append(circle)
    holder = Plain(1.0)
    holder.lock, holder.me, holder.many = threading.Lock(), holder, [[[[]]]] * 3  # type: ignore[attr-defined]
    for value in (circle, holder, torch.Generator(), sys.stderr, (x for x in "ab"), np.random.default_rng()):
        assert " at 0x" not in json.dumps(identify(value))


def test_it_is_the_same_in_another_process() -> None:
    program = f"import {__name__} as t; print(t.identity([m() for pair in t.PAIRS.values() for m in pair]))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == identity([make() for pair in PAIRS.values() for make in pair])


class Files:
    """Examples that are no array in memory; `noise` makes each look another one."""

    def __init__(self, given: ArrayExamples, *, noise: bool = False) -> None:
        self.given, self.noise = given, noise

    def __len__(self) -> int:
        return len(self.given)

    def fetch(self, index_N: Tensor) -> Batch:
        batch = self.given.fetch(index_N)
        assert isinstance(batch.inputs, Tensor)
        return Batch(batch.inputs + torch.rand(()) if self.noise else batch.inputs, index_N, batch.labels)


def test_examples_are_told_by_what_is_in_them() -> None:
    mark = examples_digest(examples())
    assert examples_digest(examples()) == mark
    assert len({mark, *(examples_digest(examples(change=n)) for n in (0, 50, 99))}) == 4
    assert len({mark, examples_digest(examples(99)), examples_digest(examples(label=7))}) == 3
    order = torch.arange(100)
    assert (
        examples_digest(SubsetExamples(examples(), order))
        == mark
        != examples_digest(SubsetExamples(examples(), order.flip(0)))
    )


def of_a_subset(given: ArrayExamples) -> SubsetExamples:
    return SubsetExamples(Files(given), torch.arange(len(given)).flip(0))


def in_memory(given: ArrayExamples) -> ArrayExamples:
    return given


@pytest.mark.parametrize("form", [in_memory, Files, of_a_subset], ids=lambda form: form.__name__)
def test_any_one_example_counts(form: Callable[[Any], Any]) -> None:
    """A change of one input, or of one label, at each of 100 places."""
    changed = [form(examples(**{what: place})) for what in ("change", "label") for place in range(100)]
    assert len({examples_digest(form(examples())), *map(examples_digest, changed)}) == 201


def test_of_many_examples_each_short_run_counts() -> None:
    """Of 2,500 one in 2.44 is looked at, so that three in a row always hold one that is."""
    given = examples(2500)
    mark = examples_digest(Files(given))
    for first in range(0, 2498, 97):
        x = given.inputs.clone()  # type: ignore[union-attr]
        x[first : first + 3] += 1e-3
        assert examples_digest(Files(ArrayExamples(x, given.labels))) != mark, first


def test_examples_that_augment_themselves_are_told_by_shape_and_label() -> None:
    noisy = examples_digest(Files(examples(), noise=True))
    assert noisy == examples_digest(Files(examples(), noise=True))
    assert noisy != examples_digest(Files(examples(label=0), noise=True))
    assert noisy != examples_digest(Files(examples(60), noise=True))
    assert examples_digest(Files(examples())) != examples_digest(Files(examples(change=0)))
