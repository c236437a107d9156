"""Forms that are baked before tracing leave the network as it was."""

import torch
from tests.surgery.forms.chains import gives, made

from lessen.surgery.forms.half import Short
from lessen.surgery.forms.places import bake
from lessen.surgery.forms.registering import forms_of


def test_what_is_baked_is_plain() -> None:
    model = made("mask", "half")
    gave = gives(model)
    assert [type(form) for form in forms_of(bake(model).get_submodule("one"), "weight")] == [Short]
    assert torch.equal(gives(model), gave)
