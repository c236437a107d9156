"""There is one training loop: backward passes and optimizer steps are in one file each, in the engine."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lessen

ROOT = Path(lessen.__file__).parent
BACKWARD = "engine/home.py"
STEPS = "engine/moving.py"
FOLLOWS = "optim/torch_schedule.py"
"""Steps torch's schedulers, on an optimizer of a parameter of its own, to read the rates that they give."""
OPTIMIZERS = ("optim/", STEPS)
"""Where optimizers of torch are made."""
MOVERS = ("optim", "scaler")
WRITES = {"add_", "sub_", "copy_", "lerp_", "addcmul_", "addcdiv_", "set_"}


def dotted(node: ast.expr) -> str:
    """The name of what an attribute is looked up in, as far as it is one."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, *([node.id] if isinstance(node, ast.Name) else [])]))


def training_in(file: str, source: str) -> Iterator[str]:
    """What only the loop may do, and this file does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [f"{node.module}.{each.name}" for each in node.names]
            yield from (name for name in names if _loops(file, name) or name == "torch.optim")
        if isinstance(node, ast.Attribute) and (_loops(file, name := dotted(node)) or _steps(file, node)):
            yield name
        if isinstance(node, ast.Call) and not (node.args or node.keywords) and _steps(file, node.func, bare=True):
            yield ast.unparse(node)


def by_hand(source: str) -> list[str]:
    """The functions that ask for gradients and write to tensors in place: an optimizer written out."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.Lambda):
            continue
        calls = [each.func for each in ast.walk(function) if isinstance(each, ast.Call)]
        called = {each.attr if isinstance(each, ast.Attribute) else ast.unparse(each) for each in calls}
        less = any(isinstance(each, ast.AugAssign) and isinstance(each.op, ast.Sub) for each in ast.walk(function))
        if "grad" in called and (called & WRITES or less):
            found.append(getattr(function, "name", "lambda"))
    return found


def _steps(file: str, node: ast.expr, *, bare: bool = False) -> bool:
    """Whether an optimizer takes a step: `step` of what is named so, or of anything if it is called without a value."""
    if not (isinstance(node, ast.Attribute) and node.attr == "step") or file in {STEPS, FOLLOWS}:
        return False
    owner = dotted(node.value).rpartition(".")[2].lower()
    return bare or any(mover in owner for mover in MOVERS)


def _loops(file: str, name: str) -> bool:
    if name.startswith("torch.optim.") and name != "torch.optim.Optimizer":
        return not file.startswith(OPTIMIZERS)
    head, _, last = name.rpartition(".")
    if last == "backward":
        return file != BACKWARD and not (file.startswith("engine/") and head.endswith("home"))
    return False


@pytest.mark.parametrize("file", [str(path.relative_to(ROOT)) for path in sorted(ROOT.rglob("*.py"))])
def test_only_the_engine_trains(file: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert list(training_in(file, source)) == []
    assert by_hand(source) == []


def test_the_files_that_do_are_seen() -> None:
    for file in (BACKWARD, STEPS):
        assert list(training_in("operations/planted.py", (ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "planted",
    [
        "loss.mean().backward()",
        "torch.autograd.backward(loss)",
        "from torch.autograd import backward",
        "go = loss.backward",
        "self.accelerator.backward(loss)",
        "optimizer.step()",
        "anything.at_all.step()",
        "self._optimizer.step(closure)",
        "scaler.step(each)",
        "move = optimizer.step",
        "torch.optim.Adam(parameters)",
        "from torch.optim import SGD",
        "from torch import optim",
    ],
)
def test_a_loop_of_its_own_is_seen(planted: str) -> None:
    assert list(training_in("operations/planted.py", planted))


@pytest.mark.parametrize("move", ["w -= 0.1 * g", "w.sub_(g)", "w.add_(g, alpha=-0.1)", "w.data.copy_(w - 0.1 * g)"])
def test_an_optimizer_written_out_is_seen(move: str) -> None:
    planted = f"def tune(w):\n    for _ in range(9):\n        (g,) = torch.autograd.grad(loss(w), w)\n        {move}\n"
    assert by_hand(planted) == ["tune"]
    assert by_hand(planted.replace("autograd.grad", "something")) == []


@pytest.mark.parametrize(
    "other",
    [
        "folder.step(number)",
        "def backward(ctx, gradient): ...",
        "self.home.backward(loss)",
        "torch.autograd.grad(loss, weights)",
        "def build(self) -> torch.optim.Optimizer: ...",
    ],
)
def test_what_is_no_loop_passes(other: str) -> None:
    assert list(training_in("engine/training.py", other)) == []
