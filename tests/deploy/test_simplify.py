"""Simplifying a graph: onnxscript's own optimiser is the oracle, and the number of calls shows how the cost grows."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import pytest
import torch
from onnxscript import rewriter
from onnxscript.rewriter.rules import common
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.deploy import simplify as module
from lessen.deploy.export import export_onnx
from lessen.deploy.onnx_model import OPSET
from lessen.deploy.simplify import simplify
from lessen.operations import Quantize
from lessen.zoo import residual, transformer

SIZE = (2, 1, 8, 8)


class Odds(nn.Module):
    """Operators that the rules are for: no-ops, twice the same, clips in a row, halves that are slices."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.convolution(nn.functional.pad(x * 1 + 0, (1, 1, 1, 1))))
        y = nn.functional.relu6(y.relu()).clamp(0.5, 4.0).flatten(1).reshape(-1, 4, 100).transpose(1, 2).transpose(1, 2)
        half = y.shape[-1] // 2
        return (y[..., :half] * y[..., half:]).unsqueeze(1).unsqueeze(1) + y.sum().expand(1)


def quantized(network: nn.Module) -> nn.Module:
    x = torch.randn(SIZE)
    context = Context(inputs=x, calibration=[Batch(x, torch.arange(2))])
    return Quantize().plan(network.eval(), context).apply(network)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "odds": Odds,
    "residual, int8": lambda: quantized(residual(depth=8, width=4)),
    "transformer": lambda: transformer(image=8, patch=4, dim=8, depth=1, heads=2, fused=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_result_is_that_of_onnxscript(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    nodes: list[int] = []
    shown: list[tuple[Any, Any]] = []

    def both(model: ir.Model) -> None:
        other = model.clone()
        nodes.append(model.graph.num_nodes())
        simplify(model)
        onnxscript.optimizer.optimize_ir(other)
        nodes.append(model.graph.num_nodes())
        shown.append((_content(model), _content(other)))

    monkeypatch.setattr("lessen.deploy.onnx_model.simplify", both)
    export_onnx(NETWORKS[name]().eval(), torch.randn(SIZE), tmp_path / "model.onnx")
    before, after = nodes
    assert after < before
    assert shown[0][0] == shown[0][1]


def _content(model: ir.Model) -> list[Any]:
    """The graph without the names of values, which count what was made on the way."""
    number: dict[ir.Value | None, int] = {None: -1}
    found: list[Any] = []
    for value in model.graph.inputs:
        number[value] = len(number)
    for node in model.graph:
        for value in node.inputs:
            if value not in number:
                number[value] = len(number)
                assert value.const_value is not None
                found.append((number[value], value.const_value.dtype, value.const_value.tobytes()))
        for value in node.outputs:
            number[value] = len(number)
        settings = [(name, str(node.attributes[name])) for name in sorted(node.attributes)]
        found.append((node.op_type, settings, [number[value] for value in (*node.inputs, *node.outputs)]))
    return [*found, [number[value] for value in model.graph.outputs]]


def test_every_rule_of_onnxscript_is_applied_but_one() -> None:
    its = {id(rule) for rule in rewriter._DEFAULT_REWRITE_RULES}
    named = {id(getattr(common, name)) for name in module._RULES.split()}
    both_ways = sum(len(getattr(common, name).commute()) for name in module._COMMUTE)
    assert its - named >= {id(common.slice_split_rule)}
    assert named <= its
    assert len(its - named) == both_ways + 1


def test_calls_grow_with_the_nodes() -> None:
    calls = [_calls_on(ir.Model(_chain(length), ir_version=10)) for length in (50, 100, 150)]
    one, two = calls[1] - calls[0], calls[2] - calls[1]
    assert two == pytest.approx(one, rel=0.02)


def _chain(length: int) -> ir.Graph:
    """So many additions of a constant in a row."""
    shape, kind = ir.Shape([4]), ir.TensorType(ir.DataType.FLOAT)
    first = value = ir.Value(name="x", shape=shape, type=kind)
    nodes = []
    one = ir.Value(name="one", shape=shape, type=kind, const_value=ir.tensor([1.0, 2.0, 3.0, 4.0], name="one"))
    for _ in range(length):
        nodes.append(ir.node("Add", [value, one]))
        value = nodes[-1].outputs[0]
    return ir.Graph([first], [value], nodes=nodes, initializers=[one], opset_imports={"": OPSET})


def _calls_on(model: ir.Model) -> int:
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    simplify(ir.Model(_chain(2), ir_version=10))  # what is only done once in a process
    known = sys.getprofile()
    sys.setprofile(seen)
    try:
        simplify(model)
    finally:
        sys.setprofile(known)
    return count
