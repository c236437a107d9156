"""A program in operators that have a translation: the network itself is the oracle, also at other sizes."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lessen.deploy import export, lowered, onnx_model
from lessen.operations import Quantize
from lessen.testing.networks import EXAMPLES

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(3, 4, 8, 7, generator=torch.Generator().manual_seed(1))


@functools.cache
def known() -> frozenset[Any]:
    return lowered.translated()


class Written(nn.Module):
    """A convolution and a norm, and what is done with their result."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.norm, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), after
        self.norm.running_mean = torch.randn(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.norm(self.convolution(x)))


def also_before(y: Tensor) -> Tensor:
    z = y + 1
    y.relu_()
    return y * z


def read_again(y: Tensor) -> Tensor:
    y.relu_()
    y.add_(1)
    return y * 2


def the_old_name(y: Tensor) -> Tensor:
    y.relu_().add_(1)
    return functional.avg_pool2d(y, 2)


def over_dropout(y: Tensor) -> Tensor:
    z = functional.dropout(y, 0.5, training=False)
    z.relu_()
    return y * 2


def a_sum(y: Tensor) -> Tensor:
    z = functional.hardswish(y * 2, inplace=True)
    z += y
    return functional.adaptive_avg_pool2d(functional.leaky_relu(z, inplace=True), 1).flatten(1)


def in_one_shape(y: Tensor) -> Tensor:
    return (y.flatten(1, 2) * 3).reshape_as(y).flatten(2).transpose(1, 2)


def whole_numbers(y: Tensor) -> Tensor:
    return (y * 2 + 1) ** 2 / 3


def no_copy(y: Tensor) -> Tensor:
    z = y.contiguous()
    z.relu_()
    return y + z


def one_chunk(y: Tensor) -> Tensor:
    (whole,) = y.chunk(1, 1)
    one, other = whole.chunk(2, 1)
    return (one.contiguous() + other.narrow(1, 0, 2)).mT.contiguous() + y[:, :1].mT.expand_as(one.mT)


def a_copy_asked_for(y: Tensor) -> Tensor:
    z = y.to(torch.float32, copy=True)
    z.relu_()
    return y + z


def other_precision(y: Tensor) -> Tensor:
    return (y.double() + 1).to(torch.float32) + (y > 0).to(y.dtype)


def a_lone_slice(y: Tensor) -> Tensor:
    z = torch.cat([y, y], 1)[:, 1:5].transpose(2, 3)
    z += 1
    return z * 2


DIRECT = [
    a_lone_slice,
    also_before,
    read_again,
    the_old_name,
    over_dropout,
    a_sum,
    in_one_shape,
    whole_numbers,
    no_copy,
    one_chunk,
    a_copy_asked_for,
    other_precision,
]


def two_slices(y: Tensor) -> Tensor:
    one, other = y[:, :3], y[:, 2:]
    one.relu_()
    return other + 1


def a_view_before(y: Tensor) -> Tensor:
    v = y.transpose(2, 3)
    y.relu_()
    return v + 1


def a_view_after(y: Tensor) -> Tensor:
    v = y.flatten(1)
    v.relu_()
    return y + 1


def a_part(y: Tensor) -> Tensor:
    one, _ = y.chunk(2, 1)
    one.relu_()
    return y + 1


def a_slice(y: Tensor) -> Tensor:
    y[:, 0] = 0
    return y + 1


def turned(y: Tensor) -> Tensor:
    v = torch.einsum("bchw->bcwh", y)
    v.relu_()
    return y + 1


TAKEN_APART = [two_slices, a_view_before, a_view_after, a_part, a_slice]


def test_a_view_of_which_the_operator_says_nothing_is_taken_apart() -> None:
    """PyTorch's exporter itself overlooks that `einsum` returned a view; verification tells."""
    assert lowered.lowered(export.trace(Written(turned).eval(), X), known()) is None


def a_copy(y: Tensor) -> Tensor:
    turned = y.transpose(2, 3)
    z = turned.contiguous()
    z.relu_()
    return turned + z


@torch.no_grad()
@pytest.mark.parametrize("after", [*DIRECT, *TAKEN_APART, a_copy], ids=lambda after: after.__name__)
def test_what_is_written_is_what_is_read(after: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """Also through the exporter, which takes over where this gives up."""
    torch.manual_seed(0)
    network = Written(after).eval()
    program = export.trace(network, X)
    changed = lowered.lowered(program, known())
    assert (changed is not None) == (after in DIRECT)
    if changed is not None:
        assert torch.equal(changed.module()(OTHER), network(OTHER))
    written = export.export_onnx(network, X, tmp_path / "m.onnx", program=program)
    session = onnxruntime.InferenceSession(str(written))
    (given,) = session.run(None, {session.get_inputs()[0].name: OTHER.numpy()})
    np.testing.assert_allclose(given, network(OTHER).detach().numpy(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("after", TAKEN_APART, ids=lambda after: after.__name__)
def test_the_oracle_can_fail(after: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is taken for a node's own that is not, the result differs, or the operator is still refused."""
    torch.manual_seed(0)
    network = Written(after).eval()
    monkeypatch.setattr(lowered, "_owns_memory", lambda node: True)
    changed = lowered.lowered(export.trace(network, X), known())
    assert changed is None or not torch.equal(changed.module()(OTHER), network(OTHER))


@pytest.mark.parametrize("rounded", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_files_compute_what_the_exporter_writes_by_itself(
    name: str, rounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = EXAMPLES[name]
    network, inputs = case.build(), case.inputs(4)
    if rounded:
        network = Quantize().plan(network, case.context()).apply(network)
    program = export.trace(network, inputs)
    if name != "convolutions":  # which pools free sizes to two positions
        assert lowered.lowered(program, known() | onnx_model.own_translations().keys()) is not None
    results: list[Any] = []
    counts: list[list[str]] = []
    for kind, way in {"direct": lowered.lowered, "plain": lambda program, known: None}.items():
        monkeypatch.setattr(onnx_model, "lowered", way)
        file = export.export_onnx(network, inputs, tmp_path / f"{kind}.onnx", program=program)
        session = onnxruntime.InferenceSession(str(file))
        results.append(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
        counts.append(sorted(node.op_type for node in onnx.load(file).graph.node))
    assert np.array_equal(*results)
    assert counts[0] == counts[1]
