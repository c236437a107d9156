"""Any objective on any edge: all of the catalogue, in three schemes, on every network that has its taps.

Each pairing makes two optimizer steps: once without interruption, and once with a stop between the two, as a kill would
leave it, and a resume in networks that were built anew. Everything that learned is equal at the end, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lessen import knowledge
from lessen.core import ArrayExamples, Batch, Card, Data, ObjectiveInput
from lessen.core.data import IGNORED
from lessen.core.errors import DataError, LessenError, SettingError, ShapeError
from lessen.core.files import read_lines
from lessen.engine import Course, keeping
from lessen.engine.training import Training
from lessen.graph import Branch, Constant, Edge, Fit, Flow, Graph, Labels, MovingAverage, OnPolicy, Stage, validate
from lessen.graph.edge import edge_names
from lessen.knowledge import (
    AnnealedTemperature,
    AsNamed,
    AttentionTransfer,
    AutoBridge,
    ClassesInGroups,
    CostMatrix,
    CrossEntropy,
    Hint,
    LogitMatching,
    NeuronSelectivity,
    NormalizedHint,
    OverLayers,
    OverTokens,
    RelationalDistance,
    SoftTargets,
    Transformed,
    Wasserstein,
)
from lessen.recipe import methods
from lessen.schemes import Mutual, Offline, Scheme, SelfBranches, SelfSnapshot, Tap, Taps, at, taps
from lessen.testing.schemes import same
from lessen.zoo import language_model, mlp, residual, transformer

State = dict[str, Tensor]

# Networks and data. Of two networks one is wider, so that shapes differ and bridges have something to do.

CLASSES, WORDS, LENGTH = 4, 6, 6
NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "cnn": lambda width, classes: residual(width=width, depth=8, classes=classes),
    "vit": lambda width, classes: transformer(image=8, patch=4, dim=4 * width, depth=2, heads=4, classes=classes),
    "mlp": lambda width, classes: mlp(inputs=64, hidden=(4 * width, 4 * width), classes=classes),
    "words": lambda width, words: language_model(
        vocabulary=words, length=LENGTH, dim=4 * width, depth=2, heads=4, ratio=2.0
    ),
}
EXITS = {"cnn": "layer2", "vit": "blocks.0", "mlp": "activation1"}
SCHEMES = ("offline", "mutual", "self")


@functools.cache
def drawn(kind: str, width: int, classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return NETWORKS[kind](width, classes)


@functools.cache
def data(kind: str, *, numbers: bool) -> Data:
    """16 examples to learn from: images with classes or numbers, or words, the first two of them given."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 1, 8, 8, generator=random), torch.randint(CLASSES, (24,), generator=random)
    if numbers:
        y = torch.randn(24, generator=random)
    if kind == "words":
        x = torch.randint(WORDS, (24, LENGTH), generator=random)
        y = x.masked_fill(torch.arange(LENGTH) < 2, IGNORED)
    train, other = ArrayExamples(x[:16], y[:16]), ArrayExamples(x[16:], y[16:])
    names = None if numbers or kind == "words" else tuple("abcd")
    return Data(train=train, validation=other, test=other, classes=names, name=kind)


# Where objectives are taken.

Where = str | Tap | Taps | tuple[str | Tap | Taps, str | Tap | Taps]


