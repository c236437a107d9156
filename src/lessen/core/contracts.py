"""The contracts that every objective and every operation keeps. `lessen.testing` holds them as laws."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.data import IGNORED, Batch, Inputs, TaskFacts, check_calibration
from lessen.core.errors import DataError
from lessen.core.seeds import derive
from lessen.core.training import Builds, Loss, ShortTraining, Trainer, constant, supplied
from lessen.core.tree import judged, name_of_judged, parts
from lessen.core.trials import Trials


class ObjectiveInput(enum.Enum):
    """What an objective needs of the batch in addition to the teacher's value."""

    LABELS = "labels"
    INDEX = "index"


@runtime_checkable
class Objective(Protocol):
    """The loss of an edge: `(student taps, teacher taps) -> one loss per example, shape (N,)`.

    It never averages, detaches, weighs itself, or knows a layer's name. Where an edge has several taps, a side is a
    tuple of values. An objective with state of its own is an `nn.Module` with the same call, made by a
    `LearnedObjective`; it changes its buffers in train mode only.

    An objective may also have

    - `relational = True`: its loss depends on the whole batch;
    - `alone = True`: it looks at the student alone; its edge has no source, and the teacher's value is None;
    - `needs = (ObjectiveInput.LABELS,)`: the teacher's side is then `(teacher taps, labels)`, and so on;
    - `during(progress) -> Objective`: it changes with the progress of the stage, from 0 to 1; a module that does
      remembers the progress and returns itself.
    """

    card: ClassVar[Card]

    def __call__(self, student: Any, teacher: Any, /) -> Tensor: ...


@runtime_checkable
class LearnedObjective(Protocol):
    """Settings of an objective that has state of its own: weights that learn with the edge, or a memory of examples."""

    card: ClassVar[Card]

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        """The objective for these shapes (examples along axis 0; tuples of shapes where there are several taps).

        Its weights are drawn from torch's global generator. They learn with the target of the edge, are kept in
        checkpoints, and are never part of the student.

        Raises:
            ShapeError: it cannot compare these; the text names both shapes.
        """


