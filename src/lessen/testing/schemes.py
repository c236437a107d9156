"""The laws of schemes, as a base class for tests: subclass it, list settings, and each law runs on each.

class TestMine(SchemeLaws):
    schemes = (Mine(epochs=2), Mine(epochs=2, labels=0.0))
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lessen import graph, knowledge, schemes
from lessen.core import Batch, Data, TaskFacts, decode, encode
from lessen.core.errors import SettingError
from lessen.core.settings import is_settings_class
from lessen.engine import Course, run
from lessen.graph import Fit, Flow, Graph, Stage, validate
from lessen.schemes import Scheme
from lessen.surgery.digest import digest
from lessen.testing.tasks import clusters, perceptron

State = dict[str, Tensor]

SCHEMES = [
    name
    for name in schemes.__all__
    if hasattr(getattr(schemes, name), "stages") and is_settings_class(getattr(schemes, name))
]
"""The names of all schemes of lessen."""


def scheme_of(name: str, *, epochs: int, fit: Fit) -> Scheme:
    """A scheme of lessen for the cast of `SchemeLaws`, with what it needs and these settings."""
    if name == "Pattern":
        return schemes.pattern_of(schemes.Offline(epochs=epochs, fit=fit))
    if name == "InTurn":
        return schemes.InTurn(schemes=tuple(scheme_of(each, epochs=1, fit=fit) for each in ("Supervised", "Offline")))
    needs: dict[str, dict[str, Any]] = {
        "SelfBranches": {"taps": ("layer1",)},
        "SeveralTeachers": {"ensemble": graph.Mean()},
        "Staged": {
            "hints": (schemes.at("layer1", knowledge.Hint(), bridge=knowledge.WidthBridge()),),
            "hint_epochs": 1,
        },
    }
    made: Scheme = getattr(schemes, name)(epochs=epochs, fit=fit, **needs.get(name, {}))
    return made


class SchemeLaws:
    """What every scheme promises, on small networks with batch norm and dropout.

    Attributes:
        schemes: The scheme with different settings; two epochs are enough.
    """

    schemes: ClassVar[Sequence[Scheme]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each law on each scheme."""
        if "scheme" in metafunc.fixturenames:
            names = [f"{type(each).__name__}{number}" for number, each in enumerate(self.schemes)]
            metafunc.parametrize("scheme", list(self.schemes), ids=names)

    def cast(self) -> dict[str, Any]:
        """Networks for every role, the same at each call; layers are called `layer1` and `layer2`."""
        sizes = {"teacher": 24, "student": 8}
        made: dict[str, Any] = {name: perceptron(size, seed=size) for name, size in sizes.items()}
        made["assistants"] = [perceptron(16, seed=16)]
        made["teachers"] = [perceptron(24, seed=24), perceptron(20, seed=20)]
        made["students"] = [perceptron(8, seed=8), perceptron(10, seed=10)]
        return made

    def data(self) -> Data:
        """Something to learn from."""
        return clusters()

    # The laws

    def test_is_written_and_read_back(self, scheme: Scheme) -> None:
        known = {n: getattr(m, n) for m in (schemes, graph, knowledge) for n in m.__all__}
        known[type(scheme).__name__] = type(scheme)
        assert decode(encode(scheme), known) == scheme

    def test_is_validated_and_nothing_is_changed_by_it(self, scheme: Scheme) -> None:
        cast = self.cast()
        before, modes = states(cast), modes_of(cast)
        random = torch.get_rng_state()
        for stage in scheme.stages(cast):
            validate(stage, first_batch(self.data()), task=self.data().facts)
        assert same(states(cast), before)
        assert modes_of(cast) == modes
        assert torch.equal(torch.get_rng_state(), random)

    def test_a_missing_role_is_named(self, scheme: Scheme) -> None:
        with pytest.raises(SettingError, match="role"):
            scheme.stages({"nobody": nn.Identity()})

    def test_no_gradient_reaches_a_source_that_was_not_asked_for(self, scheme: Scheme) -> None:
        for stage in scheme.stages(self.cast()):
            assert leaks(stage, first_batch(self.data()), task=self.data().facts) == []

    def test_frozen_nodes_move_neither_weights_nor_buffers(self, scheme: Scheme) -> None:
        cast = self.cast()
        for stage in scheme.stages(cast):
            frozen = [n.network for n in stage.graph.nodes if n.network is not None and not n.can_learn()]
            before = [digest(module) for module in frozen]
            with modes_while_called(frozen) as training:
                run([stage], self.data(), device="cpu", progress=False)
            assert [digest(module) for module in frozen] == before
            assert not any(training)

    def test_something_learns(self, scheme: Scheme) -> None:
        cast = self.cast()
        before = states(cast)
        run(scheme.stages(cast), self.data(), device="cpu", progress=False)
        assert not same(states(cast), before)

    def test_weight_0_equals_no_edge(self, scheme: Scheme) -> None:
        assert same(self._without_knowledge(scheme, silent=True), self._without_knowledge(scheme, silent=False))

    def test_interleaved_runs_equal_runs_in_sequence(self, scheme: Scheme) -> None:
        apart = [self._trained(scheme, seed) for seed in (1, 2)]
        casts = [self.cast(), self.cast()]
        courses = [Course(scheme.stages(c), self.data(), device="cpu", seed=s).steps() for c, s in zip(casts, (1, 2))]  # noqa: B905
        running = list(courses)
        while running:
            running = [each for each in running if next(each, None) is not None]
        assert [same(states(cast), alone) for cast, alone in zip(casts, apart, strict=True)] == [True, True]

    def test_resume_equals_no_interruption(self, scheme: Scheme, tmp_path: Path) -> None:
        whole = self._trained(scheme, 3)
        for stop in (4, 4):
            steps = self._course(scheme, tmp_path, self.cast()).steps()
            for _ in range(stop):
                next(steps)
            steps.close()
        cast = self.cast()
        for _ in self._course(scheme, tmp_path, cast).steps():
            pass
        assert same(states(cast), whole)

    def test_a_teacher_equal_to_the_student_has_nothing_to_teach(self, scheme: Scheme) -> None:
        cast, student = self.cast(), self.cast()["student"]
        alike = {
            k: [copy.deepcopy(student) for _ in v] if isinstance(v, list) else copy.deepcopy(student)
            for k, v in cast.items()
        }
        for stage in scheme.stages(alike):
            loss = transfer_loss(stage, first_batch(self.data()), task=self.data().facts)
            assert loss == pytest.approx(0, abs=1e-5)

    # How

    def _course(self, scheme: Scheme, folder: Path, cast: Mapping[str, Any]) -> Course:
        return Course(scheme.stages(cast), self.data(), folder=folder, device="cpu", seed=3, resume=True)

    def _trained(self, scheme: Scheme, seed: int) -> State:
        cast = self.cast()
        run(scheme.stages(cast), self.data(), device="cpu", seed=seed, progress=False)
        return states(cast)

    def _without_knowledge(self, scheme: Scheme, *, silent: bool) -> State:
        """Train on what the labels teach alone, where all other edges have weight 0 or are taken out."""
        cast = self.cast()
        for stage in scheme.stages(cast):
            labels = {node.name for node in stage.graph.nodes if not node.has_output and not node.writes}
            edges = [
                edge if edge.source in labels else dataclasses.replace(edge, weight=0.0)
                for edge in stage.graph.edges
                if silent or edge.source in labels
            ]
            if any(edge.source in labels for edge in edges):
                changed = dataclasses.replace(stage, graph=Graph(nodes=stage.graph.nodes, edges=edges))
                run([changed], self.data(), device="cpu", progress=False)
        return states(cast)


