"""Any two operations, in both orders: what the first did survives the second, training, a file and export."""

import copy
import functools
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Operation, Plan, decode, encode
from lessen.core.errors import LessenError
from lessen.core.files import read_tensors, write_tensors
from lessen.deploy.export import export_onnx
from lessen.deploy.runtimes import open_session
from lessen.operations import Factorized, LowRank, PruneChannels, PrunedWeights, PruneWeights, Quantize
from lessen.operations.quantize import is_quantized
from lessen.surgery.attention import OpenAttention
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.mask import bake_masks, mask_of
from lessen.surgery.modules import get_module
from lessen.testing import EXAMPLES, OperationLaws
from lessen.testing.catalogue import LAYER, LITTLE, exported, in_turn, outputs

OPERATIONS: dict[str, Operation] = {
    "channels": PruneChannels(keep=0.5),
    "weights": PruneWeights(keep=0.4),
    "rank": LowRank(rank=3),
    "int8": Quantize(),
}
NETWORKS = ("convolutions", "attention")
PAIRS = list(itertools.permutations(OPERATIONS, 2))


@functools.cache
def first(network: str, name: str) -> tuple[Plan, nn.Module]:
    example = EXAMPLES[network]
    plan = OPERATIONS[name].plan(example.build(), example.context())
    return plan, plan.apply(example.build())


@functools.cache
def both(network: str, one: str, other: str) -> tuple[Plan, Plan, nn.Module]:
    plan, once = first(network, one)
    then = OPERATIONS[other].plan(once, EXAMPLES[network].context())
    return plan, then, then.apply(once)


