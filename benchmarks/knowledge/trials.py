"""One method in one regime: settings are chosen on the validation split, then five seeds are measured on the test.

Everything is trained by the engine, from stages that `Offline` and `Supervised` return.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from controls import Shuffled
from pydantic import Field
from regimes import Network, Regime, data_of, figures, make, mark, teacher, what_it_says
from torch import nn

from lessen.core import decode, encode, settings
from lessen.core.contracts import ObjectiveInput
from lessen.core.errors import LessenError
from lessen.engine import Stopped, run
from lessen.graph import Cache, Edge, Graph, Labels, Stage
from lessen.graph import Network as Node
from lessen.graph.cache import Stored
from lessen.graph.flow import Flow
from lessen.knowledge import SoftTargets
from lessen.measure import count_multiply_adds
from lessen.recipe import catalogue
from lessen.schemes import At, Offline, Supervised

HERE = Path(__file__).parent
SIGNIFICANT = 3


@settings
class Claim:
    """What the authors, or others who measured it, say.

    Args:
        says: Their figures.
        over: The control that they beat, by their account; None where nothing is claimed that these regimes can show.
    """

    says: str
    over: str | None = None


@settings
class Variant:
    """What is tried in every regime that has its place.

    Args:
        objectives: Candidates, as a recipe spells them; empty for training on labels alone.
        at: Where it is taken; several places are tried in the order given, and the first that the regime has counts.
        bridge: Between the two taps, as a recipe spells it.
        strengths: Candidates for how much it counts: the length of its gradient over that of its company.
        weights: Candidates for its weight in the place of strengths.
        labels: What labels mean, as a recipe spells it.
        longer: Train for as long as the teacher's forward pass would cost.
        staged: The share of the steps in which only the objective counts, and after which only its company does.
        teacher_free: Whether the objective compares the student with the labels.
        of: The method it is evidence for; None where the variant has the method's name.
        claims: What the authors claim.
        control: Whether it is a control.
    """

    objectives: tuple[dict[str, Any], ...] = ()
    at: tuple[str, ...] = ("logits",)
    bridge: dict[str, Any] | None = None
    strengths: tuple[float, ...] = (0.2, 2.0, 20.0, 200.0)
    weights: tuple[float, ...] | None = None
    labels: dict[str, Any] = Field(default_factory=lambda: {"CrossEntropy": {}})
    longer: bool = False
    staged: float | None = None
    teacher_free: bool = False
    of: str | None = None
    claims: Claim | None = None
    control: bool = False


@dataclass(frozen=True)
class Asked:
    """The whole of settings.yaml."""

    networks: Mapping[str, Network]
    regimes: Mapping[str, Regime]
    variants: Mapping[str, Variant]
    elsewhere: Mapping[str, str]


def asked() -> Asked:
    """What settings.yaml says, defaults filled in."""
    said = yaml.safe_load((HERE / "settings.yaml").read_text())
    places = said["places"]
    regimes = {}
    for name, own in said["regimes"].items():
        whole = {**said["default"], **own}
        where = whole.pop("places", f"{whole['teacher']}-{whole['student']}")
        regimes[name] = Regime(**whole, places=places[where])
    return Asked(
        networks={name: Network(**own) for name, own in said["networks"].items()},
        regimes=regimes,
        variants={name: Variant(**(own or {})) for name, own in said["variants"].items()},
        elsewhere=said["elsewhere"],
    )


def known() -> dict[str, type]:
    return {**catalogue(), "Shuffled": Shuffled}


def place_of(variant: Variant, regime: Regime) -> str | None:
    """Where the variant is taken in the regime, or None where it has no place there."""
    return next((place for place in variant.at if place == "logits" or place in regime.places), None)


def objectives_of(variant: Variant) -> list[Any]:
    """The candidates as objects.

    Raises:
        SettingError: the catalogue has no such class, or the class no such setting.
    """
    return [decode(spelled, known()) for spelled in variant.objectives]


def applies(variant: Variant, regime: Regime) -> bool:
    """Whether a variant has a place in a regime. Controls on labels are measured everywhere, with labels."""
    if variant.staged is not None and not regime.labels and not regime.soft:
        return False  # nothing would be left for the second stage
    if regime.only and not variant.control and place_of(variant, regime) not in regime.only:
        return False
    return not variant.objectives or (place_of(variant, regime) is not None and bool(fitting(variant, regime)))


def fitting(variant: Variant, regime: Regime) -> list[dict[str, Any]]:
    """The candidates that need no labels, or that find some."""
    made = zip(variant.objectives, objectives_of(variant), strict=True)
    needs = [(one, variant.teacher_free or ObjectiveInput.LABELS in asked_of(objective)) for one, objective in made]
    return [one for one, needed in needs if regime.labels or not needed]


def asked_of(objective: Any) -> tuple[ObjectiveInput, ...]:
    """What the objective needs in addition to the teacher's value; where it has others inside, what they ask for."""
    inside = [value for value in vars(objective).values() if hasattr(value, "card")]
    found = tuple(getattr(objective, "needs", ()))
    return found or tuple(what for one in inside for what in asked_of(one))


