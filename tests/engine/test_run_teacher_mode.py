"""A frozen network is in eval mode at every step and keeps every number of its state, whatever wraps it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lessen.engine import run
from lessen.graph import Edge, Ensemble, Fit, Graph, Network, Stage
from lessen.knowledge import SoftTargets
from lessen.surgery.digest import digest
from lessen.testing.schemes import same
from lessen.testing.tasks import clusters, perceptron


class Inside(nn.Module):
    """A network within another one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return output


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "inside another": Inside,
    "parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "compiled, distributed": lambda network: nn.parallel.DistributedDataParallel(
        torch.compile(network, backend="eager")
    ),
}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def taught(wrap: Callable[[nn.Module], nn.Module]) -> tuple[dict[str, Tensor], bool]:
    """A student after a few steps, and whether its teacher, with batch norm and dropout, is as it was."""
    teacher, student = perceptron(12, seed=2).train(), perceptron(8, seed=1)
    wrapped = wrap(teacher).train()
    before = digest(teacher)
    nodes = [
        Network(name="t", module=wrapped, learns=False),
        Ensemble(name="all", of=["t"]),
        Network(name="s", module=student, learns=True),
    ]
    edges = [Edge(source=source, target="s", objective=SoftTargets()) for source in ("t", "all")]
    stage = Stage(name="s", graph=Graph(nodes=nodes, edges=edges), epochs=2, fit=Fit(batch=20, keep_best=False))
    run([stage], clusters(), device="cpu", progress=False)
    return student.state_dict(), digest(teacher) == before


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.usefixtures("one_process")
def test_a_wrapped_teacher_teaches_what_it_teaches_in_eval_mode(wrap: str) -> None:
    torch.compiler.reset()
    expected, _ = taught(lambda network: network)
    got, kept = taught(WRAPS[wrap])
    assert kept
    assert same(got, expected)


class Stubborn(Inside):
    """The planted error: a wrapper that hides the mode from what is inside."""

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        return self


def test_a_teacher_left_in_train_mode_is_found() -> None:
    expected, kept = taught(lambda network: network)
    assert kept
    got, kept = taught(Stubborn)
    assert not kept
    assert not same(got, expected)
