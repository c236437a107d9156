"""A student that borrows its teacher's classifier, and learns to feed it.

Chen et al., Knowledge distillation with the reused teacher classifier, CVPR 2022, arXiv:2203.14001. Known as SimKD.

The projector and the classifier are part of the student: they are counted, exported, pruned and shipped with it.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from lessen.core.contracts import Bridge
from lessen.core.data import Inputs, call
from lessen.core.errors import NetworkError, ShapeError
from lessen.core.seeds import seeded
from lessen.knowledge import AutoBridge, Hint
from lessen.schemes.at import At
from lessen.surgery.copying import copy_network
from lessen.surgery.modules import get_module, set_module
from lessen.surgery.taps import Tap, capture

Place = str | tuple[str, str]
"""A path in both networks, or one in the student's and one in the teacher's."""


class Projected(nn.Module):
    """A projector, and a module that reads its output.

    Args:
        projector: From the student's features to the teacher's.
        then: What reads these.
    """

    def __init__(self, projector: nn.Module, then: nn.Module) -> None:
        super().__init__()
        self.projector = projector
        self.then = then

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.then(self.projector(features))
        return result


class Frozen(nn.Module):
    """A module that never learns, and is in eval mode whatever the network around it is in.

    Args:
        module: Changed in place.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Nothing: it stays in eval mode."""
        del mode
        return super().train(False)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.module(features)
        return result


def borrow_head(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Inputs,
    *,
    head: Place = "head",
    before: Place | None = None,
    bridge: Bridge | None = None,
    seed: int = 0,
) -> nn.Module:
    """The student up to a place, a projector, and from there on what both have, with the teacher's head at the end.

    Neither network is changed. Teach the result with `feature_lesson`, without labels:
    `offline(feature_lesson(before="pool"), labels=0)`.

    Args:
        student: Its own head is dropped.
        teacher: Its head is copied, and frozen.
        inputs: A few examples, to learn the shapes from.
        head: The classifier.
        before: The module in front of which features are projected, as a pooling; None: the head itself. Between this
            and the head, the student must do what the teacher does.
        bridge: How they are projected; None: `AutoBridge()`. The paper's is `BottleneckBridge()`, on maps.
        seed: For the initial weights of the projector.

    Raises:
        NetworkError: there is no such module; or the teacher's own features, put behind the projector, do not give
            the teacher's output exactly.
        ShapeError: the bridge cannot map the student's features to the teacher's.
    """
    heads, places = _both(head), _both(head if before is None else before)
    for network, path in zip((student, teacher), heads, strict=True):
        if not path:
            raise NetworkError("A head is a module of the network: give its path, as head='head'.")
        get_module(network, path)
    (features, _), (wanted, answer) = (_seen(n, p, inputs) for n, p in zip((student, teacher), places, strict=True))
    with seeded(seed, "projector"):
        projector = (bridge or AutoBridge()).build(tuple(features.shape), tuple(wanted.shape))
    made = copy_network(student)
    set_module(made, heads[0], Frozen(copy_network(get_module(teacher, heads[1]))))
    set_module(made, places[0], Projected(projector.train(student.training), get_module(made, places[0])))
    _prove(made, places[0], inputs, wanted, answer)
    return made


def feature_lesson(head: Place = "head", before: Place | None = None, **settings: Any) -> At:
    """What a student with a borrowed head learns: projected features equal to the teacher's.

    Args:
        head: As in `borrow_head`.
        before: As in `borrow_head`.
        settings: Of `At`, as `weight=10.0`; `objective` is by default a hint.
    """
    student, teacher = _both(head if before is None else before)
    pair = Tap(path=f"{student}.projector"), Tap(path=teacher, side="input")
    return At(tap=pair, **({"objective": Hint()} | settings))


def _both(place: Place) -> tuple[str, str]:
    return (place, place) if isinstance(place, str) else place


def _seen(network: nn.Module, path: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """What a module is given, and what the network answers, in eval mode."""
    get_module(network, path)
    tap = Tap(path=path, side="input")
    copied = copy_network(network).eval()
    with torch.no_grad(), capture(copied, [tap]) as seen:
        answer = call(copied, inputs)
    if not isinstance(seen[tap], Tensor):
        raise ShapeError(f"The input of module {path!r} is a {type(seen[tap]).__name__}, but one tensor was expected.")
    return seen[tap], answer


class _Instead(nn.Module):
    """Gives a fixed value."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, features: Tensor) -> Tensor:
        del features
        return self.value


def _prove(made: nn.Module, place: str, inputs: Inputs, wanted: Tensor, answer: Tensor) -> None:
    """With no error in the features, the answer is the teacher's."""
    trial = copy_network(made).eval()
    set_module(trial, f"{place}.projector", _Instead(wanted))
    try:
        with torch.no_grad():
            found = call(trial, inputs)
    except RuntimeError as error:
        raise NetworkError(
            f"The teacher's features of shape {tuple(wanted.shape)} do not fit the student from {place!r} on: "
            f"{error}. Place the projector nearer to the head."
        ) from error
    if found.shape != answer.shape or not torch.allclose(found, answer, rtol=1e-4, atol=1e-5):
        raise NetworkError(
            f"From {place!r} on, the student does not compute what the teacher does: for the teacher's features, "
            "its outputs differ. Place the projector nearer to the head, as with before=None."
        )
