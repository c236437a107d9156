"""The laws of operations, as a base class for tests: subclass it, list settings, and each law runs on each network.

class TestMine(OperationLaws):
    settings = (Mine(keep=0.75), Mine(keep=0.25))
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lessen import operations
from lessen.core import Card, Operation, Plan, decode, encode
from lessen.core.files import read_tensors, write_tensors
from lessen.testing.networks import EXAMPLES, Example


class OperationLaws:
    """What every operation promises, on every network that it is tried on.

    Attributes:
        settings: The operation with different settings, the loosest first, each tighter than the one before.
        networks: The networks to try it on.
        export_error: The largest difference allowed between PyTorch and the exported file.
    """

    settings: ClassVar[Sequence[Operation]]
    networks: ClassVar[Mapping[str, Example]] = EXAMPLES
    export_error: ClassVar[float] = 1e-4

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each law on each network, and with each setting where it asks for one."""
        if "network" in metafunc.fixturenames:
            metafunc.parametrize("network", list(self.networks.values()), ids=list(self.networks))
        if "operation" in metafunc.fixturenames:
            names = [f"{type(each).__name__}{number}" for number, each in enumerate(self.settings)]
            metafunc.parametrize("operation", list(self.settings), ids=names)

    @classmethod
    def save(cls, model: nn.Module, network: Example, path: Path) -> None:
        """Write the file whose size must not grow; a safetensors file unless a subclass says otherwise."""
        del network
        write_tensors(path, model.state_dict())

    @classmethod
    def known(cls) -> dict[str, type]:
        """The classes that a plan file may name: all settings of `lessen.operations`, and those tried here."""
        things: list[Any] = [getattr(operations, name) for name in operations.__all__]
        classes = [thing for thing in things if isinstance(thing, type) and dataclasses.is_dataclass(thing)]
        return {each.__name__: each for each in [*classes, *map(type, cls.settings)]}

    def test_it_keeps_the_contract(self, network: Example, operation: Operation) -> None:
        assert isinstance(operation, Operation)
        assert isinstance(operation.card, Card)
        assert decode(json.loads(json.dumps(encode(operation))), self.known()) == operation
        plan = _plan(operation, network)
        assert isinstance(plan, Plan)
        for row in plan.describe():
            assert {"module", "edit", "before", "after"} <= row.keys()
            assert all(isinstance(value, str) for value in row.values())

    def test_neutral_keeps_the_outputs(self, network: Example) -> None:
        model = network.build().double()
        inputs, context = network.inputs(dtype=torch.float64), network.context(dtype=torch.float64)
        same = type(self.settings[0]).neutral().plan(model, context).apply(model)
        assert torch.allclose(_run(same, inputs), _run(model, inputs), rtol=1e-9, atol=1e-12)

    def test_the_tightest_setting_changes_the_network(self, network: Example) -> None:
        model = network.build()
        small = _apply(self.settings[-1], network)
        assert not torch.equal(_run(small, network.inputs()), _run(model, network.inputs()))

    def test_the_network_that_came_in_is_unchanged(self, network: Example, operation: Operation) -> None:
        model = network.build()
        list(model.modules())[-1].train()
        before, random = _snapshot(model), torch.get_rng_state()
        small = operation.plan(model, network.context()).apply(model)
        after = _snapshot(model)
        memory = {value.data_ptr() for value in model.state_dict().values() if value.numel()}
        shared = [name for name, value in small.state_dict().items() if value.numel() and value.data_ptr() in memory]
        assert not shared, f"{shared} are the same memory in both: training one trains the other"
        assert before.keys() == after.keys()
        for name, value in before.items():
            same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
            assert same, f"{name} was changed"
        assert torch.equal(random, torch.get_rng_state()), "it drew from the global generator"

    def test_shapes_and_types_are_kept(self, network: Example, operation: Operation) -> None:
        model, small = network.build(), _apply(operation, network)
        for inputs in (network.inputs(), network.inputs(1)):
            before, after = _run(model, inputs), _run(small, inputs)
            assert after.shape == before.shape
            assert after.dtype == before.dtype
            assert bool(torch.isfinite(after).all())
        assert not small.training
        assert {p.dtype for p in small.parameters()} == {p.dtype for p in model.parameters()}

    def test_every_remaining_parameter_gets_a_gradient(self, network: Example, operation: Operation) -> None:
        small = _apply(operation, network).train()
        named = dict(small.named_parameters())
        gradients = torch.autograd.grad(small(network.inputs()).square().sum(), [*named.values()], allow_unused=True)
        found = zip(named, gradients, strict=True)
        without = [name for name, gradient in found if gradient is None or not bool(gradient.isfinite().all())]
        assert not without

    def test_a_tighter_setting_never_writes_a_larger_file(self, network: Example, tmp_path: Path) -> None:
        sizes = []
        for number, operation in enumerate((type(self.settings[0]).neutral(), *self.settings)):
            path = tmp_path / str(number)
            self.save(_apply(operation, network), network, path)
            sizes.append(path.stat().st_size)
        assert sizes == sorted(sizes, reverse=True), f"{sizes} bytes, from neutral to tightest"

    def test_the_same_seed_gives_the_same_network(self, network: Example, operation: Operation) -> None:
        plan = _plan(operation, network)
        torch.rand(7)
        again = operation.plan(network.build(), network.context())
        assert encode(plan) == encode(again)
        _same_state(plan.apply(network.build()), again.apply(network.build()))

    def test_what_was_shared_is_shared(self, network: Example, operation: Operation) -> None:
        model, small = network.build(), _apply(operation, network)
        for before, after in (
            (model.named_modules(remove_duplicate=False), small.named_modules(remove_duplicate=False)),
            (model.named_parameters(remove_duplicate=False), small.named_parameters(remove_duplicate=False)),
        ):
            known: dict[str, Any] = dict(after)
            places: dict[int, list[str]] = {}
            for name, thing in before:
                places.setdefault(id(thing), []).append(name)
            for names in places.values():
                assert len({id(known[name]) for name in names if name in known}) <= 1, f"{names} went apart"

    def test_a_plan_is_data_that_is_replayed(self, network: Example, operation: Operation, tmp_path: Path) -> None:
        plan = _plan(operation, network)
        small = plan.apply(network.build())
        with torch.no_grad():  # as after training: what is loaded is in the file, not in the plan
            for parameter in small.parameters():
                parameter.mul_(1.5)
        write_tensors(tmp_path / "weights.safetensors", small.state_dict())
        again = decode(json.loads(json.dumps(encode(plan), allow_nan=False)), self.known())
        assert again == plan
        fresh = again.apply(network.build(seed=1), values=False)
        fresh.load_state_dict(read_tensors(tmp_path / "weights.safetensors"), strict=True)
        assert torch.equal(_run(fresh, network.inputs()), _run(small, network.inputs()))
        _same_state(again.apply(network.build()), plan.apply(network.build()))

    def test_the_exported_file_computes_the_same(self, network: Example, tmp_path: Path) -> None:
        from lessen.deploy.export import export_onnx
        from lessen.deploy.runtimes import open_session

        small = _apply(self.settings[-1], network)
        path = export_onnx(small, network.inputs(), tmp_path / "model.onnx")
        session = open_session(path, threads=1)
        inputs = network.inputs(5)
        (out,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        assert np.abs(out - _run(small, inputs).numpy()).max() <= self.export_error


_PLANS: dict[tuple[type, str, Example], Plan] = {}


def _plan(operation: Operation, network: Example) -> Plan:
    """The plan, made once: a plan is data, and planning can take a second."""
    key = (type(operation), json.dumps(encode(operation)), network)
    if key not in _PLANS:
        _PLANS[key] = operation.plan(network.build(), network.context())
    return _PLANS[key]


def _apply(operation: Operation, network: Example) -> nn.Module:
    return _plan(operation, network).apply(network.build())


def _run(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = copy.deepcopy(model).eval()(inputs)
    return out


def _same_state(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def _snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a network that an operation could disturb."""
    found: dict[str, Any] = {f"state {name}": value.clone() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[f"module {name}"] = (id(module), type(module), module.training, [len(hook) for hook in hooks])
    for name, parameter in model.named_parameters():
        found[f"parameter {name}"] = (id(parameter), parameter.requires_grad, parameter.grad is None)
    return found
