"""Everything that can be known to fail is found before anything long starts and before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lessen.core.contracts import Operation, Times
from lessen.core.data import Data, Inputs
from lessen.core.errors import LessenError, SettingError
from lessen.core.seeds import derive, seeded
from lessen.engine.batching import batch_size
from lessen.graph import Stage, validate
from lessen.graph.flow import Flow
from lessen.measure.multiply_adds import count_multiply_adds
from lessen.measure.task import returns_probabilities
from lessen.pipeline.job import Job
from lessen.pipeline.roles import Roles
from lessen.pipeline.steps import Course, context_for, operate, stages_of, title
from lessen.schemes import Scheme
from lessen.surgery.copying import copy_network
from lessen.zoo import check_classes


def preflight(job: Job) -> None:
    """Walk the steps on copies without training anything.

    Operations are planned and applied, with little calibration data and without searching or learning for long
    (`Context.rehearsal`), and what they make is looked at; the graphs of schemes are validated on one batch of the
    network as it then is.

    Raises:
        LessenError: the first thing that is wrong; the text names the step.
    """
    data = job.data
    data.check()
    for name, network in job.networks().items():
        name = "network" if job.student is None else name
        check_classes(network, data, what=f"The {name}")
        if _trains(job) and (said := returns_probabilities(data, network)) is not None:
            warnings.warn(f"The {name} {said}", UserWarning, stacklevel=2)
    job.deploy.check()
    teacher = copy_network(job.teacher).eval()
    for number, scheme in enumerate(job.train, start=1):
        with _named(f"training {number} ({title(scheme)})"):
            _check_scheme(scheme, teacher, teacher, data, derive(job.seed, "train", number - 1))
    course = Course(copy_network(job.origin).eval())
    teacher.requires_grad_(False)
    context = context_for(
        data,
        count=job.measuring.calibration,
        device=torch.device("cpu"),
        seed=job.seed,
        clock=_Guess(),
        rehearsal=True,
    )
    for number, step in enumerate(job.steps, start=1):
        with _named(f"step {number} ({title(step)})"):
            if isinstance(step, Operation):
                course = operate(course, step, context, number)
                check_classes(course.network, data, what="The network that it makes")
            else:
                _check_scheme(step, teacher, course.network, data, derive(job.seed, "step", number))


def _trains(job: Job) -> bool:
    return bool(job.train) or any(isinstance(step, Scheme) for step in job.steps)


class _Guess:
    """A clock that takes no time: it counts multiply-adds instead of milliseconds until the step itself is run."""

    def times(self, networks: Sequence[nn.Module], inputs: Inputs) -> Times:
        return Times(milliseconds=tuple(count_multiply_adds(network, inputs) / 1e6 for network in networks))

    def says(self) -> str:
        return "millions of multiply-adds, for now"


def _check_scheme(scheme: Scheme, teacher: nn.Module, student: nn.Module, data: Data, seed: int) -> None:
    batch = data.train.fetch(torch.arange(min(4, len(data.train))))
    stages = stages_of(scheme, teacher, copy_network(student), seed=seed)
    if isinstance(scheme, Roles):
        for node in {node.name: node for stage in stages for node in stage.graph.nodes}.values():
            if node.network is not None and node.network is not teacher and node.takes_batch:
                check_classes(node.network, data, what=f"The network of {node.name!r}")
    for stage in stages:
        validate(stage, batch, augment=data.augment, task=data.facts)
        if batch_size(stage.fit, len(data.train)) == stage.fit.accumulate:
            _check_alone(stage, data)


def _check_alone(stage: Stage, data: Data) -> None:
    """Whether networks in training mode run on one example, where that is all that they will see at a time."""
    batch = data.train.fetch(torch.arange(1))
    flow = Flow(stage, batch, augment=data.augment, task=data.facts)
    try:
        flow.set_mode(training=True)
        with seeded(0, "alone"), torch.no_grad():
            flow(batch, 0.0)
    except ValueError as error:  # of batch norm
        raise SettingError(
            f"Fit: stage {stage.name!r} computes one example at a time, and its networks cannot train on that: "
            f"{error}. Increase the batch, or accumulate over fewer parts."
        ) from error
    finally:
        flow.close()


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except LessenError as error:
        raise type(error)(f"In {where}: {error}") from error