@runtime_checkable
class Bridge(Protocol):
    """Settings of a projector: a module that maps the student's tap so that it compares with the teacher's.

    Where an edge has several taps, one module is built for each pair of them; a bridge with `pairs = True` is built
    once for all instead, from tuples of shapes, and maps a tuple of values to another.
    """

    card: ClassVar[Card]

    def build(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
        """A module for these shapes (examples along axis 0), its weights drawn from torch's global generator.

        `nn.Identity()` if the shapes already agree.

        Raises:
            ShapeError: it cannot map one shape to the other; the text names both shapes.
        """


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long networks took.

    Args:
        milliseconds: Of each network; only their ratios are meaningful.
        note: Why the times are less reliable than usual, as text; None if there is no reason.
    """

    milliseconds: tuple[float, ...]
    note: str | None = None


@runtime_checkable
class Clock(Protocol):
    """How long networks take, for operations whose target is time."""

    def times(self, networks: Sequence[nn.Module], inputs: Inputs) -> Times:
        """The time of each network, all timed in turns, so that a slow moment of the machine affects all alike.

        Only the ratios within one call are meaningful. The networks are not changed.

        Raises:
            ExportError: a network cannot be written for the runtime that is timed.
        """

    def says(self) -> str:
        """What is timed, for people: the runtime, examples at a time, threads."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an operation may use. Calibration never contains examples of the test split.

    Args:
        inputs: A few example inputs, for tracing.
        calibration: Batches to collect statistics from; may be empty for operations that need no data.
        loss: `(outputs, labels) -> (N,)`, for scores that need gradients; None if there is none. Of networks with
            several outputs it is given the one that counts (see `output`); where none is named, all of them.
        clock: Measures the time of networks, for targets in time (`lessen.deploy.FileClock()`); None if there is none.
        device: Where to compute.
        seed: For all random choices of the operation.
        rehearsal: Whether this is a dry run, which only checks that the plan can be made: long training or searches may
            run for one step, with any result.
        output: The name of the output that counts, of networks with several; None: `logits`, or the only one.
        trainer: The loop that trains for the operation; None: that of the engine, in full precision.
        trials: Where a search keeps what it has found out; None: nowhere.
    """

    inputs: Inputs
    calibration: Sequence[Batch] = ()
    loss: Callable[[Any, Tensor], Tensor] | None = None
    clock: Clock | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    rehearsal: bool = False
    output: str | None = None
    trainer: Trainer | None = None
    trials: Trials | None = None

    def __post_init__(self) -> None:
        check_calibration(self.calibration, self.inputs)

    def train(
        self,
        subject: str,
        parameters: Mapping[str, nn.Parameter],
        loss: Loss,
        *,
        steps: int,
        optimizer: Builds,
        schedule: Callable[[float], float] = constant,
    ) -> None:
        """Minimise a loss over some parameters, in place, in the engine's training loop.

        Args:
            subject: What is trained, for errors: "the rounding of layer1.conv".
            parameters: What learns, by name.
            loss: Gives the loss of a step, a scalar; the step counts from 0.
            steps: How many steps.
            optimizer: Settings of the optimizer, as `Adam(rate=0.001)`.
            schedule: Factor on the learning rate at a progress from 0 to 1; constant if not given.

        Raises:
            DivergedError: the loss of a step is not finite.
            PlanError: no parameter learns, or the loss depends on none.
        """
        (self.trainer or supplied()).train(
            ShortTraining(
                subject=subject,
                parameters=parameters,
                loss=loss,
                steps=steps,
                optimizer=optimizer,
                schedule=schedule,
                device=self.device,
                seed=derive(self.seed, "train", subject),
            )
        )

    def judge(self, candidate: Any, loss: Callable[[], float]) -> float:
        """The loss of a candidate of a search; not computed again when an interrupted run has judged it.

        Args:
            candidate: JSON data that tells this candidate from others.
            loss: Computes the loss. It is deterministic.
        """
        if self.trials is None:
            return loss()
        # As text, because JSON has no infinity; `repr` keeps every bit.
        return float(self.trials.recall({"candidate": candidate}, lambda: repr(float(loss()))))

    def losses(self, outputs: Any, labels: Tensor) -> Tensor:
        """The loss of each example, shape (N,).

        Raises:
            DataError: there is no loss, or a label is not a class of these outputs.
        """
        if self.loss is None:
            raise DataError("This operation needs a loss, and the context has none. Give Context(loss=...).")
        outputs = self.judged(outputs)
        classes = isinstance(outputs, Tensor) and outputs.ndim == 2 and labels.ndim == 1
        if classes and not labels.is_floating_point():
            wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= outputs.shape[1])]
            if len(wrong):
                raise DataError(
                    f"A calibration batch has the label {int(wrong[0])}, but the network has {outputs.shape[1]} "
                    "classes, numbered from 0."
                )
        return self.loss(outputs, labels)

    def judged(self, outputs: Any) -> Any:
        """The output that counts; where several come and none is meant, all of them as they are.

        Raises:
            NetworkError: `output` names none of them.
        """
        if self.output is not None or name_of_judged(parts(outputs)) is not None:
            return judged(outputs, self.output)
        return outputs


@runtime_checkable
class Plan(Protocol):
    """What an operation decided, as data: a settings object that `encode` writes and `decode` reads back."""

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A new network with the plan applied; `model` is not changed.

        With `values=False` only the structure is made (shapes, module types, buffers), for loading saved tensors
        strictly into a freshly built network; expensive computations may then be skipped.

        Raises:
            PlanError: the plan does not belong to this network.
        """

    def describe(self) -> list[dict[str, Any]]:
        """One row for each edited module, for people: at least `module`, `edit`, `before`, `after` (strings)."""


@runtime_checkable
class Operation(Protocol):
    """Turns a network into a smaller one with the same inputs and outputs."""

    card: ClassVar[Card]

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Decide what to do, without doing it; `model` is not changed.

        Raises:
            PlanError: the target cannot be reached on this network; the text gives the nearest that can.
        """

    @classmethod
    def neutral(cls) -> Self:
        """The settings at which the function of the network is kept exactly."""
