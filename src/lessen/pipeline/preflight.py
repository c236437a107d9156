"""Everything that can be known to fail is found before anything long starts and before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lessen.core.contracts import Operation
from lessen.core.data import Data, Inputs
from lessen.core.errors import LessenError
from lessen.deploy import Deploy
from lessen.graph import validate
from lessen.measure.multiply_adds import count_multiply_adds
from lessen.pipeline.steps import Course, Step, cast_for, context_for, operate, title
from lessen.schemes import Scheme
from lessen.surgery.copying import copy_network
from lessen.zoo import check_classes


def preflight(
    teacher: nn.Module,
    student: nn.Module | None,
    data: Data,
    *,
    train: Sequence[Scheme] = (),
    steps: Sequence[Step],
    deploy: Deploy,
    calibration: int = 512,
    seed: int = 0,
) -> None:
    """Walk the steps on copies without training anything.

    Operations are planned and applied, with little calibration data and without searching or learning for long
    (`Context.rehearsal`); the graphs of schemes are validated on one batch of the network as it then is. `calibration`
    is how many examples operations may look at in the end.

    Raises:
        LessenError: the first thing that is wrong; the text names the step.
    """
    data.check()
    check_classes(teacher, data, what="The teacher")
    if student is not None:
        check_classes(student, data, what="The student")
    deploy.check()
    frozen = copy_network(teacher).eval()
    for number, scheme in enumerate(train, start=1):
        with _named(f"training {number} ({title(scheme)})"):
            _check_scheme(scheme, frozen, teacher, data)
    course = Course(copy_network(student if student is not None else teacher))
    here = torch.device("cpu")
    context = context_for(data, count=calibration, device=here, seed=seed, clock=_Guess(), rehearsal=True)
    for number, step in enumerate(steps, start=1):
        with _named(f"step {number} ({title(step)})"):
            if isinstance(step, Operation):
                course = operate(course, step, context, number)
            else:
                _check_scheme(step, frozen, course.network, data)


class _Guess:
    """A clock that takes no time: multiply-adds stand for milliseconds until the step itself is carried out."""

    def milliseconds(self, networks: Sequence[nn.Module], inputs: Inputs) -> list[float]:
        return [count_multiply_adds(network, inputs) / 1e6 for network in networks]

    def says(self) -> str:
        return "millions of multiply-adds, for now"


def _check_scheme(scheme: Scheme, teacher: nn.Module, student: nn.Module, data: Data) -> None:
    batch = data.train.fetch(torch.arange(min(4, len(data.train))))
    for stage in scheme.stages(cast_for(teacher, copy_network(student))):
        validate(stage, batch, augment=data.augment, task=data.task)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except LessenError as error:
        raise type(error)(f"In {where}: {error}") from error
