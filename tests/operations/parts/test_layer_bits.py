"""Some layers at other bits than the rest: in plans, in what is computed, in recipes; and embeddings in codes."""

import dataclasses
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from torch import Tensor, nn

from lessen.core import Batch, Context, decode, encode
from lessen.core.errors import LessenError, PlanError
from lessen.operations import LayerBits, Mixed, Nearest, Quantize, QuantizeWeights
from lessen.recipe import Recipe, read_recipe, schema, shipped
from lessen.surgery.forms.codes import Codes
from lessen.surgery.forms.registering import form_of
from lessen.testing import EXAMPLES

EXAMPLE = EXAMPLES["convolutions"]
ENDS = LayerBits(where=("stem", "head"), bits=8)


def distinct(weight: Tensor) -> int:
    """How many values a row of a weight has at most."""
    return max(len(row.unique()) for row in weight.flatten(1))


def test_ends_keep_eight_bits_and_the_rest_has_three() -> None:
    plan = Quantize(weight_bits=3, layer_bits=(ENDS,)).plan(EXAMPLE.build(), EXAMPLE.context())
    assert plan.weights == {"stem": 8, "inner": 3, "depthwise": 3, "head": 8}
    rows = {(row["module"], " ".join(row["after"].replace(",", "").split()[:2])) for row in plan.describe()}
    assert {("head", "8-bit weights"), ("inner", "3-bit weights")} <= rows
    small = plan.apply(EXAMPLE.build())
    assert {path: small.grids.limit(path) for path in plan.weights} == {
        "stem": 127,
        "inner": 3,
        "depthwise": 3,
        "head": 127,
    }
    coarse, full = (
        Quantize(weight_bits=3).plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build()),
        EXAMPLE.build(),
    )
    inputs = EXAMPLE.inputs(64)
    with torch.no_grad():
        error = [float((network(inputs) - full(inputs)).square().mean()) for network in (small, coarse)]
    assert error[0] < error[1]


def test_the_first_that_means_a_layer_counts() -> None:
    first = (LayerBits(where="stem", bits=6), LayerBits(where=nn.Conv2d, bits=4))
    plan = Quantize(weight_bits=8, layer_bits=first).plan(EXAMPLE.build(), EXAMPLE.context())
    assert plan.weights == {"stem": 6, "inner": 4, "depthwise": 4, "head": 8}


def test_a_budget_is_that_of_the_others() -> None:
    mixed = Mixed(average=4.0, options=(2, 4, 8))
    plan = Quantize(weight_bits=mixed, layer_bits=(ENDS,)).plan(EXAMPLE.build(), EXAMPLE.context())
    assert plan.weights["stem"] == plan.weights["head"] == 8
    sizes = {path: EXAMPLE.build().get_submodule(path).weight.numel() for path in ("inner", "depthwise")}
    spent = sum(plan.weights[path] * size for path, size in sizes.items())
    assert spent <= 4 * sum(sizes.values())
    everything = Quantize(weight_bits=mixed, layer_bits=(LayerBits(where=None, bits=5),))
    assert set(everything.plan(EXAMPLE.build(), EXAMPLE.context()).weights.values()) == {5}


def test_weights_alone_have_bits_by_name() -> None:
    weights = QuantizeWeights(bits=2, group=None, method=Nearest(), layer_bits=(LayerBits(where="head", bits=8),))
    plan = weights.plan(EXAMPLE.build(), EXAMPLE.context())
    small = plan.apply(EXAMPLE.build())
    assert {name: form_of(small.get_submodule(name), "weight", Codes).bits for name in ("inner", "head")} == {
        "inner": 2,
        "head": 8,
    }
    assert distinct(small.inner.weight) <= 4 < distinct(small.head.weight)
    after = {row["module"]: row["after"] for row in plan.describe()}
    assert after["head.weight"].startswith("8 bits")
    assert after["inner.weight"].startswith("2 bits")
    again = decode(encode(plan), {"QuantizedWeights": type(plan)}).apply(EXAMPLE.build())
    assert torch.equal(again(EXAMPLE.inputs()), small(EXAMPLE.inputs()))


@pytest.mark.parametrize("kind", [Quantize, QuantizeWeights])
def test_a_typo_is_named_and_so_is_what_is_no_layer(kind: type) -> None:
    with pytest.raises(PlanError, match=r"layer_bits\[1\].where='haed' names no module .*head"):
        kind(layer_bits=(ENDS, LayerBits(where="haed", bits=8))).plan(EXAMPLE.build(), EXAMPLE.context())
    with pytest.raises(PlanError, match=r"layer_bits\[0\].where=.*ReLU.* matches no layer that is quantized"):
        kind(layer_bits=(LayerBits(where=nn.ReLU, bits=8),)).plan(EXAMPLE.build(), EXAMPLE.context())


