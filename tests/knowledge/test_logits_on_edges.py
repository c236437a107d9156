"""Objectives on logits where they are used: named in a recipe, on an edge, over the steps of a stage."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lessen.core import encode
from lessen.engine import run
from lessen.graph import Edge, Fit, Graph, Labels, Network, Stage
from lessen.knowledge import (
    AnnealedTemperature,
    ClassesOnALine,
    CorrelationMatching,
    CostMatrix,
    CrossEntropy,
    CurriculumTemperature,
    Decoupled,
    MultiLevel,
    Normalized,
    RefinedLogits,
    SoftTargets,
    SwapLabel,
    TopClasses,
    Transformed,
    TransformedTeacher,
    Wasserstein,
    WeightedSoftLabels,
    ZipfLabels,
)
from lessen.recipe import read_recipe
from lessen.schemes import Offline, at, taps
from lessen.testing.tasks import clusters, perceptron

FOUR = tuple(tuple(float(abs(a - b)) for b in range(4)) for a in range(4))
OBJECTIVES = [
    SoftTargets(temperature=AnnealedTemperature(), divergence=Wasserstein(cost=ClassesOnALine())),
    SoftTargets(temperature=2.0, divergence=Wasserstein(cost=CostMatrix(rows=FOUR)), transform=SwapLabel()),
    SoftTargets(divergence=TopClasses(count=2)),
    Transformed(objective=Decoupled(temperature=2.0)),
    CurriculumTemperature(objective=Normalized()),
    WeightedSoftLabels(),
    RefinedLogits(),
    CorrelationMatching(),
    TransformedTeacher(weighted=True),
    MultiLevel(),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: type(one).__name__)
def test_it_is_read_from_a_recipe_and_teaches(objective: Any, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    step = {
        "Offline": {
            "knowledge": [{"At": {"objective": encode(objective)}}],
            "epochs": 1,
            "fit": {"batch": 20, "keep_best": False},
        }
    }
    network = {"build": "zoo:residual", "arguments": {"width": 8, "depth": 8, "classes": 10}}
    file.write_text(yaml.safe_dump({"network": network, "data": "Digits", "steps": [step]}))
    (read,) = read_recipe(file).steps
    assert isinstance(read, Offline)
    (knowledge,) = read.knowledge
    assert knowledge.objective == objective

    student, teacher = perceptron(8, seed=1), perceptron(12, seed=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    history = run(read.stages({"student": student, "teacher": teacher}), clusters(), progress=False, device="cpu")
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert history is not None


def test_a_teacher_free_objective_takes_labels_as_its_source() -> None:
    student = perceptron(8, seed=1)
    edges = [
        Edge(source="labels", target="student", objective=ZipfLabels(weak=1.0), target_tap=taps("layer2", "")),
        Edge(source="labels", target="student", objective=CrossEntropy(), weight=0.1),
    ]
    graph = Graph(nodes=[Labels(name="labels"), Network(name="student", module=student, learns=True)], edges=edges)
    head = student.get_submodule("head").weight.detach().clone()  # type: ignore[union-attr]
    run(
        [Stage(name="alone", graph=graph, epochs=1, fit=Fit(batch=20, keep_best=False))],
        clusters(),
        progress=False,
        device="cpu",
    )
    assert not torch.equal(student.get_submodule("head").weight, head)  # type: ignore[arg-type]


def test_the_temperature_learns_beside_the_student() -> None:
    student, teacher = perceptron(8, seed=1), perceptron(12, seed=2)
    made: list[Any] = []

    class Kept(CurriculumTemperature):
        def objective_for(self, student_shape: Any, teacher_shape: Any, task: Any) -> Any:
            made.append(super().objective_for(student_shape, teacher_shape, task))
            return made[-1]

    scheme = Offline(knowledge=(at("", Kept()),), epochs=3, fit=Fit(batch=20))
    run(scheme.stages({"student": student, "teacher": teacher}), clusters(), progress=False, device="cpu")
    assert made[-1].strength == 1.0
    assert made[-1].number.item() != 1.0
