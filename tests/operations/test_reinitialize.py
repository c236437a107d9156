"""Weights that are drawn again, behind the forms that store them."""

import torch
from tests.surgery.forms.chains import X, check_values, made

from lessen.core import Context
from lessen.operations import Reinitialize


def test_weights_are_drawn_again_behind_forms_that_store_them() -> None:
    context = Context(inputs=X)
    for name in ("mask", "half", "grid"):
        model = made(name)
        drawn = Reinitialize().plan(model, context).apply(model)
        if name != "grid":  # nothing is registered on the layers then
            check_values((name,), drawn)
        assert float((drawn.get_submodule("one").weight != model.get_submodule("one").weight).double().mean()) > 0.4
    for name in ("codes", "signs"):
        model = made(name)
        plan = Reinitialize().plan(model, context)
        words = {"codes": "as integer codes", "signs": "as signs"}[name]
        assert plan.left == dict.fromkeys(
            ("conv.weight", "one.weight", "two.weight"), f"it is stored {words}, which cannot be drawn"
        )
        drawn = plan.apply(model)
        assert torch.equal(drawn.get_submodule("one").weight, model.get_submodule("one").weight)
        assert not torch.equal(drawn.get_submodule("one").bias, model.get_submodule("one").bias)