def run(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(inputs)
    return out


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What the layers of a network multiply by."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            found[path] = module.weight.detach()
        elif isinstance(module, nn.MultiheadAttention | OpenAttention):
            found[path] = module.in_proj_weight.detach()
    return found


def still_there(name: str, plan: Plan, once: nn.Module, twice: nn.Module) -> None:
    """What the operation with this name did to `once` is found in `twice`."""
    before, after = weights_of(once), weights_of(twice)
    if name == "channels":
        assert sum(p.numel() for p in twice.parameters()) <= sum(p.numel() for p in once.parameters())
        for path in before.keys() & after.keys():
            assert all(new <= old for new, old in zip(after[path].shape, before[path].shape, strict=True)), path
    elif name == "weights":
        assert isinstance(plan, PrunedWeights)
        assert plan.masks
        for full in plan.masks:
            path = full.rpartition(".")[0]
            zeros, new = (before[path] == 0), after[path]
            assert float((new == 0).double().mean()) > 0.3, f"{full} is dense"
            if new.shape == zeros.shape:
                assert bool((new[zeros] == 0).all()), f"{full} was revived"
    elif name == "rank":
        assert isinstance(plan, Factorized)
        assert plan.ranks
        for path in plan.ranks:
            pair = get_module(twice, path)
            assert isinstance(pair, nn.Sequential)
            assert pair[0].weight.shape[0] == pair[1].weight.shape[1] <= 3
    else:
        assert is_quantized(twice)


def trained(model: nn.Module, network: str) -> nn.Module:
    """A few steps with everything that could undo an operation."""
    own = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(own.parameters(), 0.01, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        own(EXAMPLES[network].inputs()).square().sum().backward()
        optimizer.step()
    return own.eval()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_the_first_did_is_still_there(network: str, one: str, other: str) -> None:
    plan, then, twice = both(network, one, other)
    once = first(network, one)[1]
    still_there(one, plan, once, twice)
    after = trained(twice, network)
    still_there(one, plan, once, after)
    if not (one == "weights" and other == "rank"):  # pruned layers are left alone, with the reason
        still_there(other, then, twice, after)
    else:
        assert isinstance(then, Factorized)
        assert any("factorise first" in reason for reason in then.left.values())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_both_plans_are_replayed_and_the_file_loads(network: str, one: str, other: str, tmp_path: Path) -> None:
    plan, then, twice = both(network, one, other)
    twice = trained(twice, network)
    write_tensors(tmp_path / "weights.safetensors", twice.state_dict())
    known = Known.known()
    again = EXAMPLES[network].build(seed=1)
    for data in json.loads(json.dumps([encode(plan), encode(then)])):
        again = decode(data, known).apply(again, values=False)
    again.load_state_dict(read_tensors(tmp_path / "weights.safetensors"), strict=True)
    inputs = EXAMPLES[network].inputs()
    assert torch.equal(run(again, inputs), run(twice, inputs))


@pytest.mark.parametrize(("one", "other", "network"), in_turn(PAIRS, NETWORKS))
def test_the_exported_file_has_both(one: str, other: str, network: str, tmp_path: Path) -> None:
    _, _, twice = both(network, one, other)
    path = export_onnx(twice, EXAMPLES[network].inputs(), tmp_path / "model.onnx")
    session = open_session(path, threads=1)
    inputs = EXAMPLES[network].inputs(5)
    (out,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    error = 0.05 if "int8" in (one, other) else 1e-4
    assert np.abs(out - run(twice, inputs).numpy()).max() <= error
    stored = [onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    matrices = [each for each in stored if each.ndim >= 2 and each.size >= 30]
    assert matrices
    if "int8" in (one, other):
        small = [each for each in matrices if each.dtype == np.int8]
        assert sum(each.size for each in small) > 0.5 * sum(each.size for each in matrices)
        matrices = small
    if "weights" in (one, other):
        zeros = sum(int((each == 0).sum()) for each in matrices)
        assert zeros > 0.3 * sum(each.size for each in matrices)


class Known(OperationLaws):
    __test__ = False
    settings = tuple(OPERATIONS.values())


def test_an_operation_that_forgets_masks_would_be_caught() -> None:
    """The planted error: the second operation bakes the first one's zeros into plain weights, and training goes on."""
    plan, once = first("convolutions", "weights")
    other = bake_masks(OPERATIONS["weights"].plan(once, EXAMPLES["convolutions"].context()).apply(once))
    still_there("weights", plan, once, other)
    with pytest.raises(AssertionError, match=r"dense|revived"):
        still_there("weights", plan, once, trained(other, "convolutions"))


def test_an_operation_that_makes_plain_layers_would_be_caught() -> None:
    plan, once = first("convolutions", "rank")
    with pytest.raises(AssertionError):
        still_there("rank", plan, once, EXAMPLES["convolutions"].build())
    assert mask_of(once.stem[0], "weight") is None  # type: ignore[index,arg-type,union-attr]


ALL = exported()
WHOLE = {"little": LITTLE, "layer": LAYER}


@functools.cache
def begun(network: str, name: str) -> tuple[Plan, nn.Module] | None:
    """The plan and what it makes; None where the operation refuses the network."""
    try:
        plan = ALL[name].plan(WHOLE[network].build(), WHOLE[network].context())
        return plan, plan.apply(WHOLE[network].build())
    except LessenError:
        return None


@pytest.mark.parametrize("name", ALL)
def test_every_operation_does_something_to_the_little_network(name: str) -> None:
    found = begun("little", name)
    assert found is not None
    assert not torch.equal(outputs(found[1], LITTLE), outputs(LITTLE.build(), LITTLE)) or name in {"Equalize", "Smooth"}
    assert any(row["edit"] not in {"left alone", "as it is"} for row in found[0].describe())


@pytest.mark.parametrize("network", WHOLE)
@pytest.mark.parametrize("one", ALL)
def test_whatever_comes_second_the_first_network_is_as_it_was(network: str, one: str) -> None:
    """For every second operation: both networks before it give what they gave, in copies too; or it is refused."""
    example = WHOLE[network]
    if begun(network, one) is None:
        return
    plan, _ = begun(network, one)
    origin, again = example.build(), example.build()
    once = plan.apply(origin)
    assert torch.equal(outputs(once, example), outputs(plan.apply(again), example))
    before = [(outputs(each, example), copy.deepcopy(each.state_dict())) for each in (origin, once)]
    for other, operation in ALL.items():
        try:
            then = operation.plan(once, example.context())
            twice = then.apply(once)
        except LessenError:
            twice = None
        for each, (gave, state) in zip((origin, once), before, strict=True):
            assert torch.equal(outputs(each, example), gave), f"{other} changed what the network before it gives"
            now = each.state_dict()
            assert now.keys() == state.keys(), other
            assert all(torch.equal(now[name], state[name]) for name in state), other
        if twice is not None:
            gives = outputs(twice, example)
            assert torch.equal(outputs(copy_network(twice), example), gives), f"a copy of what {other} made"
            fresh = then.apply(plan.apply(again, values=False), values=False)
            fresh.load_state_dict(twice.state_dict(), strict=True)
            assert torch.equal(outputs(fresh, example), gives), f"{other}, from its plan and its weights"
    for each, (gave, _) in zip((origin, once), before, strict=True):
        assert torch.equal(outputs(copy_network(each), example), gave), "a copy gives something else"
