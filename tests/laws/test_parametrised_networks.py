"""Networks that come in with weight norm, spectral norm, masks of PyTorch or a parametrisation of their own."""

import copy
import json
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from lessen.core import decode, encode
from lessen.core.errors import NetworkError
from lessen.surgery.forms.mask import mask_parameter
from lessen.surgery.forms.registering import parametrised
from lessen.surgery.plain import folded_rows, foreign, plain
from lessen.testing import Example, OperationLaws
from lessen.testing.catalogue import LITTLE, Little, exported, outputs


class Doubled(nn.Module):
    """A parametrisation of the user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight.tanh()


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.rand_like(weight)


def old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(module)


FORMS = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": old_weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "prune": lambda module: prune.random_unstructured(module, "weight", 0.5),
    "pruned twice": lambda module: [prune.random_unstructured(module, "weight", 0.3) for _ in range(2)],
    "own": lambda module: parametrize.register_parametrization(module, "weight", Doubled()),
    "own bias": lambda module: parametrize.register_parametrization(module, "bias", Doubled()),
}


def with_forms(*chosen: str) -> nn.Module:
    """The little network, in training mode, with a form on each of its layers in turn."""
    network = Little()
    layers = [network.blocks[0].inner, network.head, network.conv, network.stem]
    for name, layer in zip(chosen, layers, strict=False):
        FORMS[name](layer)
    return network


MIXED = {
    "new": Example(lambda: with_forms("orthogonal", "spectral norm", "weight norm", "prune"), (2, 4, 4), classes=3),
    "old": Example(lambda: with_forms("own bias", "own", "old weight norm", "old spectral norm"), (2, 4, 4), classes=3),
}


class Known(OperationLaws):
    __test__ = False
    settings = tuple(exported().values())


KNOWN = Known.known()


@pytest.mark.parametrize("name", FORMS)
def test_what_is_folded_gives_the_same_outputs(name: str) -> None:
    network = Example(lambda: with_forms(name), (2, 4, 4)).build()
    gave, state = outputs(network, LITTLE), copy.deepcopy(network.state_dict())
    network.train()
    folded = plain(network)
    assert not list(foreign(folded))
    assert all(not parametrised(module) for module in folded.modules())
    assert folded.state_dict().keys() == Little().state_dict().keys()
    assert [type(module) for module in folded.modules()] == [type(module) for module in Little().modules()]
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in folded.parameters())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(outputs(folded, LITTLE), gave)
    assert torch.equal(outputs(network, LITTLE), gave)
    (row,) = folded_rows(network)
    assert row["module"].startswith("blocks.0.inner.")
    assert plain(folded) is folded
    folded.load_state_dict(folded.state_dict(), strict=True)


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("name", exported())
def test_every_operation_does_to_it_what_it_does_to_plain_weights(kind: str, name: str) -> None:
    operation, example = exported()[name], MIXED[kind]
    network = example.build()
    gave, state = outputs(network, LITTLE), copy.deepcopy(network.state_dict())
    plan = operation.plan(network, example.context())
    small = plan.apply(network)
    assert torch.equal(outputs(network, LITTLE), gave)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    gives = outputs(small, LITTLE)
    assert not list(foreign(small))
    known = plain(network)
    assert torch.equal(outputs(plan.apply(known), LITTLE), gives)
    if name != "PruneChannels":  # a second proof costs as much as all the others
        assert encode(operation.plan(known, example.context())) == encode(plan)
    again = decode(json.loads(json.dumps(encode(plan))), KNOWN)
    fresh = again.apply(example.build(seed=1), values=False)
    fresh.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(outputs(fresh, LITTLE), gives)


def test_what_is_drawn_anew_or_shared_is_refused_in_words() -> None:
    noisy = Little()
    parametrize.register_parametrization(noisy.conv, "weight", Noisy())
    with pytest.raises(NetworkError, match=r"conv\.weight is computed by Noisy, which gives other values each time"):
        plain(noisy)
    shared = Little()
    parametrize.register_parametrization(shared.tied, "weight", Doubled())
    with pytest.raises(NetworkError, match="another module shares"):
        plain(shared)
    late = Little()
    mask_parameter(late.conv, "weight", torch.ones_like(late.conv.weight, dtype=torch.bool))
    parametrize.register_parametrization(late.conv, "weight", Doubled())
    with pytest.raises(NetworkError, match="before the first operation"):
        plain(late)