@dataclass
class Trial:
    """A variant in a regime, ready to train.

    Args:
        regime: What is seen.
        variant: What is tried.
        teacher: The trained teacher.
        student: How the student is built.
    """

    regime: Regime
    variant: Variant
    teacher: nn.Module
    student: Network

    def candidates(self) -> Iterator[dict[str, Any]]:
        """All settings to choose from: an objective and a weight, or a strength that becomes a weight."""
        variant = self.variant
        alone = not self.company() or variant.staged is not None
        if not variant.objectives:
            yield {}
            return
        for objective in fitting(variant, self.regime):
            if variant.weights is not None or alone:
                # Alone, a weight does next to nothing: Adam does not see it.
                for weight in variant.weights if variant.weights is not None and not alone else (1.0,):
                    yield {"objective": objective, "weight": weight}
            else:
                unit = self.unit_weight(objective)
                for strength in variant.strengths:
                    weight = float(f"{strength * unit:.{SIGNIFICANT}g}")
                    yield {"objective": objective, "strength": strength, "weight": weight}

    def company(self) -> list[Any]:
        """What else teaches, beside the labels."""
        soft = self.regime.soft and self.variant.objectives and place_of(self.variant, self.regime) != "logits"
        return (
            [At(objective=SoftTargets(), weight=self.regime.soft)]
            if soft
            else (["labels"] if self.regime.labels else [])
        )

    def lesson(self, objective: Mapping[str, Any], weight: float) -> At:
        place = place_of(self.variant, self.regime)
        bridge = None if self.variant.bridge is None else decode(self.variant.bridge, known())
        tap = "" if place == "logits" else self.regime.taps(str(place))
        return At(objective=decode(dict(objective), known()), tap=tap, weight=weight, bridge=bridge)

    def stages(self, chosen: Mapping[str, Any], student: nn.Module) -> list[Stage]:
        """What is run, for a candidate."""
        regime, variant = self.regime, self.variant
        labels = decode(variant.labels, known())
        cast = {"teacher": self.teacher, "student": student}
        if not chosen:
            steps = round(regime.steps * (self.cost_of_teacher() if variant.longer else 1.0))
            return Supervised(objective=labels, steps=steps, fit=regime.fit).stages(cast)
        if variant.teacher_free:
            return [self.without_teacher(chosen, student)]
        own, beside = (
            [self.lesson(chosen["objective"], chosen["weight"])],
            [one for one in self.company() if one != "labels"],
        )
        told = {"labels_objective": labels, "fit": regime.fit}
        if variant.staged is None:
            whole = Offline(knowledge=(*own, *beside), labels=regime.labels, steps=regime.steps, **told)
            return whole.stages(cast)
        first = round(regime.steps * variant.staged)
        stages = Offline(knowledge=tuple(own), labels=0.0, steps=first, **told).stages(cast)
        if beside:
            rest = Offline(knowledge=tuple(beside), labels=regime.labels, steps=regime.steps - first, **told)
            return stages + rest.stages(cast)
        return stages + Supervised(objective=labels, steps=regime.steps - first, fit=regime.fit).stages(cast)

    def without_teacher(self, chosen: Mapping[str, Any], student: nn.Module) -> Stage:
        """The objective beside the labels, both from the labels."""
        objective, tap = (
            decode(dict(chosen["objective"]), known()),
            self.regime.taps(str(place_of(self.variant, self.regime)))[0],
        )
        own = Edge(source="labels", target="student", objective=objective, target_tap=tap, weight=chosen["weight"])
        plain = Edge(source="labels", target="student", objective=decode(self.variant.labels, known()))
        nodes = [Labels(), Node(name="student", module=student, learns=True)]
        return Stage(
            name="teacher-free",
            graph=Graph(nodes=nodes, edges=[plain, own]),
            steps=self.regime.steps,
            fit=self.regime.fit,
        )

    def cost_of_teacher(self) -> float:
        """Steps that cost as much as one with the teacher's forward pass: a step is three forward passes."""
        example = data_of(self.regime, 0).example(1)
        mine = count_multiply_adds(make(self.student, 0), example)
        return 1 + count_multiply_adds(self.teacher, example) / (3 * mine)

    def unit_weight(self, objective: Mapping[str, Any]) -> float:
        """The weight at which the objective's gradient is as long as its company's.

        It is looked at after a tenth of the steps in that company: what a network gives at first, and a thin deep one
        above all, says little of what it will give.
        """
        regime, seed = self.regime, self.regime.choosing[0]
        data, student = data_of(regime, seed), make(self.student, seed)
        beside = tuple(part for part in self.company() if part != "labels")
        cast = {"teacher": self.teacher, "student": student}
        told = {"knowledge": beside, "labels": regime.labels, "fit": regime.fit}
        company = Offline(**told, steps=max(1, regime.steps // 10)).stages(cast)
        run(company, data, seed=seed, device="cpu", progress=False)

        def length(knowledge: tuple[Any, ...], labels: float) -> float:
            learner = copy.deepcopy(student)
            made = Offline(knowledge=knowledge, labels=labels, steps=1, fit=regime.fit)
            batch = data.train.fetch(torch.arange(min(regime.batch, len(data.train))))
            flow = Flow(made.stages({**cast, "student": learner})[0], batch, task=data.facts)
            flow.set_mode(training=True)
            flow(batch, 1.0).total.backward()
            flow.close()
            return float(torch.stack([p.grad.norm() for p in learner.parameters() if p.grad is not None]).norm())

        own = length((self.lesson(objective, 1.0),), 0.0)
        return length(beside, regime.labels) / own if own > 0 else 1.0

    def measure(self, chosen: Mapping[str, Any], seed: int, taught: Mapping[str, Any], splits: tuple[str, ...]) -> Any:
        """Train under a seed and look at splits."""
        student, start = make(self.student, seed), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            stages = [remembered(stage, Path(folder)) for stage in self.stages(chosen, student)]
            run(stages, data_of(self.regime, seed), seed=seed, device="cpu", progress=False)
        seconds = round(time.perf_counter() - start, 2)
        return {"seed": seed, "seconds": seconds} | {
            split: {k: round(v, 4) for k, v in figures(self.regime, student, taught, split).items()} for split in splits
        }


def remembered(stage: Stage, folder: Path) -> Stage:
    """The stage with a teacher that is computed once for each image, which is all it does: no view is random here."""
    nodes = [
        dataclasses.replace(node, cache=Cache(folder=folder / stage.name, stored=Stored.FULL))
        if isinstance(node, Node) and not node.learns
        else node
        for node in stage.graph.nodes
    ]
    return dataclasses.replace(stage, graph=dataclasses.replace(stage.graph, nodes=nodes))


def trial(asked: Asked, regime: str, variant: str) -> Trial:
    found = asked.regimes[regime]
    if not asked.variants[variant].objectives:
        found = dataclasses.replace(found, labels=1.0)
    return Trial(
        regime=found,
        variant=asked.variants[variant],
        teacher=teacher(found.teacher, asked.networks[found.teacher]),
        student=asked.networks[found.student],
    )


def settings_of(asked: Asked, regime: str, variant: str) -> dict[str, Any]:
    """All that a result depends on, as data; a result whose settings differ is out of date."""
    found = asked.regimes[regime]
    whole = {
        "regime": encode(found)["Regime"],
        "variant": {k: v for k, v in encode(asked.variants[variant])["Variant"].items() if k != "claims"},
        "teacher": encode(asked.networks[found.teacher])["Network"],
        "student": encode(asked.networks[found.student])["Network"],
        "choosing": list(found.choosing),
    }
    for name in ("says", "only", "choosing"):
        del whole["regime"][name]
    if asked.variants[variant].weights is not None or not asked.variants[variant].objectives:
        del whole["variant"]["strengths"]
    return whole


def code_of(variant: Variant) -> str:
    """A digest of the files that hold the objectives of a variant, to tell results of code that has changed since."""
    files = {inspect.getsourcefile(type(objective)) for objective in objectives_of(variant)}
    text = "".join(Path(file).read_text() for file in sorted(filter(None, files)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def evidence(asked: Asked, regime: str, variant: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Choose by the validation split, then measure on the test split."""
    one = trial(asked, regime, variant)
    taught, start = what_it_says(one.teacher), time.perf_counter()
    candidates, figure = list(one.candidates()), one.regime.figure
    tried = []
    for candidate in candidates if len(candidates) > 1 else []:
        try:
            looks = [one.measure(candidate, seed, taught, ("validation",)) for seed in one.regime.choosing]
        except Stopped:
            raise
        except LessenError as error:  # a weight that makes the loss overflow is a bad candidate, not the end
            tried.append({**candidate, "failed": str(error)})
            continue
        mean = sum(look["validation"][figure] for look in looks) / len(looks)
        tried.append({**candidate, "validation": round(mean, 4)})
    fitting = [row for row in tried if "validation" in row]
    if tried and not fitting:
        raise LessenError(f"No candidate of {variant} can be trained in {regime}: {tried[0]['failed']}")
    best = max(fitting, key=lambda row: row["validation"]) if fitting else candidates[0]
    chosen = {key: value for key, value in best.items() if key != "validation"}
    return {
        "regime": regime,
        "variant": variant,
        "figure": figure,
        "settings": settings_of(asked, regime, variant),
        "code": code_of(asked.variants[variant]),
        "tried": tried,
        "chosen": chosen,
        "runs": [one.measure(chosen, seed, taught, ("validation", "test")) for seed in seeds],
        "teacher": {"digest": mark(one.teacher), **figures_of_teacher(one, taught)},
        "seconds": round(time.perf_counter() - start, 1),
    }


def figures_of_teacher(one: Trial, taught: Mapping[str, Any]) -> dict[str, float]:
    found = figures(dataclasses.replace(one.regime, places={}), one.teacher, taught, "test")
    return {name: round(value, 4) for name, value in found.items() if name in {"accuracy", "nll"}}
