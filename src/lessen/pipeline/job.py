"""A run as settings: what is made smaller, with what, in which steps; and what makes two of them the same run."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lessen.core.data import Data, examples_digest
from lessen.core.errors import RunError, SettingError, did_you_mean
from lessen.core.identity import differences, identify
from lessen.core.machine import versions
from lessen.core.others import allow
from lessen.core.settings import encode, made_of
from lessen.data import load as load_data
from lessen.deploy import Deploy
from lessen.engine.home import as_device
from lessen.engine.step_done import check_on_step
from lessen.engine.track import as_trackers
from lessen.measure.task import guessed
from lessen.pipeline.folder import RESTORE, RunFolder, State, as_recipe, listed
from lessen.pipeline.measuring import Measuring
from lessen.pipeline.networks import freeze, frozen_names, own_copy
from lessen.pipeline.roles import Roles
from lessen.pipeline.steps import Step, check_steps, describe_network, encode_steps
from lessen.pipeline.targets import Targets
from lessen.schemes import Scheme
from lessen.surgery.digest import digest
from lessen.tasks.judged import judged
from lessen.zoo import builds_in

T = TypeVar("T")
_NOT_PLAIN = {"teacher", "student", "data", "progress", "device", "keep_state", "task", "metric", "track", "on_step"}


@dataclass(kw_only=True)
class Job:
    """What `compress` and `resume` are called with, checked. The networks are copies that belong to the run.

    Args:
        teacher: The network that is made smaller, and that teaches.
        data: What to learn from and to report on; anything that `lessen.data.load` takes.
        steps: Operations and schemes, in order.
        student: Another network to start from.
        train: Schemes that train the teacher first.
        targets: The budget.
        deploy: Which files are made.
        measuring: How the network is measured after every step.
        seed: Of everything that is drawn.
        progress: Whether to show progress bars. Two equal runs need not share it, nor the device.
        device: Where to train; None: what accelerate finds.
        keep_state: Whether a finished run keeps checkpoints and caches of training, and the networks between the steps.
        output: Which output of a network with several is compared with labels and teacher; None: as the data says.
        task: The task, or its name; None: guessed.
        metric: What networks are judged by first, with its direction; None: the first metric of the task.
        track: What gets the log as well; two equal runs need not share it, nor `on_step`.
        on_step: Called after every step of every training.

    Raises:
        LessenError: bad input.
    """

    teacher: nn.Module
    data: Data
    steps: tuple[Step, ...]
    student: nn.Module | None = None
    train: tuple[Scheme, ...] = ()
    targets: Targets = field(default_factory=Targets)
    deploy: Deploy = field(default_factory=Deploy)
    measuring: Measuring = field(default_factory=Measuring)
    seed: int = 0
    progress: bool = True
    device: str | None = None
    keep_state: bool = False
    output: str | None = None
    task: Any = None
    metric: Any = None
    track: Any = ()
    on_step: Any = None

    def __post_init__(self) -> None:
        given: Any = self.data, self.teacher
        if [isinstance(one, nn.Module) for one in given] == [True, False]:
            raise SettingError("The network and the data are in the wrong order: write compress(network, data, ...).")
        self.teacher = own_copy(self.teacher, what="The network" if self.student is None else "The teacher")
        self.student = None if self.student is None else own_copy(self.student, what="The student")
        as_device(self.device)
        self.track = as_trackers(self.track)
        check_on_step(self.on_step)
        self.data = load_data(self.data)
        if self.output is not None:
            self.data = replace(self.data, output=self.output)
        self.steps = check_steps(self.steps)
        self.train = check_steps(self.train, name="training", kinds=Scheme)
        for step in (*self.steps, *self.train):
            allow(step.scheme if isinstance(step, Roles) else step)
        for name, kind in (("targets", Targets), ("deploy", Deploy), ("measuring", Measuring)):
            setattr(self, name, _settled(getattr(self, name), kind, name))
        self.seed = _whole(self.seed)
        self.reason = self._settle_task()

    def _settle_task(self) -> str:
        """Settle the task, and return what it is and why, for people."""
        found = guessed(
            self.data, self.origin, task=self.task, what="The network" if self.student is None else "The student"
        )
        task = judged(found.task, self.metric)
        self.data = replace(self.data, task=task)
        self.targets.check(task, labels=self.data.train.fetch(torch.arange(1)).labels is not None)
        return str(found)

    @classmethod
    def of(cls, **arguments: Any) -> Job:
        """A job from the arguments of `compress`; None means the default.

        Raises:
            SettingError: an argument is unknown or missing.
        """
        known = [one.name for one in fields(cls)]
        for name in arguments:
            if name not in known:
                raise SettingError(f"A run has no argument {name!r}: {did_you_mean(name, known)}")
        missing = [name for name in ("teacher", "data", "steps") if arguments.get(name) is None]
        if missing:
            raise SettingError(f"A run needs {', '.join(f'{name}=' for name in missing)}, as lessen.compress does.")
        return cls(**{name: value for name, value in arguments.items() if value is not None})

    @property
    def origin(self) -> nn.Module:
        """The network that is made smaller: the student where there is one, or the teacher."""
        return self.teacher if self.student is None else self.student

    def networks(self) -> dict[str, nn.Module]:
        """The networks that were given, by their name in messages."""
        return {"teacher": self.teacher, **({} if self.student is None else {"student": self.student})}

    def identity(self) -> dict[str, Any]:
        """What makes this run what it is, as JSON data: all that two equal runs share.

        The weights of the networks, and which of them are frozen, are not in it: the run keeps these itself.
        """
        told = {}
        for name, network in self.networks().items():
            names = frozen_names(network)
            told[name] = identify(freeze(network, ()), moving=[network])
            freeze(network, names)
        plain = [one.name for one in fields(self) if one.name not in _NOT_PLAIN]
        weights = [one.weights for one in builds_in((self.steps, self.train)) if one.weights is not None]
        if weights:
            told["weights of roles"] = {str(path): _content(path) for path in weights}
        return {
            **told,
            **{name: identify(getattr(self, name)) for name in plain},
            "data": identity_of_data(self.data),
            "versions": _versions(),
        }

    def check_same(self, state: State, folder: RunFolder) -> None:
        """Whether a run was started as this one, and has come as far as it says.

        Raises:
            RunError: it was not; the text names what differs, as it was and as it is now.
        """
        found = self.identity()
        differs = list(differences(state.job, found))
        if differs:
            raise RunError(
                f"{folder.path} was started with other settings, and a run can only continue unchanged. Before and "
                f"now: {listed(differs)}. Give the original settings, or start another run."
            )
        last, networks = len(self.steps), self.networks().keys()
        too_far = state.completed > last or (state.finished and state.completed != last)
        if too_far or state.given.keys() != networks or state.frozen.keys() != networks:
            raise RunError(
                f"{folder.state} is damaged: it says that {state.completed} of {last} steps are done, with "
                f"{', '.join(state.given) or 'no'} weights. {RESTORE}"
            )

    def recipe(self) -> dict[str, Any]:
        """The recipe of a run that was started from Python, as far as it can be said."""
        return {
            "network": describe_network(self.teacher),
            "student": None if self.student is None else describe_network(self.student),
            "data": {"name": self.data.name, **{name: identify(value) for name, value in self.data.about.items()}},
            "task": getattr(self.data.task, "name", None),
            "train": encode_steps(self.train),
            "steps": encode_steps(self.steps),
            "targets": encode(self.targets),
            "deploy": encode(self.deploy),
            "measuring": encode(self.measuring),
            "seed": self.seed,
            "output": self.output,
        }

    def state(self, asked: Mapping[str, Any] | None) -> State:
        """The state of this run before it has done anything.

        Args:
            asked: The recipe that it comes from; None: written from the arguments.
        """
        return State.new(
            job=self.identity(),
            asked=as_recipe(asked if asked is not None else self.recipe()),
            given={name: digest(network) for name, network in self.networks().items()},
            frozen={name: frozen_names(network) for name, network in self.networks().items()},
        )


def _settled(value: Any, kind: type[T], name: str) -> T:
    """Settings of one kind; a mapping is that of their fields.

    Raises:
        SettingError: it is something else.
    """
    found = kind(**value) if isinstance(value, Mapping) else made_of(value)
    if not isinstance(found, kind):
        raise SettingError(f"{name} is a {type(found).__name__}; {kind.__name__}(...) was expected.")
    return found


def _content(path: Path) -> str:
    """The digest of a file with weights; "missing" where there is none, which is an error when it is read."""
    if not path.is_file():
        return "missing"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _whole(seed: Any) -> int:
    try:
        return operator.index(int(seed) if isinstance(seed, str) else seed)
    except (TypeError, ValueError):
        raise SettingError(f"seed is {seed!r}; a whole number was expected.") from None


def identity_of_data(data: Data) -> dict[str, Any]:
    """What tells one set of data from another, as JSON data.

    The name, the classes, the view of training batches, the task and the output that is judged, and for each split how
    many examples it has and a digest of them; what that covers is said at `examples_digest`.
    """
    splits = {
        name: {"examples": len(examples), "digest": examples_digest(examples)}
        for name, examples in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    return {
        "name": data.name,
        "classes": identify(data.classes),
        "augment": identify(data.augment),
        "task": identify(data.task),
        "output": identify(data.output),
        **splits,
    }


def _versions() -> dict[str, str]:
    """What the numbers depend on; and Python, by whose byte code functions are told apart."""
    found = versions()
    major, minor, _ = found["python"].split(".", 2)
    return {"python": f"{major}.{minor}", "torch": found["torch"], "lessen": found.get("lessen", "not installed")}