@dataclass(frozen=True)
class Missing:
    """What a network does not have: the nearest that it has, where the objective must be refused, and why."""

    nearest: Where
    why: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an objective is taken on each network: the student's tap, or the student's and the teacher's.

    Args:
        cnn: Of `residual`.
        vit: Of `transformer`.
        mlp: Of `mlp`.
        words: Of `language_model`; None: the objective is not for sequences.
        bridge: On the edge.
        from_labels: Whether the labels are the source.
        numbers: Whether the labels are numbers, not classes.
    """

    cnn: Where | Missing
    vit: Where | Missing
    mlp: Where | Missing
    words: Where | Missing | None = None
    bridge: Any = None
    from_labels: bool = False
    numbers: bool = False


POOLED = Tap(path="head", side="input")
TOKENS, VECTOR = "tokens are no grid", "a vector has no positions"
HIDDEN = taps("activation1", "activation2")
QUERY, KEY, VALUE = (f"blocks.1.attention.{part}" for part in ("query", "key", "value"))

OUTPUTS = Place(cnn="", vit="", mlp="", words="")
SEQUENCES = Place(**dict.fromkeys(("cnn", "vit", "mlp"), Missing("", "one output is no sequence")), words="")
FEATURES = Place(cnn="layer3", vit="blocks.1", mlp="activation2", bridge=AutoBridge(), words="blocks.1")
BEFORE = dataclasses.replace(
    FEATURES, cnn=Tap(path="layer3.0.activation2", side="input"), vit="blocks.1.expand", mlp="layer2"
)
POSITIONS = dataclasses.replace(FEATURES, mlp=Missing("activation2", VECTOR))
GRIDS = dataclasses.replace(POSITIONS, vit=Missing("blocks.1", TOKENS), words=Missing("blocks.1", TOKENS))
INSIDE = Place(cnn=("layer2", ""), vit=("blocks.0", ""), mlp=("activation1", ""), bridge=AutoBridge())
VECTORS = Place(cnn="flatten", vit=POOLED, mlp="activation2")
TWO_ENDS = Place(cnn=taps("flatten", ""), vit=taps(POOLED, ""), mlp=taps("activation2", ""))
THREE = Place(
    cnn=taps("activation", "layer1", ""),
    vit=taps("blocks.0", "blocks.1", ""),
    mlp=taps("activation1", "activation2", ""),
)
LAYERS = Place(cnn=taps("layer1", "layer2"), vit=taps("blocks.0", "blocks.1"), mlp=HIDDEN)
LAYERS_WITH_POSITIONS = dataclasses.replace(LAYERS, mlp=Missing(HIDDEN, VECTOR), bridge=AutoBridge())


def unbridged(place: Place) -> Place:
    """For objectives that do not mind how wide the two sides are."""
    return dataclasses.replace(place, bridge=None)


def attention(*parts: str) -> Place:
    """The projections of a transformer."""
    none = "no layer projects to queries and keys"
    cnn = taps("layer1", "layer2", "layer3")
    return Place(cnn=Missing(cnn, none), vit=taps(*parts), mlp=Missing(HIDDEN, none), words=taps(*parts))


ROWS: Mapping[str, Place] = {
    "logits": OUTPUTS,
    "soft targets": OUTPUTS,
    "direct features": FEATURES,
    "indirect features": POSITIONS,
    "between layers": LAYERS_WITH_POSITIONS,
    "layer pairing": LAYERS,
    "between examples": VECTORS,
    "labels": dataclasses.replace(OUTPUTS, from_labels=True),
    "sequences": SEQUENCES,
}
"""The places of objectives, by the row of their card."""

OWN: Mapping[str, Place] = {
    "ActivationBoundary": BEFORE,
    "AttentionRelations": attention(QUERY, KEY, VALUE),
    "AttentionScores": attention(QUERY, KEY),
    "AttentionTransfer": unbridged(POSITIONS),
    "CurriculumTemperature": dataclasses.replace(
        OUTPUTS, words=Missing("", "objectives with weights are not for tokens")
    ),
    "FactorTransfer": unbridged(GRIDS),
    "HierarchicalContext": GRIDS,
    "HolisticKnowledge": TWO_ENDS,
    "InstanceRelationshipGraph": THREE,
    "MaskedGeneration": GRIDS,
    "NeuronSelectivity": unbridged(POSITIONS),
    "NormAndDirection": dataclasses.replace(FEATURES, words=Missing("blocks.1", "sequences have no classes")),
    "OneForAll": INSIDE,
    "Overhaul": BEFORE,
    "Regression": dataclasses.replace(OUTPUTS, words=None, from_labels=True, numbers=True),
    "SelfRelations": attention(QUERY, KEY, VALUE),
    "ZipfLabels": dataclasses.replace(TWO_ENDS, from_labels=True),
}
"""The places of objectives that differ from the others of their row."""

# What is no objective but a part of one is tried in an objective that takes it; the costs of a file in its divergence.
PARTS: Mapping[str, tuple[Callable[[Any], Any], Place]] = {
    "distances": (lambda part: Hint(distance=part), FEATURES),
    "divergences": (lambda part: SoftTargets(divergence=part), OUTPUTS),
    "kernels": (lambda part: NeuronSelectivity(kernel=part), unbridged(POSITIONS)),
    "normalizers": (lambda part: NormalizedHint(student=part, teacher=part), FEATURES),
    "pairings": (lambda part: OverLayers(pairing=part), LAYERS),
    "transforms": (lambda part: Transformed(transform=part), OUTPUTS),
    "wasserstein": (lambda part: SoftTargets(divergence=Wasserstein(cost=part)), OUTPUTS),
}
OWN_PARTS: Mapping[str, Any] = {
    "AnnealedTemperature": SoftTargets(temperature=AnnealedTemperature()),
    "ClassesInGroups": SoftTargets(divergence=Wasserstein(cost=ClassesInGroups(groups=(0, 0, 1, 1)))),
    "CostMatrix": SoftTargets(
        divergence=Wasserstein(cost=CostMatrix(rows=tuple(tuple(float(a != b) for b in range(4)) for a in range(4))))
    ),
}

# Each bridge where shapes differ in what it bridges.
BRIDGES: Mapping[str, tuple[Any, Place]] = {
    "AttentionPoolBridge": (
        RelationalDistance(),
        Place(cnn=("layer3", "flatten"), vit=("blocks.1", POOLED), mlp=Missing("activation2", VECTOR)),
    ),
    "AutoBridge": (Hint(), FEATURES),
    "BottleneckBridge": (Hint(), GRIDS),
    "ChannelBridge": (Hint(), GRIDS),
    "FusionBridge": (
        OverLayers(pairing=AsNamed(), bridge=None),
        dataclasses.replace(LAYERS, vit=Missing(taps("blocks.0", "blocks.1"), TOKENS)),
    ),
    "OrthogonalBridge": (Hint(), FEATURES),
    "PoolBridge": (
        RelationalDistance(),
        Place(cnn=("layer3", "flatten"), vit=("blocks.1", POOLED), mlp=Missing("activation2", VECTOR)),
    ),
    "ResolutionBridge": (
        AttentionTransfer(),
        Place(cnn=("layer2", "layer3"), vit=Missing("blocks.1", TOKENS), mlp=Missing("activation2", VECTOR)),
    ),
    "TokenBridge": (
        AttentionTransfer(),
        Place(cnn=Missing("layer3", "a grid to a grid"), vit=("blocks.1", "patch"), mlp=Missing("activation2", VECTOR)),
    ),
    "WidthBridge": (Hint(), dataclasses.replace(FEATURES, cnn=Missing("layer3", "channels stand before positions"))),
}


# Everything of the catalogue, with its place.


@dataclass(frozen=True)
class Subject:
    """An objective, where it is taken, and in which schemes and on which networks it is tried."""

    name: str
    objective: Any
    place: Place
    schemes: tuple[str, ...] = SCHEMES
    networks: tuple[str, ...] = tuple(NETWORKS)


def offered() -> dict[str, type]:
    """All methods of the package, and the parts without a card."""
    classes = {name: thing for name in knowledge.__all__ if inspect.isclass(thing := getattr(knowledge, name))}
    assert {name for name, thing in methods().items() if thing.card.row.startswith("knowledge / ")} <= set(classes)
    return classes


def subject(name: str, thing: type) -> Subject:
    """Where a class of the catalogue is tried.

    Raises:
        LookupError: nobody has said where; the text says what to add.
    """
    card = getattr(thing, "card", None)
    row = card.row.partition(" / ")[2] if isinstance(card, Card) else thing.__module__.rpartition(".")[2]
    if row in ROWS:
        return Subject(name, thing(), OWN.get(name, ROWS[row]))
    if name in BRIDGES:
        objective, place = BRIDGES[name]
        # Where a network learns from itself, shapes are alike.
        return Subject(name, objective, dataclasses.replace(place, bridge=thing()), ("offline", "mutual"))
    if row in PARTS:
        within, place = PARTS[row]
        objective = OWN_PARTS[name] if name in OWN_PARTS else within(thing())
        if row == "pairings":
            return Subject(name, objective, place)
        # What it is a part of is tried in the other schemes, and on the other networks.
        return Subject(name, objective, place, ("offline",), ("cnn" if isinstance(place.mlp, Missing) else "mlp",))
    raise LookupError(
        f"Nobody has said where {name}, of the row {row!r}, is tried. Say in {Path(__file__).name}: an objective has a "
        "place in ROWS or OWN, a part of objectives in PARTS, a bridge in BRIDGES."
    )


@dataclass(frozen=True)
class Pairing:
    """A subject in a scheme on a network."""

    of: Subject
    network: str
    scheme: str

    @property
    def where(self) -> Where | Missing | None:
        found: Where | Missing | None = getattr(self.of.place, self.network)
        return found

    def __str__(self) -> str:
        return f"{self.of.name}-{self.network}-{self.scheme}"


def pairings() -> Iterator[Pairing]:
    for name, thing in offered().items():
        try:
            of = subject(name, thing)
        except LookupError:
            continue  # a test of its own says so
        yield from (Pairing(of, network, scheme) for network in of.networks for scheme in of.schemes)


ALL = [pairing for pairing in pairings() if pairing.where is not None]
REAL = [pairing for pairing in ALL if not isinstance(pairing.where, Missing)]
MISSING = [pairing for pairing in ALL if isinstance(pairing.where, Missing)]


# From a pairing to its stages.


def stage_of(pairing: Pairing, *, silent: bool = False) -> tuple[Stage, list[nn.Module]]:
    """The stage, with networks of its own, and those that learn; `silent` with an edge of weight 0.

    Where the labels are the source, what else the scheme teaches is the logits.
    """
    of, kind = pairing.of, pairing.network
    place, where = of.place, pairing.where
    where = where.nearest if isinstance(where, Missing) else where
    assert where is not None
    lesson = at("", over(kind, LogitMatching()))
    if not place.from_labels:
        lesson = at(where, over(kind, of.objective) if where == "" else of.objective, bridge=place.bridge)
    cast, learners = cast_of(pairing)
    (stage,) = scheme_of(pairing, lesson, branches=where == "").stages(cast)
    nodes, edges = list(stage.graph.nodes), list(stage.graph.edges)
    if place.from_labels:
        nodes.insert(0, Labels())
        targets = [node.name for node in nodes if isinstance(node, Branch) or getattr(node, "learns", False)]
        taught = {"objective": over(kind, of.objective), "target_tap": where}
        edges += [Edge(source="labels", target=target, **taught) for target in targets]
    if silent:
        edges = [dataclasses.replace(e, weight=0.0) if is_tried(pairing, e) else e for e in edges]
    graph = Graph(nodes=nodes, edges=edges)
    return dataclasses.replace(stage, graph=graph), learners


def is_tried(pairing: Pairing, edge: Edge) -> bool:
    """Whether an edge is the one that the pairing is about."""
    return (edge.source == "labels") == pairing.of.place.from_labels


def over(kind: str, objective: Any) -> Any:
    """An objective on logits: of a language model, at every token."""
    return OverTokens(objective=objective) if kind == "words" and not isinstance(objective, OverTokens) else objective


def cast_of(pairing: Pairing) -> tuple[dict[str, Any], list[nn.Module]]:
    classes = WORDS if pairing.network == "words" else 1 if pairing.of.place.numbers else CLASSES
    small, large = (drawn(pairing.network, width, classes) for width in (2, 3))
    learners = copy.deepcopy([small, large] if pairing.scheme == "mutual" else [small])
    return {"student": learners[0], "students": learners, "teacher": large}, learners


def scheme_of(pairing: Pairing, lesson: Any, *, branches: bool) -> Scheme:
    """Exits where the outputs teach one another, a moving average of the network where its inside does."""
    labels = 0.0 if pairing.of.place.from_labels else 1.0
    given: dict[str, Any] = {"knowledge": (lesson,), "labels": labels, "epochs": 1}
    given |= {
        "labels_objective": over(pairing.network, CrossEntropy()),
        "fit": Fit(batch=8, checkpoint_steps=1, keep_best=False),
    }
    if pairing.scheme == "offline":
        return Offline(**given, on_policy=OnPolicy(of="student") if pairing.network == "words" else None)
    if pairing.scheme == "mutual":
        return Mutual(**given)
    if branches and pairing.network in EXITS:
        return SelfBranches(taps=(EXITS[pairing.network],), **given)
    return SelfSnapshot(when=MovingAverage(decay=0.5), schedule=Constant(), **given)


# Runs.


def course(stage: Stage, pairing: Pairing, folder: Path | None = None) -> Course:
    examples = data(pairing.network, numbers=pairing.of.place.numbers)
    return Course([stage], examples, folder=folder, device="cpu", seed=3, resume=True)


def last(steps: Iterator[Training]) -> State:
    """All that learned, and snapshots, as they are after the last step."""
    found: State = {}
    for training in steps:
        found = {name: value.clone() for name, value in training.flow.state_dict().items()}
        for number, snapshot in enumerate(unit.module for unit in training.followers):
            found |= {f"snapshot{number}.{name}": value.clone() for name, value in snapshot.state_dict().items()}
    return found


@functools.cache
def without(network: str, scheme: str, *, branches: bool, from_labels: bool, numbers: bool) -> list[State]:
    """The networks after the same steps without the edge: alike for all objectives, so they are trained once."""
    place = dataclasses.replace(OUTPUTS if branches else FEATURES, from_labels=from_labels, numbers=numbers)
    pairing = Pairing(Subject("nothing", SoftTargets(), place), network, scheme)
    stage, learners = stage_of(pairing, silent=True)
    last(course(stage, pairing).steps())
    return [learner.state_dict() for learner in learners]


def check(pairing: Pairing, folder: Path) -> None:
    """What every pairing promises."""
    stage, learners = stage_of(pairing)
    steps = course(stage, pairing, folder / "whole").steps()
    next(steps)
    shutil.copytree(folder / "whole", folder / "stopped")
    whole = last(steps)
    assert all(bool(value.isfinite().all()) for value in whole.values())

    again, fresh = stage_of(pairing)
    assert same(last(course(again, pairing, folder / "stopped").steps()), whole), "resumed, it ends elsewhere"
    assert all(same(one.state_dict(), other.state_dict()) for one, other in zip(fresh, learners, strict=True))

    names = edge_names(stage.graph.edges)
    tried = [name for name, edge in zip(names, stage.graph.edges, strict=True) if is_tried(pairing, edge)]
    for log in (folder / "whole" / "log.jsonl", folder / "stopped" / "log.jsonl"):
        rows = [row for row in read_lines(log) if row["kind"] == "step"]
        assert [row["step"] for row in rows] == [0, 1]
        assert all(math.isfinite(row["edges"][name]["loss"]) for row in rows for name in tried)

    place = pairing.of.place
    asked = {"branches": pairing.where == "", "from_labels": place.from_labels, "numbers": place.numbers}
    alone = without(pairing.network, pairing.scheme, **asked)
    moved = [not same(one.state_dict(), other) for one, other in zip(learners, alone, strict=True)]
    assert all(moved), "nothing was taught"


def refuse(pairing: Pairing) -> None:
    """What is promised where a network has no such place: an error in words, before the first step."""
    examples = data(pairing.network, numbers=pairing.of.place.numbers)
    with pytest.raises(LessenError) as caught:
        validate(stage_of(pairing)[0], examples.train.fetch(torch.arange(4)), task=examples.facts)
    in_words = isinstance(caught.value, SettingError) or isinstance(caught.value.__cause__, LessenError | None)
    assert in_words, f"it broke: {caught.value}"


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


# The tests.


def test_everything_of_the_catalogue_has_a_place() -> None:
    for name, thing in offered().items():
        subject(name, thing)
    unknown = {*OWN, *OWN_PARTS, *BRIDGES} - set(offered())
    assert not unknown, f"the tables name {sorted(unknown)}, which the catalogue does not have"


@pytest.mark.parametrize("pairing", REAL, ids=str)
def test_it_teaches_and_is_resumed(pairing: Pairing, tmp_path: Path) -> None:
    try:
        check(pairing, tmp_path)
    except LessenError as error:
        pytest.fail(
            f"{pairing} cannot run at {pairing.where}: {error}\nSay in OWN where it is taken, or what is Missing."
        )


@pytest.mark.parametrize("pairing", MISSING, ids=str)
def test_what_a_network_does_not_have_is_refused_in_words(pairing: Pairing) -> None:
    refuse(pairing)


# Labels that are mixed.


def reads_labels(pairing: Pairing) -> bool:
    return pairing.of.place.from_labels or ObjectiveInput.LABELS in getattr(pairing.of.objective, "needs", ())


def first_of_each(chosen: Callable[[Pairing], bool]) -> list[Pairing]:
    """One offline pairing for each subject that is chosen."""
    return list({pairing.of.name: pairing for pairing in reversed(REAL) if chosen(pairing)}.values())[::-1]


LABELLED = first_of_each(lambda pairing: reads_labels(pairing) and pairing.scheme == "offline")
RIGHT = {
    "CrossEntropy": "probabilities are its labels",
    "Regression": "a mixture of numbers is a number",
    "TaskLoss": "as of the two",
}
"""What is right under mixed labels, and why; all else that reads labels must refuse them."""


def mixed(pairing: Pairing) -> tuple[Batch, Batch, Batch]:
    """Examples with the labels of two sets, and with 0.7 of the one and 0.3 of the other, as mixup makes them."""
    one = data(pairing.network, numbers=pairing.of.place.numbers).train.fetch(torch.arange(8))
    assert one.labels is not None
    other = dataclasses.replace(one, labels=one.labels.roll(1, 0))
    classes = WORDS if pairing.network == "words" else CLASSES
    sides = [
        b.labels if b.labels.is_floating_point() else one_hot(b.labels.clamp_min(0), classes) for b in (one, other)
    ]
    return one, other, dataclasses.replace(one, labels=0.7 * sides[0] + 0.3 * sides[1])


def losses_of(pairing: Pairing, batch: Batch) -> list[float]:
    """Of the edges that the pairing is about."""
    stage, _ = stage_of(pairing)
    flow = Flow(stage, batch, task=data(pairing.network, numbers=pairing.of.place.numbers).facts)
    found = flow(batch, 0.0, training=False).losses
    flow.close()
    return [float(found[number]) for number, edge in enumerate(stage.graph.edges) if is_tried(pairing, edge)]


@pytest.mark.parametrize("pairing", LABELLED, ids=str)
def test_what_reads_labels_refuses_mixed_ones_or_is_right(pairing: Pairing) -> None:
    refuses_or_is_right(pairing)


def refuses_or_is_right(pairing: Pairing) -> None:
    one, other, both = mixed(pairing)
    if pairing.of.name not in RIGHT:
        with pytest.raises((DataError, ShapeError), match="labels"):
            losses_of(pairing, both)
    elif pairing.of.name == "CrossEntropy":
        pure = [losses_of(pairing, batch) for batch in (one, other)]
        assert losses_of(pairing, both) == pytest.approx([0.7 * a + 0.3 * b for a, b in zip(*pure, strict=True)])
        assert losses_of(pairing, both) != pytest.approx(pure[0], rel=1e-3)
    else:
        assert all(map(math.isfinite, losses_of(pairing, both)))


# The twins: what must not pass does not pass.


def pairing_of(name: str, network: str, scheme: str) -> Pairing:
    return Pairing(subject(name, getattr(knowledge, name)), network, scheme)


LEARNED = first_of_each(lambda pairing: hasattr(getattr(knowledge, pairing.of.name), "objective_for"))
FORGOTTEN = [("objective", pairing) for pairing in LEARNED]
FORGOTTEN += [
    ("bridge", pairing_of("Hint", "mlp", "mutual")),
    ("head", pairing_of("SoftTargets", "mlp", "self")),
    ("snapshot", pairing_of("Hint", "mlp", "self")),
]


@pytest.mark.parametrize(("kind", "pairing"), FORGOTTEN, ids=str)
def test_a_checkpoint_that_forgets_is_found(
    kind: str, pairing: Pairing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = keeping._modules

    def some(training: Training) -> dict[str, nn.Module]:
        return {place: module for place, module in everything(training).items() if kind not in place}

    monkeypatch.setattr(keeping, "_modules", some)
    monkeypatch.setattr(Training, "compare", lambda self, before: None)  # this would find it earlier
    with pytest.raises(AssertionError, match="ends elsewhere"):
        check(pairing, tmp_path)


class Nothing(Hint):
    """A loss that no student can change."""

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student.detach(), teacher) + 0 * student.flatten(1).sum(1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_objective_that_teaches_nothing_is_found(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing was taught"):
        check(Pairing(Subject("Nothing", Nothing(), FEATURES), "mlp", scheme), tmp_path)


def test_a_reason_that_is_none_is_found() -> None:
    place = dataclasses.replace(FEATURES, mlp=Missing("activation2", VECTOR))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refuse(Pairing(Subject("Hint", Hint(), place), "mlp", "offline"))


def test_what_nobody_has_placed_is_named() -> None:
    class Dream(Hint):
        card = dataclasses.replace(Hint.card, row="knowledge / dreams")

    with pytest.raises(LookupError, match=r"Dream, of the row 'dreams'.*ROWS or OWN"):
        subject("Dream", Dream)


class Rounded(SoftTargets):
    """Reads labels, and takes the largest part of a mixed one for all of it."""

    needs = (ObjectiveInput.LABELS,)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        logits, labels = teacher
        return super().__call__(student, logits) + CrossEntropy()(student, labels.argmax(1))


def test_an_objective_that_misreads_mixed_labels_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refuses_or_is_right(Pairing(Subject("Rounded", Rounded(), OUTPUTS), "mlp", "offline"))
