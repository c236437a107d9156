"""An example for each method, found by trying: the first situation of its kind in which it can be used.

A situation is a few lines of Python that a reader can run unchanged. What they print depends on shapes and names alone,
never on what was drawn.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator

from lessen.core.errors import LessenError
from lessen.recipe.catalogue import catalogue, methods

ARGUMENTS = {
    "LowRank": "energy=0.9",
    "PruneChannels": "keep=0.5",
    "PruneWeights": "keep=0.5",
    "PruneByReconstruction": "keep=0.5",
    "InTurn": "schemes=(Supervised(epochs=5), Offline(epochs=5))",
    "Pattern": (
        'nodes=(Role("teacher"), Role("student", learns=True)), edges=(Edge("teacher", "student", SoftTargets()),)'
    ),
    "Roles": "scheme=Mutual(), students=2",
    "SelfBranches": 'taps=("layer1", "layer2")',
    "Staged": 'hints=(at("layer1", Hint()),)',
}
"""What a method is made with where its defaults do not do: it has none, or they change nothing."""

NEEDS = {
    "Edge": "from lessen.graph import Edge, Role",
    "SoftTargets": "from lessen.knowledge import SoftTargets",
    "Mutual": "from lessen.schemes import Mutual",
    "Supervised": "from lessen.schemes import Offline, Supervised",
}
"""What an example of a scheme imports for its settings."""

VECTORS = "torch.randn(8, 16)"
LOGITS = "torch.randn(8, 10)"
GRIDS = "torch.randn(8, 16, 6, 6)"
TOKENS = "torch.randn(8, 9, 16)"
WORDS = "torch.randn(8, 9, 50)"
CLASSES = "torch.randint(10, (8,))"


def several(one: str, count: int) -> str:
    """A tuple of so many values."""
    return f"({', '.join([one] * count)})"


TAPS: dict[str, tuple[str, ...]] = {
    "logits": (LOGITS,),
    "soft targets": (LOGITS,),
    "direct features": (GRIDS, VECTORS, LOGITS),
    "indirect features": (GRIDS, VECTORS),
    "between layers": (several(GRIDS, 2), several(TOKENS, 3), several(TOKENS, 2)),
    "layer pairing": (several(GRIDS, 3),),
    "between examples": (VECTORS, f"({VECTORS}, {LOGITS})"),
    "sequences": (WORDS,),
}
"""The values at the two ends of an edge, by the row of the method's card; the same on both sides."""

OWN: dict[str, tuple[str, ...]] = {
    "OneForAll": (LOGITS,),
    "InstanceRelationshipGraph": (f"({VECTORS}, {VECTORS}, {LOGITS})",),
}
"""The same for methods that differ from the others of their row."""

LABELLED = ((LOGITS, CLASSES), (f"({VECTORS}, {LOGITS})", CLASSES), ("torch.randn(8, 1)", "torch.randn(8)"))
"""The values at the two ends of an edge that comes from the labels."""

BRIDGED = (
    ("torch.randn(8, 16, 6, 6)", "torch.randn(8, 32, 6, 6)"),
    ("torch.randn(8, 16, 12, 12)", "torch.randn(8, 16, 6, 6)"),
    ("torch.randn(8, 16)", "torch.randn(8, 32)"),
    ("torch.randn(8, 16, 6, 6)", "torch.randn(8, 16)"),
    ("torch.randn(8, 36, 16)", "torch.randn(8, 16, 6, 6)"),
    (several("torch.randn(8, 16, 6, 6)", 2), several("torch.randn(8, 32, 6, 6)", 2)),
)