@contextmanager
def modes_while_called(networks: Sequence[nn.Module]) -> Iterator[list[bool]]:
    """Whether each call of one of the networks found it in training mode."""
    training: list[bool] = []
    hooks = [m.register_forward_hook(lambda module, *_: training.append(module.training)) for m in networks]
    try:
        yield training
    finally:
        for hook in hooks:
            hook.remove()


def leaks(stage: Stage, batch: Batch, *, task: TaskFacts | None = None) -> list[str]:
    """The edges whose loss has a gradient at weights that only their source has, though it was not asked for."""
    found = []
    for number, edge in enumerate(stage.graph.edges):
        if edge.source is None or edge.to_source or edge.moves or edge.weight == 0:
            continue
        nodes = {node.name: node for node in stage.graph.nodes}
        alone = dataclasses.replace(edge, schedule=None)
        flow = Flow(dataclasses.replace(stage, graph=Graph(nodes=stage.graph.nodes, edges=[alone])), batch, task=task)
        try:
            # Sources must be able to move, or their gradient would be absent for another reason.
            source = weights(nodes, edge.source) - weights(nodes, edge.target)
            flow.set_mode(training=True)
            total = flow(batch, 1.0).total
            given = [p for p in source if p.requires_grad]
            reached = torch.autograd.grad(total, given, allow_unused=True) if given else ()
            if any(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in reached):
                found.append(flow.names[0] if len(stage.graph.edges) == 1 else f"{number} {flow.names[0]}")
        finally:
            flow.close()
    return found


def weights(nodes: Mapping[str, Any], name: str) -> set[nn.Parameter]:
    """All weights that a node's output is made with."""
    node = nodes[name]
    own = {parameter for part in node.parts for parameter in part.parameters()}
    return own.union(*(weights(nodes, other) for other in node.made_of))


def transfer_loss(stage: Stage, batch: Batch, *, task: TaskFacts | None = None) -> float:
    """The largest loss of an edge between networks, in eval mode; branches are left out, for they have own heads."""
    kinds = {node.name: node for node in stage.graph.nodes}
    flow = Flow(stage, batch, task=task)
    try:
        flow.set_mode(training=False)
        with torch.no_grad():
            losses = flow(batch, 1.0, training=False).losses
    finally:
        flow.close()
    between = [
        float(loss.abs())
        for number, loss in losses.items()
        if (source := flow.edges[number].source) is not None
        and kinds[source].has_output
        and not kinds[source].has_head
        and kinds[flow.edges[number].target].network is not None
        and flow.edges[number].bridge is None
    ]
    return max(between, default=0.0)


def states(cast: Mapping[str, Any]) -> State:
    """A copy of the states of all networks of a cast."""
    found: State = {}
    for name, networks in cast.items():
        for number, network in enumerate(networks if isinstance(networks, list) else [networks]):
            found.update({f"{name}{number}.{k}": v.clone() for k, v in network.state_dict().items()})
    return found


def modes_of(cast: Mapping[str, Any]) -> list[bool]:
    """Whether each module of a cast is in training mode."""
    networks = [n for value in cast.values() for n in (value if isinstance(value, list) else [value])]
    return [module.training for network in networks for module in network.modules()]


def same(one: State, two: State) -> bool:
    """Whether two states are equal, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def first_batch(data: Data) -> Batch:
    """A few examples."""
    return data.train.fetch(torch.arange(8))
