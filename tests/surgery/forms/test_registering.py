"""A form that is registered on a copy of a network leaves the original alone."""

import pytest
import torch
from tests.surgery.forms.chains import MAKE, REFUSED, gives, made

from lessen.core.errors import NetworkError, PlanError
from lessen.surgery.copying import copy_network
from lessen.surgery.forms import registering
from lessen.surgery.forms.half import shorten_parameter


@pytest.mark.parametrize("first", [None, *MAKE])
@pytest.mark.parametrize("second", MAKE)
def test_a_form_on_a_copy_leaves_the_original_alone(first: str | None, second: str) -> None:
    model = made() if first is None else made(first)
    gave, state = gives(model), {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    twin = copy_network(model)
    try:
        twin = MAKE[second](twin)
    except (NetworkError, PlanError):
        assert (first, second) in REFUSED
    for module in (twin.conv, twin.one):
        shorten_parameter(module, "bias", brain=True)  # type: ignore[arg-type]
    assert torch.equal(gives(model), gave)
    assert [type(module) for module in model.modules()] == classes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_class_that_copies_share_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: forms are registered on the class that PyTorch gave the module, and its copies."""
    monkeypatch.setattr(registering, "own_class", lambda kind, **given: kind)
    with pytest.raises((AttributeError, KeyError)):
        test_a_form_on_a_copy_leaves_the_original_alone("mask", "half")
