"""A tap before an in-place activation gives what was there before it, on either side and whatever wraps the network."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch
from lessen.graph import Edge, Flow, Graph, Network, Stage
from lessen.knowledge import Hint
from lessen.surgery.taps import Recorder, Tap, capture

X = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, 3.0]])
TAPS = [Tap(path="first"), Tap(path="relu", side="input"), Tap(path="twice", call=0), Tap(path="twice", call=-1)]
TAPS += [Tap(path="twice", side="input", call=1), Tap(path="relu")]


class InPlace(nn.Module):
    """A layer with an activation that writes over it, and another that is called twice, with such behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.twice = nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)
        self.last = nn.Sequential(OrderedDict(head=nn.Linear(4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.first(x))
        hidden = nn.functional.relu_(self.twice(hidden))
        return self.last(nn.functional.relu_(self.twice(hidden)))


def by_hand(network: InPlace) -> dict[Tap, Tensor]:
    """The same without writing over anything."""
    first = network.first(X)
    once = network.twice(first.relu())
    again = network.twice(once.relu())
    return dict(zip(TAPS, [first, first, once, again, once.relu(), first.relu()], strict=True))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda network: network,
    "parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "compiled": lambda network: torch.compile(network, backend="aot_eager"),
    "distributed, compiled": lambda network: torch.compile(
        nn.parallel.DistributedDataParallel(network), backend="eager"
    ),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.usefixtures("one_process")
def test_a_tap_gives_what_it_says(wrap: str) -> None:
    torch.compiler.reset()
    network = InPlace()
    expected = by_hand(network)
    assert bool((expected[TAPS[0]] < 0).any())  # where it is written over, this would show
    assert bool((expected[TAPS[3]] < 0).any())
    wrapped = WRAPS[wrap](network)
    with capture(wrapped, TAPS) as seen:
        wrapped(X)
    for tap in TAPS:
        torch.testing.assert_close(seen[tap], expected[tap], msg=lambda text, tap=tap: f"{tap}: {text}")
    # As the training loop does it: hooks that stay, and copies only where the first pass has shown a need.
    recorder = Recorder(wrapped, TAPS)
    for _ in range(2):
        recorder.begin()
        wrapped(X)
        recorder.end()
        recorder.check()
        recorder.copies |= recorder.written_over()
    for tap in TAPS:
        torch.testing.assert_close(recorder.seen[tap], expected[tap], msg=lambda text, tap=tap: f"{tap}: {text}")
    recorder.close()


def test_without_copies_it_would_not() -> None:
    network = InPlace()
    expected = by_hand(network)
    recorder = Recorder(network, TAPS)
    recorder.begin()
    network(X)
    recorder.end()
    assert recorder.written_over() == set(TAPS) - {TAPS[4], TAPS[5]}
    assert not torch.allclose(recorder.seen[TAPS[0]], expected[TAPS[0]])
    recorder.close()


@pytest.mark.parametrize("tap", [TAPS[0], TAPS[1], TAPS[3]], ids=str)
def test_an_edge_learns_from_what_was_there_before_the_activation(tap: Tap) -> None:
    student, teacher = InPlace(), InPlace()
    with torch.no_grad():
        teacher.first.weight.mul_(-1)
    edge = Edge(source="t", target="s", objective=Hint(), source_tap=tap, target_tap=tap)
    nodes = [Network(name="t", module=teacher, learns=False), Network(name="s", module=student, learns=True)]
    batch = Batch(X, torch.arange(2))
    flow = Flow(Stage(name="s", graph=Graph(nodes=nodes, edges=[edge]), epochs=1), batch)
    flow.set_mode(training=True)
    passed = flow(batch, 0.0)
    mine, theirs = by_hand(student)[tap], by_hand(teacher)[tap]
    assert float(passed.losses[0]) == pytest.approx(float((mine - theirs).square().mean().detach()), rel=1e-5)
    rectified = (mine.relu() - theirs.relu()).square().mean().detach()
    assert float(passed.losses[0]) != pytest.approx(float(rectified), rel=1e-2)
    passed.total.backward()
    expected = torch.autograd.grad((mine - theirs.detach()).square().mean(), student.first.weight)[0]
    torch.testing.assert_close(student.first.weight.grad, expected)
    flow.close()