@functools.cache
def example_of(name: str) -> str:
    """Lines of Python with what they print, as a Python prompt shows them.

    Raises:
        LessenError: there is no situation of its kind in which the method can be used.
    """
    kind, _, row = methods()[name].card.row.partition(" / ")  # type: ignore[attr-defined]
    failed = ""
    for lines in _situations(name, kind, row):
        try:
            return _run(lines)
        except (LessenError, AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
            failed = failed or str(error)
    raise LessenError(f"No example of {name} was found: say in lessen.recipe.examples how it is used. {failed}")


def _situations(name: str, kind: str, row: str) -> Iterator[list[str]]:
    makers: dict[str, Callable[[str], Iterator[list[str]]]] = {
        "bridges": _bridge,
        "heads": _bridge,
        "distances": lambda name: _pair(name, VECTORS, VECTORS),
        "divergences": lambda name: _pair(name, f"{LOGITS}.log_softmax(1)", f"{LOGITS}.log_softmax(1)"),
        "kernels": lambda name: _pair(name, "torch.randn(8, 16, 36)", "torch.randn(8, 12, 36)"),
        "labels": lambda name: (lines for student, teacher in LABELLED for lines in _objective(name, student, teacher)),
        "normalizers": _normalizer,
        "control scores": _score,
        "optimizers": _optimizer,
        "pairings": _pairing,
        "penalties": _penalty,
        "reconstruction methods": _reconstruction,
        "rounding of weights": _rounding,
        "scores at initialisation": _score,
        "sparse training": _sparse,
        "transforms": _transform,
    }
    if row in makers:
        yield from makers[row](name)
    elif kind == "knowledge":
        for taps in OWN.get(name, TAPS.get(row, ())):
            yield from _objective(name, taps, taps)
    elif kind == "operations":
        yield from _operation(name)
    elif kind == "schemes":
        yield from _scheme(name)


def _made(name: str) -> str:
    return f"{name}({ARGUMENTS.get(name, '')})"


def _from(name: str) -> str:
    package = catalogue()[name].__module__.split(".")[1]
    return f"from lessen.{package} import {name}"


def _objective(name: str, student: str, teacher: str) -> Iterator[list[str]]:
    """Directly, or built for two shapes; with what the objective needs in addition to the teacher's value."""
    start = ["import torch", _from(name), f"student = {student}", f"teacher = {teacher}"]
    words = WORDS in {student, teacher}
    labels = "labels = torch.randint(50, (8, 9))" if words else f"labels = {CLASSES}"
    made = [f"objective = {_made(name)}"]
    built = []
    if hasattr(catalogue()[name], "objective_for"):
        task = "TaskFacts(examples=64, classes=10)"
        shapes = [_shapes(student, "student"), _shapes(teacher, "teacher")]
        start.insert(1, "from lessen.core import TaskFacts")
        built = [f"objective = objective.objective_for({shapes[0]}, {shapes[1]}, {task})"]
    asked = ["teacher", "(teacher, labels)", "(teacher, index)", "(teacher, labels, index)"]
    for given in asked:
        more = [labels] if "labels" in given else []
        more += ["index = torch.arange(8)"] if "index" in given else []
        yield [*start, *more, *made, *built, f"objective(student, {given}).shape"]


def _shapes(taps: str, name: str) -> str:
    return f"tuple(value.shape for value in {name})" if taps.startswith("(") else f"{name}.shape"


def _bridge(name: str) -> Iterator[list[str]]:
    for student, teacher in BRIDGED:
        shapes = _shapes(student, "student"), _shapes(teacher, "teacher")
        start = ["import torch", _from(name), f"student = {student}", f"teacher = {teacher}"]
        build = f"bridge = {_made(name)}.build({shapes[0]}, {shapes[1]})"
        single = not student.startswith("(")
        shown = "bridge(student).shape == teacher.shape, type(bridge).__name__ != 'Identity'"
        several = "[value.shape == same.shape for value, same in zip(bridge(student), teacher)]"
        lines = [*start, build, shown if single else several]
        # A bridge that has nothing to do here, or leads elsewhere, is shown in another situation.
        if "False" not in _run(lines, quiet=True):
            yield [*start, build, "bridge(student).shape" if single else "[value.shape for value in bridge(student)]"]


def _pair(name: str, student: str, teacher: str) -> Iterator[list[str]]:
    yield [
        "import torch",
        _from(name),
        f"student, teacher = {student}, {teacher}",
        f"{_made(name)}(student, teacher).shape",
    ]


def _penalty(name: str) -> Iterator[list[str]]:
    yield from _pair(name, LOGITS, "None")
    yield from _pair(name, "(torch.randn(8, 2, 16), torch.randn(8, 2, 16))", "None")


def _optimizer(name: str) -> Iterator[list[str]]:
    yield [
        "from lessen.graph import Fit",
        f"from lessen.graph import {name}",
        "from lessen.knowledge import SoftTargets",
        "from lessen.schemes import offline",
        f"scheme = offline(SoftTargets(temperature=4.0), epochs=10, fit=Fit(optimizer={_made(name)}))",
        "scheme.fit.optimizer.rate",
    ]


def _normalizer(name: str) -> Iterator[list[str]]:
    yield ["import torch", _from(name), f"{_made(name)}(torch.randn(8, 16, 36)).shape"]


def _pairing(name: str) -> Iterator[list[str]]:
    yield [_from(name), f"{_made(name)}.pairs(3, 3)"]


def _transform(name: str) -> Iterator[list[str]]:
    start = ["import torch", _from(name), f"student, teacher = {LOGITS}, {LOGITS}"]
    yield [_from(name), f"[{_made(name)}.during(progress) for progress in (0.0, 0.5, 1.0)]"]
    yield [*start, f"student, teacher = {_made(name)}(student, teacher)", "student.shape, teacher.shape"]
    labelled = [*start, f"labels = {CLASSES}", f"student, teacher = {_made(name)}(student, (teacher, labels))"]
    yield [*labelled, "student.shape, teacher.shape"]


def _operation(name: str) -> Iterator[list[str]]:
    yield [
        "import torch",
        "from lessen.core import Batch, Context",
        _from(name),
        "from lessen.zoo import residual",
        "network, images = residual(width=8, depth=8), torch.randn(4, 1, 16, 16)",
        "context = Context(inputs=images, calibration=[Batch(images, torch.arange(4))])",
        f"plan = {_made(name)}.plan(network, context)",
        "plan.apply(network)(images).shape",
    ]


def _score(name: str) -> Iterator[list[str]]:
    yield [
        "import torch",
        "from torch.nn import functional as F",
        "from lessen.core import Batch, Context",
        f"from lessen.operations import PruneWeights, {name}",
        "from lessen.zoo import residual",
        "network, images = residual(width=8, depth=8), torch.randn(4, 1, 16, 16)",
        'loss = lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none")',
        "batch = Batch(images, torch.arange(4), torch.arange(4))",
        "context = Context(inputs=images, calibration=[batch], loss=loss)",
        f"plan = PruneWeights(keep=0.5, score={_made(name)}).plan(network, context)",
        'plan.describe()[0]["after"]',
    ]


def _reconstruction(name: str) -> Iterator[list[str]]:
    yield [
        "import torch",
        "from lessen.core import Batch, Context",
        f"from lessen.operations import PruneByReconstruction, {name}",
        "from lessen.zoo import residual",
        "network, images = residual(width=8, depth=8), torch.randn(4, 1, 16, 16)",
        "context = Context(inputs=images, calibration=[Batch(images, torch.arange(4))])",
        f"plan = PruneByReconstruction(keep=0.5, method={_made(name)}).plan(network, context)",
        'plan.describe()[0]["after"].split(",")[0]',
    ]


def _rounding(name: str) -> Iterator[list[str]]:
    yield [
        "import torch",
        "from lessen.core import Batch, Context",
        f"from lessen.operations import QuantizeWeights, {name}",
        "from lessen.zoo import mlp",
        "network, images = mlp(), torch.randn(16, 1, 8, 8)",
        "context = Context(inputs=images, calibration=[Batch(images, torch.arange(16))])",
        f"plan = QuantizeWeights(bits=4, group=16, method={_made(name)}).plan(network, context)",
        'plan.describe()[0]["after"].split(",")[0]',
    ]


def _sparse(name: str) -> Iterator[list[str]]:
    yield [
        "import torch",
        _from(name),
        "from lessen.graph import Fit",
        "from lessen.operations.prune_weights import masks_of",
        "from lessen.schemes import supervised",
        "from lessen.zoo import mlp",
        f"scheme = supervised(epochs=10, fit=Fit(sparsify={_made(name)}))",
        "network = mlp()",
        "acting = scheme.fit.sparsify.start(network)",
        "outputs = network(torch.randn(4, 1, 8, 8))",
        "acting.after_step(1.0, 0.1)  # as at the end of the stage",
        "acting.close()",
        '[row["after"] for row in masks_of(network).describe()]',
    ]


def _scheme(name: str) -> Iterator[list[str]]:
    made = _made(name)
    needs = ["from lessen.knowledge import Hint", "from lessen.schemes import at"] if "Hint" in made else []
    needs += [line for part, line in NEEDS.items() if f"{part}(" in made and name != part]
    start = [_from(name), *needs, "from lessen.zoo import mlp"]
    shown = f"[stage.name for stage in {made}.stages(cast)]"
    for cast in (
        '{"student": mlp()}',
        '{"teacher": mlp(), "student": mlp()}',
        '{"students": [mlp(), mlp()]}',
        '{"teachers": [mlp(), mlp()], "student": mlp()}',
        '{"teacher": mlp(), "assistants": [mlp()], "student": mlp()}',
    ):
        yield [*start, f"cast = {cast}", shown]


def _run(lines: list[str], *, quiet: bool = False) -> str:
    """The lines behind prompts, and what the last of them gives; `quiet` gives that alone, and no errors."""
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec("\n".join(lines[:-1]), names)  # our own lines, written above
            value = repr(eval(lines[-1], names))
        except (LessenError, AttributeError, TypeError, ValueError, RuntimeError, IndexError):
            if quiet:
                return "False"
            raise
    return value if quiet else "\n".join([*(f">>> {line}" for line in lines), value])