def test_a_recipe_can_say_it(tmp_path: Path) -> None:
    def read(bits: int) -> Recipe:
        named = {"LayerBits": {"where": ["stem", "head"], "bits": bits}}
        data = yaml.safe_load(shipped("digits").read_text()) | {
            "steps": [{"Quantize": {"weight_bits": 4, "layer_bits": [named]}}]
        }
        jsonschema.Draft202012Validator(schema()).validate(data)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
        return read_recipe(tmp_path / "recipe.yaml")

    assert read(8).steps[-1] == Quantize(weight_bits=4, layer_bits=(ENDS,))
    with pytest.raises((LessenError, jsonschema.ValidationError)):
        read(1)
    with pytest.raises(ValueError, match="layer_bits would have no effect"):
        Quantize(bits=32, layer_bits=(ENDS,))


class Words(nn.Module):
    """Numbers of words (N, L) to logits (N, 5)."""

    def __init__(self, *, tied: bool = False, most: float | None = None) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(300, 16, padding_idx=0), nn.Embedding(6, 16, max_norm=most)
        self.inner = nn.Linear(16, 16)
        self.head = nn.Linear(16, 300 if tied else 5, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.table(words) + self.places(torch.arange(6))
        logits: Tensor = self.head(torch.relu(self.inner(hidden)).mean(1))
        return logits


def words(count: int = 4) -> Tensor:
    return torch.randint(0, 300, (count, 6), generator=torch.Generator().manual_seed(0))


def build(**how: object) -> nn.Module:
    torch.manual_seed(0)
    return Words(**how).eval()  # type: ignore[arg-type]


CONTEXT = Context(inputs=words(), calibration=[Batch(words(16), torch.arange(16))])


def test_embeddings_are_stored_in_a_byte_for_each_number() -> None:
    plan = Quantize().plan(build(), CONTEXT)
    assert plan.tables == {"table": 8, "places": 8}
    assert {"table", "places"} <= {row["module"] for row in plan.describe() if row["after"].startswith("8-bit table")}
    small, table = plan.apply(build()), build().table.weight.detach()
    codes = form_of(small.table, "weight", Codes)
    assert codes is not None
    assert codes.codes.dtype == torch.uint8
    assert codes.codes.shape == (300, 16)
    # By hand: a row goes from its smallest number to its largest in 255 steps, zero among them.
    low, high = table.amin(1).clamp(max=0), table.amax(1).clamp(min=0)
    step = ((high - low) / 255).half().float()[:, None].clamp_min(1e-30)
    zero = (-low[:, None] / step).round()
    by_hand = (((table / step).round() + zero).clamp(0, 255) - zero) * step
    assert torch.allclose(small.table.weight, by_hand, atol=1e-6)
    assert not bool(small.table.weight[0].any())  # padding stays zero
    again = dataclasses.replace(plan, values=None).apply(build(), values=False)
    assert not torch.equal(again.table.weight, small.table.weight)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(words()), small(words()))


def test_embeddings_can_be_left_named_and_given_other_bits() -> None:
    assert Quantize(embedding_bits=None).plan(build(), CONTEXT).tables == {}
    assert Quantize(exclude="places").plan(build(), CONTEXT).tables == {"table": 8}
    assert Quantize(where=nn.Linear).plan(build(), CONTEXT).tables == {}
    named = Quantize(layer_bits=(LayerBits(where="table", bits=4),)).plan(build(), CONTEXT)
    assert named.tables == {"table": 4, "places": 8}
    assert distinct(named.apply(build()).table.weight) <= 16


def test_embeddings_that_cannot_be_coded_are_named() -> None:
    tied = Quantize().plan(build(tied=True), CONTEXT)
    assert "table" not in tied.tables
    assert "also the weight of head" in tied.left["table"]
    assert "max_norm" in Quantize().plan(build(most=1.0), CONTEXT).left["places"]
    before = QuantizeWeights(bits=4, where="table").plan(build(), CONTEXT).apply(build())
    plan = Quantize().plan(before, CONTEXT)
    assert plan.tables == {"places": 8}
    assert "already stored in another form" in plan.left["table"]
    assert form_of(plan.apply(before).table, "weight", Codes).bits == 4
