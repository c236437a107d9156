"""A scheme: settings that return stages, given the networks that play its roles."""

from typing import Annotated, ClassVar

from pydantic import Field

from lessen.core import Card, Objective, settings
from lessen.graph import Edge, Fit, Graph, Labels, Network, Stage
from lessen.knowledge import TaskLoss
from lessen.schemes import Cast, role

from .node import Noisy
from .objective import CentredCosine


@settings
class NoisyTeacher:
    """A teacher with noise teaches a student, next to the labels. Roles: `teacher`, `student`.

    Args:
        knowledge: Between the outputs of student and teacher.
        noise: The standard deviation of the noise, as a share of that of the teacher's output.
        labels: The weight of the labels.
        epochs: Passes over the training data.
        fit: How the student is trained.
    """

    knowledge: Objective = CentredCosine()
    noise: Annotated[float, Field(ge=0)] = 0.1
    labels: Annotated[float, Field(ge=0)] = 1.0
    epochs: Annotated[int, Field(ge=1)] = 10
    fit: Fit = Fit()

    card: ClassVar[Card] = Card(
        row="schemes / offline",
        paper="arXiv:1610.09650",
        says="A teacher whose output is disturbed stands for many teachers.",
        costs="As offline distillation.",
        fails_when="The noise hides what the teacher knows.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        nodes = [
            Labels(),
            Network(name="teacher", module=role(cast, "teacher", self), learns=False),
            Network(name="student", module=role(cast, "student", self), learns=True),
            Noisy(name="noisy", of="teacher", noise=self.noise),
        ]
        edges = [
            Edge(source="noisy", target="student", objective=self.knowledge),
            Edge(source="labels", target="student", objective=TaskLoss(), weight=self.labels),
        ]
        return [Stage(name="noisy", graph=Graph(nodes=nodes, edges=edges), epochs=self.epochs, fit=self.fit)]
