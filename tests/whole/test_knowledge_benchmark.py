"""The benchmark of knowledge: every method has a place in it, its controls and statistics are right, and it runs."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lessen.core import ArrayExamples
from lessen.core.errors import DataError
from lessen.recipe import methods

FOLDER = Path(__file__).parents[2] / "benchmarks" / "knowledge"
MODULES = ("regimes", "controls", "trials", "table", "anchors", "run", "cost")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The modules of the benchmark, which are no package: they are found only while these tests run."""
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    found: dict[str, ModuleType] = {name: importlib.import_module(name) for name in MODULES}
    yield SimpleNamespace(**found)
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        del sys.modules[name]
    sys.modules.update(kept)


def test_every_method_of_knowledge_is_a_variant_or_it_is_said_why_not(bench: Any) -> None:
    asked = bench.trials.asked()
    named = {variant.of or name for name, variant in asked.variants.items()} | set(asked.elsewhere)
    knowledge = {name: cls.card.row for name, cls in methods().items() if cls.card.row.startswith("knowledge /")}  # type: ignore[attr-defined]
    assert [name for name, row in knowledge.items() if not {name, row} & named] == []
    rows = set(knowledge.values())
    assert [name for name in set(asked.elsewhere) - rows if name not in methods()] == []


def test_every_variant_can_be_read_and_has_a_place(bench: Any) -> None:
    asked = bench.trials.asked()
    for name, variant in asked.variants.items():
        assert any(bench.trials.applies(variant, regime) for regime in asked.regimes.values()), name
        assert name in methods() or variant.of in methods() or variant.control
    labelled = asked.variants["Decoupled"]
    assert not bench.trials.applies(labelled, asked.regimes["unlabelled"])
    assert bench.trials.applies(labelled, asked.regimes["labels_500"])


def test_a_shuffled_teacher_keeps_its_first_class_and_the_others_in_another_order(bench: Any) -> None:
    torch.manual_seed(0)
    logits, drawn = torch.randn(200, 10), torch.rand(200, 10)
    kept = logits.argmax(1)
    found = bench.controls.permuted(logits, kept, drawn)
    assert torch.equal(found.gather(1, kept[:, None]), logits.gather(1, kept[:, None]))
    assert torch.equal(found.sort(1).values, logits.sort(1).values)
    assert 0.05 < float((found == logits).float().mean()) < 0.4  # one of ten stays, and one of nine others by chance
    objective, index = bench.controls.Shuffled(), torch.arange(200)
    student = torch.randn(200, 10)
    whole = objective(student, (logits, index))
    some = torch.tensor([7, 3, 150])
    assert torch.allclose(objective(student[some], (logits[some], index[some])), whole[some])
    assert not torch.allclose(objective(student[some], (logits[some], index[some] + 1)), whole[some])


def test_the_nearest_neighbour_is_never_the_image_itself(bench: Any) -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(40, 6), torch.randint(4, (40,))
    right = []
    for one in [i for i in range(40) if labels[i] in (1, 3)]:
        near = max(
            (j for j in range(40) if j != one), key=lambda j: float(F.cosine_similarity(inputs[one], inputs[j], 0))
        )
        right.append(labels[near] == labels[one])
    found = bench.regimes.recall_at_1(nn.Sequential(nn.Identity()), "0", ArrayExamples(inputs, labels), (1, 3))
    assert found == pytest.approx(100 * sum(map(float, right)) / len(right))
    assert found < 100  # what it would be if an image were its own neighbour


def test_a_paired_difference_has_the_interval_of_students_t(bench: Any) -> None:
    from scipy import stats

    one = {0: 80.1, 1: 81.0, 2: 79.5, 3: 80.7, 4: 80.2}
    other = {0: 78.0, 1: 79.9, 2: 78.1, 3: 78.5, 4: 79.0}
    paired = [one[seed] - other[seed] for seed in one]
    low, high = stats.t.interval(0.95, 4, sum(paired) / 5, stats.sem(paired))
    found = bench.table.difference(one, other)
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))
    assert found["seen"] == 1
    assert bench.table.difference(other, one)["seen"] == -1
    assert bench.table.difference(one, {seed: value - 0.5 for seed, value in one.items()})["seen"] == 0  # too small
    noisy = {seed: value - 10 * (seed - 1.8) for seed, value in one.items()}
    assert bench.table.difference(one, noisy)["seen"] == 0


def test_a_claim_that_was_not_seen_is_said_not_to_reproduce(bench: Any) -> None:
    rows = [{"says": "a", "over_SoftTargets": {"seen": seen}} for seen in (0, -1)]
    assert "did not reproduce" in bench.table.verdict(rows, "SoftTargets")
    rows.append({"says": "b", "over_SoftTargets": {"seen": 1}})
    assert bench.table.verdict(rows, "SoftTargets").startswith("reproduced in part")
    assert "where it beat tuned soft targets: b" in bench.table.when(rows, "Hint")


@pytest.mark.parametrize(
    ("regime", "variant"),
    [("labels_500", "Hint"), ("unlabelled", "RelationalDistance"), ("unseen", "labels"), ("labels_500", "ZipfLabels")],
)
def test_a_trial_chooses_on_the_validation_split_and_reports_the_test_split(
    bench: Any, regime: str, variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try:
        bench.regimes.images()
    except DataError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(bench.regimes, "CACHE", tmp_path)
    asked = bench.trials.asked()
    networks = {name: dataclasses.replace(one, steps=4) for name, one in asked.networks.items()}
    regimes = {name: dataclasses.replace(one, steps=4, examples=200) for name, one in asked.regimes.items()}
    quick = dataclasses.replace(asked, networks=networks, regimes=regimes)
    found = bench.trials.evidence(quick, regime, variant, (0, 1))
    assert [row["seed"] for row in found["runs"]] == [0, 1]
    assert all(0 <= row["test"][found["figure"]] <= 100 for row in found["runs"])
    assert not {100, 101} & {row["seed"] for row in found["runs"]}
    assert all("validation" in row and "test" not in row for row in found["tried"])
    if found["tried"]:
        best = max(found["tried"], key=lambda row: row["validation"])
        assert found["chosen"] == {key: value for key, value in best.items() if key != "validation"}
    again = bench.trials.evidence(quick, regime, variant, (0, 1))
    assert [row["test"] for row in again["runs"]] == [row["test"] for row in found["runs"]]


def test_a_step_of_the_cost_benchmark_runs_and_its_memory_is_known(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.cost, "EXAMPLES", 8)
    plain, found = bench.cost.step(None, None, 4), dict(bench.cost.steps(["Hint", "SolutionFlow"], 4))
    assert bench.cost.most_memory(plain) > 0
    assert bench.cost.most_memory(found["Hint"]) > bench.cost.most_memory(plain)
