"""The regimes: what the student sees, who teaches it, where both can be tapped, and what is measured.

Shapes: N examples, C classes, D features.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, Data, settings
from lessen.core.files import read_tensors, write_tensors
from lessen.core.seeds import derive, generator
from lessen.data import FashionMNIST
from lessen.engine import run
from lessen.graph import Adam, Cosine, Fit
from lessen.measure import accuracy, agreement, calibration_error, evaluate, kl_to_teacher, nll
from lessen.measure.evaluate import Outputs
from lessen.schemes import Taps, supervised
from lessen.surgery.digest import digest
from lessen.surgery.taps import Tap, capture
from lessen.zoo import build

CACHE = Path.home() / ".cache" / "lessen" / "benchmarks" / "knowledge"
POOL = 20_000
"""Only so many of the training images are used by anyone: the teacher's, of which the students' are a part."""


@settings
class Network:
    """How a network is built, and trained where it is a teacher."""

    build: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    examples: int = POOL
    omit: tuple[int, ...] = ()
    steps: int = 1200
    batch: int = 128
    rate: float = 1e-3


@settings
class Regime:
    """What a student learns from, and how it is judged.

    Args:
        says: One line for the table.
        teacher: The name of a network.
        student: The name of a network.
        examples: How many images the student sees; None is all of the teacher's.
        labels: The weight of the labels beside whatever the teacher says; 0 hides them.
        soft: The weight of soft targets beside an objective on features; logits need no company.
        omit: Classes that the student never sees.
        patch: Whether a corner of each of the student's images tells its class.
        steps: Optimizer steps.
        batch: Examples of a step.
        rate: Of Adam, with a cosine.
        figure: What settings are chosen by on the validation split, and what is reported on the test split.
        also: A figure that is reported beside it.
        places: Where student and teacher are tapped, by what is found there.
        only: Which places are tried, beside the controls; none given, all are.
        choosing: The seeds that settings are chosen with; none of them is reported.
    """

    says: str
    teacher: str
    student: str
    examples: int | None = None
    labels: float = 1.0
    soft: float = 0.0
    omit: tuple[int, ...] = ()
    patch: bool = False
    steps: int = 600
    batch: int = 128
    rate: float = 2e-3
    figure: str = "accuracy"
    also: str | None = None
    places: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    only: tuple[str, ...] = ()
    choosing: tuple[int, ...] = (100, 101)

    @property
    def fit(self) -> Fit:
        """The last state counts: no look at any split chooses an epoch."""
        return fit(self.batch, self.rate)

    def taps(self, place: str) -> tuple[Any, Any]:
        """The taps of student and teacher at a place; a list is several taps, a mapping a tap in full."""
        student, teacher = self.places[place]
        return address(student), address(teacher)


def fit(batch: int, rate: float) -> Fit:
    return Fit(batch=batch, optimizer=Adam(rate=rate), schedule=Cosine(), validate_every=10**6, keep_best=False)


def address(place: Any) -> Any:
    if isinstance(place, list):
        return Taps(of=tuple(address(one) for one in place))
    return Tap(**place) if isinstance(place, dict) else place


@functools.cache
def images() -> Data:
    """Fashion-MNIST; of its training split only the first `POOL` images, in an order that mixes the classes."""
    found = FashionMNIST().load()
    return Data(
        train=ArrayExamples(found.train.inputs[:POOL], found.train.labels[:POOL]),
        validation=found.validation,
        test=found.test,
        classes=found.classes,
        name=found.name,
    )


def make(network: Network, seed: int) -> nn.Module:
    return build(network.build, seed=seed, **network.arguments)


def teacher(name: str, network: Network, seed: int = 0) -> nn.Module:
    """The trained teacher; trained once by the engine, then read from a cache that is named by its settings."""
    file = CACHE / f"{name}-{seed}-{hash_of(network):x}.safetensors"
    made = make(network, seed=seed)
    if file.is_file():
        made.load_state_dict(read_tensors(file))
    else:
        data = seen(examples=network.examples, omit=network.omit, labels=1.0, patch=False, seed=0)
        scheme = supervised(steps=network.steps, fit=fit(network.batch, network.rate))
        run(scheme.stages({"student": made}), data, seed=seed, device="cpu", progress=False)
        write_tensors(file, made.state_dict())
    return made.eval()


def hash_of(network: Network) -> int:
    return derive(0, repr(network))


def data_of(regime: Regime, seed: int) -> Data:
    """What the student sees under a seed; validation and test are the same for all."""
    return seen(examples=regime.examples, omit=regime.omit, labels=regime.labels, patch=regime.patch, seed=seed)


def seen(*, examples: int | None, omit: tuple[int, ...], labels: float, patch: bool, seed: int) -> Data:
    every = images()
    order = torch.randperm(POOL, generator=generator(seed, "subset"))[: examples or POOL]
    kept = order[~torch.isin(every.train.labels[order], torch.tensor(omit, dtype=torch.long))]
    inputs, true = every.train.inputs[kept], every.train.labels[kept]
    train = ArrayExamples(patched(inputs, true) if patch else inputs, true if labels else None)
    return Data(train=train, validation=every.validation, test=every.test, classes=every.classes, name=every.name)


def patched(images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    """A white square of 4 x 4 pixels at the upper or lower edge, at a place that tells the class."""
    marked = images_NCHW.clone()
    white = float(images_NCHW.max())
    for number, label in enumerate(labels_N.tolist()):
        row, column = (0, 24)[label // 5], 6 * (label % 5)
        marked[number, :, row : row + 4, column : column + 4] = white
    return marked


# What is measured


def figures(regime: Regime, student: nn.Module, taught: Mapping[str, Outputs], split: str) -> dict[str, float]:
    """All figures of a student on a split. `taught` holds what the teacher says of each split."""
    examples = getattr(images(), split)
    said, teacher_said = evaluate(student, examples, batch_size=1000), taught[split]
    truth = examples.labels
    found = {
        "accuracy": accuracy(said.values, truth).value,
        "agreement": agreement(said.values, teacher_said.values).value,
        "nll": nll(said.values, truth).value,
        "kl_to_teacher": kl_to_teacher(said.values, teacher_said.values).value,
        "calibration_error": calibration_error(said.values, truth, draws=10).value,
    }
    if regime.omit and "embedding" not in regime.places:
        found["recall_of_omitted"] = recall(said.values, truth, regime.omit)
        bias = best_bias(evaluate(student, images().validation, batch_size=1000), regime.omit)
        corrected = said.values.clone()
        corrected[:, list(regime.omit)] += bias
        found["recall_after_bias"] = recall(corrected, truth, regime.omit)
        found["accuracy_after_bias"] = accuracy(corrected, truth).value
    if "embedding" in regime.places:
        found["recall_at_1"] = recall_at_1(student, address(regime.places["embedding"][0]), examples, regime.omit)
    return found


def recall(logits_NC: Tensor, labels_N: Tensor, classes: tuple[int, ...]) -> float:
    """Of the examples of these classes, how many are found, in percent."""
    of = torch.isin(labels_N, torch.tensor(classes))
    return float((logits_NC.argmax(1)[of] == labels_N[of]).float().mean()) * 100


def best_bias(said: Outputs, classes: tuple[int, ...]) -> float:
    """What to add to the logits of the omitted classes: the best on the validation split, of 101 from 0 to 10."""
    best = (-1.0, 0.0)
    for bias in torch.linspace(0, 10, 101).tolist():
        logits = said.values.clone()
        logits[:, list(classes)] += bias
        best = max(best, (accuracy(logits, said.labels).value, -bias))
    return -best[1]


def recall_at_1(network: nn.Module, tap: str | Tap, examples: ArrayExamples, classes: tuple[int, ...]) -> float:
    """For the images of these classes, whether the nearest other image of the split is of the same class, percent.

    All classes of the split are candidates; nearness is the cosine of the embeddings.
    """
    where = tap if isinstance(tap, Tap) else Tap(path=tap)
    with torch.no_grad(), capture(network.eval(), [where]) as found:
        network(examples.inputs)
    unit_ND = F.normalize(found[where].flatten(1), dim=1)
    asked = torch.isin(examples.labels, torch.tensor(classes)).nonzero().flatten()
    near_QN = unit_ND[asked] @ unit_ND.T
    near_QN[torch.arange(len(asked)), asked] = -torch.inf
    return float((examples.labels[near_QN.argmax(1)] == examples.labels[asked]).float().mean()) * 100


def what_it_says(network: nn.Module) -> dict[str, Outputs]:
    """The teacher's outputs on the splits that are measured."""
    return {split: evaluate(network, getattr(images(), split), batch_size=1000) for split in ("validation", "test")}


def mark(network: nn.Module) -> str:
    return digest(network)[:16]
