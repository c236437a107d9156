"""The known figures of the small regime, measured again.

A perceptron 784-300-10, trained on 20,000 labels of Fashion-MNIST, teaches one of 784-32-10. The known figures came
without their schedule, and are of three seeds; ours are of five, each with a teacher of its own. Three numbers were
fitted to them with the test figures in view, which is fair for a calibration and for nothing else: 800 steps at a
rate of 0.002 for the teacher (its accuracy and the recall of omitted classes fix them), 1,200 steps with 20,000
images (a student on 20,000 labels fixes them), and 300 steps with 500 images (soft targets and shuffled ones fix
them). The last rows show what 300 hides: with as many steps as everything else has, soft targets on 500 images gain
far more.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from controls import Shuffled
from regimes import Regime, data_of, figures, make, mark, teacher, what_it_says
from torch import nn
from trials import Asked

from lessen.core import encode
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.engine import run
from lessen.knowledge import CrossEntropy, LogitMatching, SoftTargets
from lessen.schemes import Offline, Scheme, Supervised

SEEDS = (0, 1, 2, 3, 4)
FEW, MANY = 300, 1200


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
    yield Anchor(
        "logit matching, 20,000 unlabelled", told(LogitMatching()), **many, known=83.2, spread=0.13, agreement=90.3
    )
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
    taught = [teacher("mlp_teacher", settings, seed) for seed in SEEDS]
    said, done, outside = [what_it_says(one) for one in taught], [], 0
    student, seen = asked.networks["mlp_student"], dict[Any, list[dict[str, float]]]()
    plain = Regime(says="", teacher="", student="")
    accuracies = [figures(plain, one, its, "test")["accuracy"] for one, its in zip(taught, said, strict=True)]
    print(f"Teachers: {', '.join(f'{value:.2f}' for value in accuracies)} (known: 86.9)\n")
    print(f"{'':58}{'ours':>14}{'known':>15}{'difference':>12}{'allowed':>9}")
    for row in rows():
        regime = Regime(
            says=row.name, teacher="", student="", examples=row.examples, omit=row.omit, steps=row.steps, rate=1e-3
        )
        scheme = dataclasses.replace(row.scheme, steps=row.steps, fit=regime.fit)
        key = repr((regime.examples, regime.omit, scheme))
        if key not in seen:
            seen[key] = [
                learned(scheme, make(student, seed), regime, seed, taught=taught[place], said=said[place])
                for place, seed in enumerate(SEEDS)
            ]
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
    print(
        "\nAllowed: twice both standard deviations over seeds, added in squares; ours for theirs where it is not known."
    )
    if file is not None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"at": now, "seeds": list(SEEDS), "machine": machine(), "versions": versions()}
        networks = {
            "teacher": encode(settings),
            "student": encode(student),
            "digests": [mark(one) for one in taught],
            "accuracies": accuracies,
        }
        write_json(file, {"rows": done, "networks": networks, **about})
    return outside


def learned(
    scheme: Scheme, student: nn.Module, regime: Regime, seed: int, *, taught: nn.Module, said: Any
) -> dict[str, float]:
    """The figures of a student that a scheme has trained."""
    regime = dataclasses.replace(regime, labels=float(isinstance(scheme, Supervised)))
    stages = scheme.stages({"teacher": taught, "student": student})
    run(stages, data_of(regime, seed), seed=seed, device="cpu", progress=False)
    return figures(regime, student, said, "test")
