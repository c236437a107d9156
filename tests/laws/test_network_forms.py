"""Every form in which people hold a network works, or is refused by name and with the way out, by everything."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen.core import Operation
from lessen.core.data import map_inputs
from lessen.core.errors import NetworkError
from lessen.core.settings import encode
from lessen.deploy import export_onnx
from lessen.testing.catalogue import LITTLE, exported, outputs

OPERATIONS = exported()
IMAGES = torch.rand(60, 2, 4, 4), torch.arange(60) % 3


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.DataParallel(LITTLE.build())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


def torch_ao(*, static: bool) -> nn.Module:
    quantization: Any = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not static:
            made: nn.Module = quantization.quantize_dynamic(LITTLE.build().eval(), {nn.Linear})
            return made
        stub = nn.Sequential(quantization.QuantStub(), nn.Conv2d(2, 3, 3), nn.Flatten()).eval()
        stub.qconfig = quantization.default_qconfig  # type: ignore[assignment]
        prepared: nn.Module = quantization.prepare(stub)
        prepared(LITTLE.inputs())
        converted: nn.Module = quantization.convert(prepared)
        return converted


def prepared() -> nn.Module:
    quantization: Any = torch.ao.quantization
    network = LITTLE.build().eval()
    network.qconfig = quantization.default_qconfig  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = quantization.prepare(network)
    return made


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.jit.trace(LITTLE.build().eval(), LITTLE.inputs())
    return made


def sparse() -> nn.Module:
    network = LITTLE.build()
    network.get_submodule("head").weight = nn.Parameter(torch.rand(3, 8).to_sparse())
    return network


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "half": (lambda: LITTLE.build().half(), r"computes in float16, but its inputs are float32. Call network.float\(\)"),
    "bfloat16": (lambda: LITTLE.build().bfloat16(), r"computes in bfloat16, .* Call network.float\(\)"),
    "double": (lambda: LITTLE.build().double(), r"computes in float64, .* Call network.float\(\)"),
    "meta": (lambda: LITTLE.build().to("meta"), r"no weights yet .*meta device.*load_state_dict"),
    "scripted": (scripted, r"scripted or traced by torch.jit .* network that it was made from"),
    "dynamic int8": (lambda: torch_ao(static=False), r"quantized already by torch.ao \(Linear at .*as it was before"),
    "static int8": (lambda: torch_ao(static=True), r"quantized already by torch.ao \(.*as it was before"),
    "prepared": (prepared, r"prepared for quantizing by torch.ao \(.*as it was before"),
    "lazy": (Lazy, r"has not found its sizes yet \('head.weight'.* Run it once"),
    "sparse": (sparse, r"keeps 'head.weight' as a sparse tensor. Call to_dense"),
    "wrapped inside": (Inside, r"holds a DataParallel at 'body'. Give the network inside it"),
    "class": (lambda: Lazy, r"is the class Lazy; give .* Lazy\(\.\.\.\)"),
    "state dict": (lambda: LITTLE.build().state_dict(), r"is a dict of weights; .*load_state_dict"),
    "function": (lambda: torch_ao, r"is a function; .* Call it, if it builds the network"),
}
PATHS: dict[str, tuple[Callable[[], Any], str]] = {
    "text": (lambda: "net.pt", r"is the text 'net.pt'; .*torch.load"),
    "path": (lambda: Path("net.pt"), r"is the path 'net.pt'; .*torch.load"),
}
WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda network: torch.compile(network, backend="eager"),  # type: ignore[return-value]
    "data parallel": nn.DataParallel,
    "both": lambda network: nn.DataParallel(torch.compile(network, backend="eager")),  # type: ignore[arg-type]
}
BOTH = REFUSED | PATHS


@pytest.fixture(params=list(BOTH))
def refused(request: pytest.FixtureRequest) -> tuple[Any, str]:
    build, says = BOTH[request.param]
    return build(), says


def test_every_operation_refuses_it(refused: tuple[Any, str]) -> None:
    network, says = refused
    for operation in OPERATIONS.values():
        with pytest.raises(NetworkError, match=says):
            operation.plan(network, LITTLE.context())


def test_compress_refuses_it_before_anything_is_written(refused: tuple[Any, str], tmp_path: Path) -> None:
    network, says = refused
    for networks in ({"teacher": network}, {"teacher": LITTLE.build(), "student": network}):
        with pytest.raises(NetworkError, match=says):
            lessen.compress(data=IMAGES, steps=[lessen.operations.Half()], run=tmp_path / "run", **networks)
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_it(refused: tuple[Any, str], tmp_path: Path) -> None:
    network, says = refused
    with pytest.raises(NetworkError, match=says):
        export_onnx(network, LITTLE.inputs(), tmp_path / "model.onnx")


@pytest.mark.parametrize("form", list(REFUSED))
def test_measure_refuses_it(form: str) -> None:
    build, says = REFUSED[form]
    with pytest.raises(NetworkError, match=says):
        lessen.measure(build(), lessen.data.load(IMAGES), repeats=6)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_wrapper_is_taken_off(operation: Operation) -> None:
    network, context = LITTLE.build(), LITTLE.context()
    plan = operation.plan(network, context)
    wanted = outputs(plan.apply(network), LITTLE)
    for wrap in WRAPPED.values():
        wrapped = wrap(LITTLE.build())
        assert encode(operation.plan(wrapped, context)) == encode(plan)
        small = plan.apply(wrapped)
        assert type(small).__name__ not in {"OptimizedModule", "DataParallel"}
        assert torch.equal(outputs(small, LITTLE), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_operations_take_any_precision_that_the_inputs_have(dtype: torch.dtype) -> None:
    from lessen.operations import PruneChannels, Quantize

    context = LITTLE.context()
    inputs = map_inputs(context.inputs, lambda value: value.to(dtype))
    calibration = [
        replace(batch, inputs=map_inputs(batch.inputs, lambda v: v.to(dtype))) for batch in context.calibration
    ]
    context = replace(context, inputs=inputs, calibration=calibration)
    for operation in (PruneChannels(keep=0.5), Quantize()):
        network = LITTLE.build().eval().to(dtype)
        small = operation.plan(network, context).apply(network)
        with torch.no_grad():
            assert small(inputs).dtype == dtype


def test_a_wrapped_network_is_measured_as_itself() -> None:
    bare, wrapped = (
        [record for record in lessen.measure(network) if record.figure != "bytes"]
        for network in (LITTLE.build(), nn.DataParallel(LITTLE.build()))
    )
    assert [(row.figure, row.value) for row in bare] == [(row.figure, row.value) for row in wrapped]
