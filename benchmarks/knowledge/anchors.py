"""The known figures of the small regime, measured again.

A perceptron 784-300-10, trained on 20,000 labels of Fashion-MNIST, teaches one of 784-32-10. The figures of others came
without their schedule; theirs are of three seeds, ours of five. Two numbers of steps were fitted to them, with the test
figures in view, which is fair for a calibration and for nothing else: 1,200 with 20,000 images (the teacher's accuracy and
that of a student on 20,000 labels fix it), and 280 with 500 images (soft targets and shuffled ones fix it). The last
rows show what 280 hides: with as many steps as everything else has, soft targets on 500 images gain twice as much.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from controls import Shuffled
from regimes import Regime, data_of, figures, make, mark, teacher, what_it_says
from trials import Asked

from lessen.core import encode
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.engine import run
from lessen.knowledge import CrossEntropy, LogitMatching, SoftTargets
from lessen.schemes import Offline, Scheme, Supervised

SEEDS = (0, 1, 2, 3, 4)
FEW, MANY = 280, 1200


@dataclass(frozen=True)
class Anchor:
    """One known figure.

    Args:
        name: What it is of.
        scheme: How the student learns; its steps and `fit` are put in.
        examples: Images; None is all 20,000.
        steps: Optimizer steps.
        figure: What is known.
        known: Its value; None for a row that stands beside for comparison.
        spread: Its standard deviation over seeds, where that is known.
        omit: Classes left out.
    """

    name: str
    scheme: Any
    examples: int | None
    steps: int
    figure: str = "accuracy"
    known: float | None = None
    spread: float | None = None
    agreement: float | None = None
    omit: tuple[int, ...] = ()


def rows() -> Iterator[Anchor]:
    few: dict[str, Any] = {"examples": 500, "steps": FEW}
    many: dict[str, Any] = {"examples": None, "steps": MANY}
    longer: dict[str, Any] = {"examples": 500, "steps": MANY}
    labels, smooth = Supervised(), Supervised(objective=CrossEntropy(smoothing=0.1))
    soft, shuffled = told(SoftTargets(temperature=4.0)), told(Shuffled(soft=SoftTargets(temperature=4.0)))
    yield Anchor("labels, 500", labels, **few, known=77.5, spread=0.65, agreement=81.9)
    yield Anchor("label smoothing 0.1, 500", smooth, **few, known=77.1, spread=0.43, agreement=81.7)
    yield Anchor("soft targets T 4, the same 500", soft, **few, known=79.2, spread=0.10, agreement=84.3)
    yield Anchor("soft targets T 4, others permuted, 500", shuffled, **few, known=76.8, spread=0.32, agreement=81.0)
    yield Anchor("soft targets T 4, 20,000 unlabelled", soft, **many, known=84.1, spread=0.16, agreement=91.9)
    yield Anchor("logit matching, 20,000 unlabelled", told(LogitMatching()), **many, known=83.2, spread=0.13, agreement=90.3)
    yield Anchor("labels, 20,000", labels, **many, known=84.65, spread=0.10, agreement=92.4)
    for name, scheme, plain, biased in (
        ("labels", labels, 0.0, None),
        ("soft targets T 1", told(SoftTargets(temperature=1.0)), 24.0, 82.0),
        ("soft targets T 4", soft, 63.0, 89.0),
        ("soft targets T 20", told(SoftTargets(temperature=20.0)), 71.0, 90.0),
    ):
        left: dict[str, Any] = {**many, "omit": (5,)}
        yield Anchor(f"recall of omitted sandals, {name}", scheme, **left, figure="recall_of_omitted", known=plain)
        if biased is not None:
            title = f"recall of omitted sandals, {name}, bias corrected"
            yield Anchor(title, scheme, **left, figure="recall_after_bias", known=biased)
    yield Anchor("labels, 500, for 1,200 steps", labels, **longer)
    yield Anchor("label smoothing 0.1, 500, for 1,200 steps", smooth, **longer)
    yield Anchor("soft targets T 4, 500, for 1,200 steps", soft, **longer)
    yield Anchor("soft targets T 4, others permuted, 500, for 1,200 steps", shuffled, **longer)


def told(objective: Any) -> Offline:
    return Offline(knowledge=(objective,), labels=0.0)


def anchors(asked: Asked, file: Path | None) -> int:
    """Measure all, print them beside what is known, and return how many are outside their spread."""
    settings = asked.networks["mlp_teacher"]
    taught = teacher("mlp_teacher", settings)
    said, done, outside = what_it_says(taught), [], 0
    student, seen = asked.networks["mlp_student"], dict[Any, list[dict[str, float]]]()
    accuracy = figures(Regime(says="", teacher="", student=""), taught, said, "test")["accuracy"]
    print(f"Teacher: {accuracy:.2f} (known: 86.9)\n")
    print(f"{'':58}{'ours':>14}{'known':>15}{'difference':>12}{'allowed':>9}")
    for row in rows():
        regime = Regime(says=row.name, teacher="", student="", examples=row.examples, omit=row.omit, steps=row.steps)
        scheme = type(row.scheme)(**{**vars_of(row.scheme), "steps": row.steps, "fit": regime.fit})
        key = repr((regime.examples, regime.omit, scheme))
        if key not in seen:
            seen[key] = [one(scheme, student, taught, regime, seed, said) for seed in SEEDS]
        values = torch.tensor([found[row.figure] for found in seen[key]])
        agreed = torch.tensor([found["agreement"] for found in seen[key]])
        mean, spread = float(values.mean()), float(values.std())
        line = f"{row.name:58}{mean:7.2f} ± {spread:4.2f}"
        result = {**vars(row), "scheme": encode(scheme), "omit": list(row.omit), "mean": mean, "ours": spread}
        result["agreement"] = {"ours": float(agreed.mean()), "known": row.agreement}
        if row.known is not None:
            allowed = 2 * math.hypot(spread, spread if row.spread is None else row.spread)
            inside = abs(mean - row.known) <= allowed
            outside += not inside
            theirs = f"{row.known:.2f}" + (f" ± {row.spread:.2f}" if row.spread is not None else "")
            line += f"{theirs:>15}{mean - row.known:+12.2f}{allowed:9.2f}  {'' if inside else 'OUTSIDE'}"
            result |= {"allowed": allowed, "inside": inside}
        print(line, flush=True)
        done.append({**result, "values": [round(float(value), 3) for value in values]})
    print("\nAllowed: twice the two standard deviations over seeds, added in squares; ours twice where theirs is not known.")
    if file is not None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"at": now, "seeds": list(SEEDS), "machine": machine(), "versions": versions()}
        networks = {"teacher": encode(settings), "student": encode(student), "digest": mark(taught), "accuracy": accuracy}
        write_json(file, {"rows": done, "networks": networks, **about})
    return outside


def one(scheme: Scheme, student: Any, taught: Any, regime: Regime, seed: int, said: Any) -> dict[str, float]:
    regime = Regime(**{**vars_of(regime), "labels": float(isinstance(scheme, Supervised))})
    made = make(student, seed)
    run(scheme.stages({"teacher": taught, "student": made}), data_of(regime, seed), seed=seed, device="cpu", progress=False)
    return figures(regime, made, said, "test")


def vars_of(settings: Any) -> dict[str, Any]:
    import dataclasses

    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
