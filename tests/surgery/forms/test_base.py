"""Every form over every other, in both orders: it combines, in states and copies too, or refuses in one sentence."""

import re
from typing import ClassVar

import pytest
import torch
from tests.surgery.forms.chains import CHAINS, MAKE, REFUSED, check_values, gives, made
from tests.surgery.forms.signs import Signs
from torch import nn

from lessen.core.errors import NetworkError, PlanError
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.codes import Codes
from lessen.surgery.forms.half import Short
from lessen.surgery.forms.mask import Mask
from lessen.surgery.forms.places import Owners, store
from lessen.surgery.forms.stored import stored_state
from lessen.surgery.packing import Known


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_forms_combine(chain: tuple[str, ...]) -> None:
    model = made(*chain)
    check_values(chain, model)
    gave = gives(model)
    state = model.state_dict()
    assert not any("parametrizations" in name for name in state)
    fresh = made(*chain, seed=3)
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(gives(fresh), gave)
    assert fresh.state_dict().keys() == state.keys()
    assert torch.equal(gives(copy_network(model)), gave)
    simpler, _ = stored_state(model)
    fresh.load_state_dict(simpler, strict=True)
    assert torch.equal(gives(fresh), gave), "what is stored is not what the network is"


@pytest.mark.parametrize("pair", REFUSED, ids="+".join)
def test_or_are_refused_in_one_sentence(pair: tuple[str, str]) -> None:
    model = made(pair[0])
    gave = gives(model)
    with pytest.raises((NetworkError, PlanError), match=re.escape(REFUSED[pair])) as error:
        MAKE[pair[1]](model)
    assert str(error.value).count(". ") <= 1
    assert torch.equal(gives(model), gave)


def test_a_form_that_does_not_refuse_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: codes of codes."""
    monkeypatch.setattr(Codes, "under_form", lambda form: "")
    with pytest.raises((RuntimeError, AssertionError)):
        check_values(("codes", "codes"), made("codes", "codes"))


def test_a_mask_that_does_not_hold_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: a mask only acts on what is written."""
    monkeypatch.setattr(Mask, "forward", lambda form, tensor: tensor + 0.1)
    with pytest.raises(AssertionError, match="what was masked is back"):
        check_values(("mask",), made("mask"))


def test_a_simpler_value_that_is_another_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Short, "simpler", lambda form, stored: (stored.bfloat16().float(), Known()))
    with pytest.raises(AssertionError, match="what is stored is not what the network is"):
        test_forms_combine(("half",))


def test_what_does_not_learn_is_frozen() -> None:
    class Fixed(Signs):
        learns: ClassVar[bool] = False

    network = nn.Sequential(nn.Linear(4, 3))
    weight = network[0].weight.detach()
    store(Owners(network), network[0], "weight", Fixed(weight), weight.abs().mean(1, keepdim=True))
    assert [name for name, each in network.named_parameters() if each.requires_grad] == ["0.bias"]
