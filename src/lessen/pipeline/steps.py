"""One network on its way through the steps: what each step does to it, and how it comes back after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.contracts import Clock, Context, Operation, Plan
from lessen.core.data import Data
from lessen.core.errors import SettingError
from lessen.core.seeds import derive
from lessen.core.settings import encode, made_of
from lessen.core.trials import Trials
from lessen.engine import EngineTrainer
from lessen.engine.trials import KeptClock
from lessen.graph import Stage
from lessen.knowledge import CrossEntropy, Regression, TaskLoss
from lessen.operations.prune_weights import PrunedWeights, masks_of
from lessen.pipeline.folder import Kept
from lessen.pipeline.networks import carry_frozen, freeze
from lessen.pipeline.plans import check_keeps, decode_plans, follow
from lessen.pipeline.roles import Roles
from lessen.schemes import Scheme
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.stored import said_anew
from lessen.surgery.plain import folded_rows, pytorch_masks
from lessen.zoo import load_tensors

Step = Operation | Scheme


@dataclass
class Course:
    """The network now, and what has been done to it.

    Args:
        network: The network as it is.
        plans: What operations did, in order; following them on a fresh network gives this structure.
        rows: What was done to each layer, for people.
    """

    network: nn.Module
    plans: list[Plan] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def title(step: Step) -> str:
    """What a step is called: the name of its class, or of that of the scheme to which it gives roles."""
    return type(step.scheme if isinstance(step, Roles) else step).__name__


def check_steps(steps: Any, *, name: str = "step", kinds: Any = Operation | Scheme) -> tuple[Any, ...]:
    """The steps, each an operation or a scheme. A single one is a list of one, and a class is its object.

    Args:
        steps: What was given.
        name: What to call one of them.
        kinds: What they may be.

    Raises:
        SettingError: a step is neither; the text says what it is.
    """
    if isinstance(steps, str | type | Operation | Scheme) or not isinstance(steps, Iterable):
        steps = (steps,)
    found = []
    for number, given in enumerate(steps, start=1):
        step = made_of(given)
        if isinstance(step, type):
            raise SettingError(
                f"{name.capitalize()} {number} is the class {step.__name__}; give an object, as {step.__name__}()."
            )
        if not isinstance(step, kinds):
            what = f"the text {step!r}" if isinstance(step, str) else f"a {type(step).__name__}"
            right = (
                "a scheme (with stages)" if kinds is Scheme else "an operation (with plan) or a scheme (with stages)"
            )
            raise SettingError(
                f"{name.capitalize()} {number} is {what}. It must be {right}, as PruneChannels(keep=0.5) or "
                "offline(SoftTargets()); `lessen methods` lists them."
            )
        found.append(step)
    return tuple(found)


BATCH, FEW = 64, 32
"""Calibration examples in a batch, and how many a rehearsal looks at."""


def context_for(
    data: Data,
    *,
    count: int,
    device: torch.device,
    seed: int,
    clock: Clock | None = None,
    rehearsal: bool = False,
    trials: Trials | None = None,
) -> Context:
    """What operations may look at: training examples only.

    Args:
        data: The task.
        count: How many examples to calibrate with.
        device: Where to compute.
        seed: Chooses the examples.
        clock: What times networks, for targets in time.
        rehearsal: With a few examples only: in several batches if there will be several.
        trials: Where a search, and the clock, keep what they have found out.
    """
    batch = BATCH
    if rehearsal:
        batch = FEW // 2 if min(count, len(data.train)) > BATCH else FEW
        count = min(count, FEW)
    return Context(
        inputs=data.example(2),
        calibration=data.calibration(count, batch=batch, seed=seed),
        loss=loss_for(data),
        clock=clock if clock is None or trials is None else KeptClock(clock, trials),
        device=device,
        seed=derive(seed, "operations"),
        rehearsal=rehearsal,
        output=data.output,
        trainer=EngineTrainer(),
        trials=trials,
    )


def loss_for(data: Data) -> Callable[[Any, Tensor], Tensor]:
    """What the labels ask for: the loss of the task."""
    if data.task is None:
        return CrossEntropy() if data.classes is not None else Regression()
    loss: Callable[[Any, Tensor], Tensor] = TaskLoss().loss_of(data.task)
    return loss


def operate(course: Course, operation: Operation, context: Context, number: int) -> Course:
    """Plan and apply one operation. Masks of PyTorch that the network came with become masks of the run first."""
    folded = folded_rows(course.network)
    masks = PrunedWeights.of(pytorch_masks(course.network))
    if masks.masks:
        row = {"step": number, "operation": "torch.nn.utils.prune", "rows": masks.describe()}
        network = carry_frozen(course.network, masks.apply(course.network))
        course = Course(network, [*course.plans, masks], [*course.rows, row])
    plan = operation.plan(course.network, context)
    network = carry_frozen(course.network, plan.apply(course.network))
    check_keeps(plan, course.network, network, context.inputs)
    by = f"step {number}, {title(operation)}"
    before = [{**row, "rows": said_anew(row["rows"], network, by=by)} for row in course.rows]
    row = {"step": number, "operation": title(operation), "rows": [*folded, *plan.describe()]}
    return Course(network, [*course.plans, plan], [*before, row])


def with_masks(course: Course, before: PrunedWeights, step: Step, number: int) -> Course:
    """The course with a plan for the masks that training has moved, if it has; masks are in no state.

    Args:
        course: After the training.
        before: The masks before it.
        step: The scheme that trained.
        number: Of the step.
    """
    plan = masks_of(course.network)
    if plan == before:
        return course
    row = {"step": number, "operation": title(step), "rows": plan.describe()}
    return Course(course.network, [*course.plans, plan], [*course.rows, row])


def cast_for(teacher: nn.Module, student: nn.Module) -> Mapping[str, Any]:
    """The roles of a pipeline: the original network teaches, the one that is made smaller learns."""
    return {"teacher": teacher, "student": student, "teachers": [teacher], "students": [student]}


def stages_of(scheme: Scheme, teacher: nn.Module, student: nn.Module, *, seed: int) -> list[Stage]:
    """The stages of a step, in which its networks take part.

    Args:
        scheme: The step.
        teacher: The original network.
        student: The network as it is; it learns in place.
        seed: From which the weights of further networks are drawn.

    Raises:
        LessenError: a role is missing, or its network cannot be had.
    """
    cast = cast_for(teacher, student)
    return scheme.played(scheme.cast(cast, seed=seed)) if isinstance(scheme, Roles) else scheme.stages(cast)


def restore(origin: nn.Module, tensors: Mapping[str, Tensor], kept: Kept) -> Course:
    """The course after a step that was completed before an interruption.

    Args:
        origin: The network that the steps began with; it is not changed.
        tensors: The state of the network after the step.
        kept: What was kept of it.
    """
    made = decode_plans(kept.plans)
    network = follow(copy_network(origin), made, "the run")
    return Course(freeze(load_tensors(network, tensors, source="the run"), kept.frozen), made, kept.layers)


def describe_network(network: nn.Module, path: Path | None = None) -> dict[str, Any]:
    """How a network that came as an object is named in a recipe: by its class."""
    kind = type(network)
    named = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    return named if path is None else {**named, "weights": str(path)}


def encode_steps(steps: Sequence[Step]) -> list[Any]:
    """The steps as data for the recipe; an object that is no settings object is written as its repr."""
    rows = []
    for step in steps:
        try:
            rows.append(encode(step))
        except SettingError:
            rows.append({"python": repr(step)})
    return rows
