"""A quantized network in which one module, or one form of a weight, is used in two places, on its way to a file."""

import pytest
import torch

from lessen.core import Operation
from lessen.deploy.export import trace
from lessen.operations import Quantize, QuantizeDynamic, QuantizeWeights
from lessen.testing.catalogue import LITTLE
from lessen.testing.networks import EXAMPLES, Example

WHOLE = {"a module": EXAMPLES["shared"], "a weight": LITTLE}


@pytest.mark.parametrize("example", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize(
    "steps",
    [(Quantize(),), (QuantizeDynamic(),), (QuantizeWeights(bits=3, group=None), Quantize())],
    ids=["static", "dynamic", "codes"],
)
def test_the_program_computes_what_the_network_does(example: Example, steps: tuple[Operation, ...]) -> None:
    """Exporters hand out proxies of such modules, which are other objects each time."""
    model = example.build()
    for step in steps:
        model = step.plan(model, example.context()).apply(model)
    program = trace(model, example.inputs()).module()
    with torch.no_grad():
        assert torch.equal(program(example.inputs()), model(example.inputs()))
