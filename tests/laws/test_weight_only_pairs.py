"""Codes and halves with every other operation: what the first did survives the second, training, a file and export."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Operation, Plan, decode, encode
from lessen.core.errors import PlanError
from lessen.core.files import read_tensors, write_tensors
from lessen.deploy.export import export_onnx
from lessen.deploy.runtimes import open_session
from lessen.operations import Gptq, Half, LowRank, PruneChannels, PruneWeights, Quantize, QuantizeWeights
from lessen.operations.quantize import is_quantized
from lessen.pipeline import pack, unpack
from lessen.surgery.forms.codes import Codes
from lessen.surgery.forms.half import Short
from lessen.surgery.forms.places import places
from lessen.surgery.forms.registering import form_of
from lessen.testing import EXAMPLES, OperationLaws
from lessen.testing.catalogue import in_turn

OPERATIONS: dict[str, Operation] = {
    "channels": PruneChannels(keep=0.5),
    "weights": PruneWeights(keep=0.4),
    "rank": LowRank(rank=3),
    "int8": Quantize(),
    "codes": QuantizeWeights(bits=4, group=16),
    "gptq": QuantizeWeights(bits=3, group=None, method=Gptq()),
    "half": Half(),
}
PAIRS = [
    *((first, "codes") for first in ("channels", "weights", "rank", "half")),
    *((first, "gptq") for first in ("weights", "rank")),
    *((first, "half") for first in ("channels", "weights", "rank", "codes")),
    *(("codes", second) for second in ("weights", "rank", "int8")),
    *(("half", second) for second in ("channels", "weights", "rank", "int8")),
]


def still_there(name: str, model: nn.Module) -> None:
    """What the operation with this name did is found in the network."""
    if name in {"codes", "gptq"}:
        found = [form_of(module, last, Codes) for _, module, last in places(model)]
        found = [codes for codes in found if codes is not None]
        assert found
        assert all(int(codes.codes.max()) < 16 for codes in found)
    elif name == "half":
        found_short = [(module, last) for _, module, last in places(model) if form_of(module, last, Short) is not None]
        assert found_short
        for module, last in found_short:
            weight = getattr(module, last).detach()
            assert torch.equal(weight.half().float(), weight) or weight.dim() > 1  # codes of halved steps are products
    elif name == "int8":
        assert is_quantized(model)
    elif name == "weights":
        zeros = [(module.weight == 0).double().mean() for module in model.modules() if isinstance(module, nn.Linear)]
        assert max(map(float, zeros)) > 0.5


def trained(model: nn.Module, inputs: Tensor) -> nn.Module:
    own = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(own.parameters(), 0.01, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        own(inputs).square().sum().backward()
        optimizer.step()
    return own.eval()


def run(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(inputs)
    return out


class Known(OperationLaws):
    __test__ = False
    settings = tuple(OPERATIONS.values())


@pytest.mark.parametrize(("one", "other", "network"), in_turn(PAIRS, ["convolutions", "attention"]))
def test_both_are_there_after_training_in_a_file_and_in_export(
    one: str, other: str, network: str, tmp_path: Path
) -> None:
    example, inputs = EXAMPLES[network], EXAMPLES[network].inputs(5)
    plan = OPERATIONS[one].plan(example.build(), example.context())
    once = plan.apply(example.build())
    then = OPERATIONS[other].plan(once, example.context())
    twice = trained(then.apply(once), example.inputs())
    alone = {("codes", "weights"), ("codes", "rank"), ("half", "rank")}  # left alone by the second, with the reason
    for name in (one, *([] if (one, other) in alone else [other])):
        still_there(name, twice)
    write_tensors(tmp_path / "weights.safetensors", twice.state_dict())
    again = example.build(seed=1)
    plans: list[Plan] = [decode(row, Known.known()) for row in json.loads(json.dumps([encode(plan), encode(then)]))]
    for each in plans:
        again = each.apply(again, values=False)
    again.load_state_dict(read_tensors(tmp_path / "weights.safetensors"), strict=True)
    assert torch.equal(run(again, inputs), run(twice, inputs))
    pack(twice, tmp_path / "packed.safetensors", plans=plans)
    assert torch.equal(run(unpack(tmp_path / "packed.safetensors", example.build(seed=1)), inputs), run(twice, inputs))
    path = export_onnx(twice, inputs, tmp_path / "model.onnx")
    session = open_session(path, threads=1)
    (out,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    assert np.abs(out - run(twice, inputs).numpy()).max() <= (0.05 if "int8" in (one, other) else 1e-4)


def test_channels_of_weights_in_codes_are_not_removed() -> None:
    example = EXAMPLES["convolutions"]
    once = OPERATIONS["codes"].plan(example.build(), example.context()).apply(example.build())
    with pytest.raises(PlanError, match="dequantize"):
        OPERATIONS["channels"].plan(once, example.context())
