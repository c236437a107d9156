"""Laws of stored forms: every form with every other, in both orders, in states, copies, packed files and ONNX files.

`Signs` is a form that lessen does not know; it and its twin are written here alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lessen
from lessen.core import Card, Context, settings
from lessen.core.errors import ExportError, NetworkError, PlanError
from lessen.deploy import Deploy, OnnxRuntime, TorchProgram, export_onnx, export_pt2
from lessen.deploy.constants import DOMAIN, Constants, Stored, own_operator, replace
from lessen.deploy.forms import Twin, register
from lessen.deploy.forms import base as twins
from lessen.deploy.forms import codes as written_codes
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import Half, PruneWeights, QuantizeWeights, Reinitialize
from lessen.operations.quantize.grids import Grid, Grids
from lessen.operations.quantize.network import with_grids
from lessen.operations.weight_only.nearest import nearest
from lessen.pipeline import Measuring, pack, unpack, walk
from lessen.schemes import offline
from lessen.surgery.copying import copy_network
from lessen.surgery.forms import registering
from lessen.surgery.forms.base import Form, Holder
from lessen.surgery.forms.codes import Codes, code_parameter
from lessen.surgery.forms.half import Short, shorten_parameter
from lessen.surgery.forms.mask import Mask, mask_parameter
from lessen.surgery.forms.places import Forms, Owners, bake, store
from lessen.surgery.forms.registering import form_of, forms_of, stored
from lessen.surgery.forms.stored import file_widths, stored_state
from lessen.surgery.packing import Known, read_container, write_container
from lessen.surgery.plain import plain, plain_copy
from lessen.testing.catalogue import LITTLE, exported, outputs
from lessen.testing.files import in_onnx, width_of
from lessen.testing.tasks import clusters, perceptron

# A form and its twin from outside the tree


@torch.library.custom_op("own_forms::signed", mutates_args=())
def signed(scales_O1: Tensor, signs_OI: Tensor) -> Tensor:
    return (2 * signs_OI.to(scales_O1.dtype) - 1) * scales_O1


def plain_signed(scales_O1: Tensor, signs_OI: Tensor) -> Tensor:
    return (2 * signs_OI.to(scales_O1.dtype) - 1) * scales_O1


signed.register_fake(lambda scales_O1, signs_OI: torch.empty_like(signs_OI, dtype=scales_O1.dtype))
signed.register_autograd(
    lambda ctx, gradient: ((gradient * (2 * ctx.saved_tensors[0].to(gradient.dtype) - 1)).sum(1, keepdim=True), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)


class Signs(Form):
    """A weight as a scale for each row and a sign for each number, 1 bit."""

    words: ClassVar[str] = "as signs"
    ending: ClassVar[str] = ".scales"
    of_weights: ClassVar[bool] = False

    signs: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self.register_buffer("signs", (weight.detach().flatten(1) >= 0).byte())

    def forward(self, scales: Tensor) -> Tensor:
        weight: Tensor = signed(scales, self.signs)
        return weight.reshape(self.shape)

    def right_inverse(self, value: Tensor) -> Tensor:
        if value.shape != (self.shape[0], 1):
            raise NetworkError("A weight of signs cannot be written to.")
        return value

    def file_bits(self, bits: int) -> int:
        return 1

    @classmethod
    def refused(cls, there: Form) -> str:
        return super().refused(there) or ("a sign has no zero" if there.keeps() is not None else "")


def sign_parameter(where: Owners, module: nn.Module, name: str) -> None:
    weight = getattr(module, name).detach()
    store(where, module, name, Signs(weight), weight.flatten(1).abs().mean(1, keepdim=True))


class SignsTwin(Twin):
    """Eight signs in a byte."""

    def translations(self) -> dict[Any, Callable[..., Any]]:
        op = own_operator("Signed", 2)
        return {torch.ops.own_forms.signed.default: op}

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        return {torch.ops.own_forms.signed.default: plain_signed}

    def operators(self) -> dict[str, Stored]:
        return {"Signed": (lambda node, given: (2 * given[1].astype(np.float32) - 1) * given[0], lambda node: 1)}

    def store(self, constants: Constants) -> None:
        for node in [each for each in constants.graph if each.domain == DOMAIN and each.op_type == "Signed"]:
            scales, signs = node.inputs[0], constants.value(node.inputs[1])
            assert signs is not None
            name, put = node.outputs[0].name, partial(constants.before, node)
            codes = constants.add(f"{name}_signs", written_codes.packed(signs.reshape(1, -1), 1).reshape(-1, 1))
            shifts, one = constants.add("eight", np.arange(8, dtype=np.uint8)[None]), constants.add("one", np.uint8(1))
            parts = put("BitShift", [codes, shifts], name=f"{name}_parts", direction="RIGHT")
            bits = put("BitwiseAnd", [parts, one], name=f"{name}_bits")
            wide = put("Cast", [bits], name=f"{name}_wide", to=ir.DataType.FLOAT.value)
            line = put("Reshape", [wide, constants.add("line", np.array([-1]))], name=f"{name}_line")
            ends = [constants.add(key, np.array([at])) for key, at in (("from", 0), ("to", signs.size))]
            whole = put("Slice", [line, *ends], name=f"{name}_whole")
            shaped = put("Reshape", [whole, constants.add("shape", np.array(signs.shape))], name=f"{name}_shaped")
            twice = put("Mul", [shaped, constants.add("two", np.float32(2))], name=f"{name}_twice")
            both = put("Sub", [twice, constants.add("ones", np.float32(1))], name=f"{name}_both")
            replace(node, put("Mul", [both, scales], name=f"{name}_scaled"))


register(SignsTwin())


@settings
class Signed:
    """The plan of `ToSigns`."""

    names: tuple[str, ...]

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        del values  # signs and scales are in the state, and otherwise follow from the weights
        network = plain_copy(model)
        where = Owners(network)
        for name in self.names:
            sign_parameter(where, network.get_submodule(name), "weight")
        return network

    def describe(self) -> list[dict[str, Any]]:
        row = {"edit": "signs", "before": "32 bits", "after": "1 bit", "stored": "1"}
        return [{"module": f"{name}.weight", **row} for name in self.names]


@settings
class ToSigns:
    """Store the weights of linear layers as signs."""

    card: ClassVar[Card] = Card(row="operations / quantization", paper="none", says="Signs.", costs="Much.",
                                fails_when="Often.")  # fmt: skip

    @classmethod
    def neutral(cls) -> Self:
        return cls()

    def plan(self, model: nn.Module, context: Context) -> Signed:
        model = plain(model, context.inputs)
        names = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
        first = {id(stored(model.get_submodule(name), "weight")): name for name in reversed(names)}
        return Signed(names=tuple(name for name in names if name in first.values()))


# Every form with every other


class Net(nn.Module):
    """A convolution, and two linear layers that share their weight."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 20, 3, padding=1)
            self.one, self.two = nn.Linear(20, 20), nn.Linear(20, 20)
            self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv(x)).mean((2, 3))
        found: Tensor = self.two(F.relu(self.one(out)))
        return found


X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
PLACES = ("conv", "one")


def masked(model: nn.Module) -> nn.Module:
    where = Owners(model)
    for path in PLACES:
        module = model.get_submodule(path)
        kept = torch.rand(module.weight.shape, generator=torch.Generator().manual_seed(1)) > 0.5
        for _, owner, name in where.of(stored(module, "weight")):
            mask_parameter(owner, name, kept)
    return model


def coded(model: nn.Module) -> nn.Module:
    where = Owners(model)
    for path in PLACES:
        module = model.get_submodule(path)
        found = nearest(module.weight.detach().flatten(1).double(), bits=3, group=10, symmetric=False)
        code_parameter(where, module, "weight", found, bits=3)
    return model


def halved(model: nn.Module) -> nn.Module:
    where = Owners(model)
    for path in PLACES:
        module = model.get_submodule(path)
        for _, owner, name in where.of(stored(module, "weight")):
            shorten_parameter(owner, name, brain=False)
    return model


def on_grids(model: nn.Module) -> nn.Module:
    return with_grids(model, Grids({}, levels=255, limits=dict.fromkeys(("conv", "one", "two"), 7)))


def in_signs(model: nn.Module) -> nn.Module:
    where = Owners(model)
    for path in PLACES:
        sign_parameter(where, model.get_submodule(path), "weight")
    return model


MAKE = {"mask": masked, "codes": coded, "half": halved, "grid": on_grids, "signs": in_signs}
REFUSED = {
    ("mask", "signs"): "a sign has no zero",
    ("codes", "mask"): "its weights are stored as integer codes; prune first",
    ("codes", "codes"): "it is already stored as integer codes",
    ("codes", "half"): "it is stored in codes, whose steps have 16 bits",
    ("codes", "signs"): "it is already stored as integer codes",
    ("half", "half"): "it has 16 bits already",
    ("grid", "grid"): "is quantized already",
    ("signs", "mask"): "its weights are stored as signs; prune first",
    ("signs", "codes"): "it is already stored as signs",
    ("signs", "half"): "it is stored as signs",
    ("signs", "signs"): "it is already stored as signs",
}
PAIRS = [(one, other) for one in MAKE for other in MAKE]
CHAINS = [*((one,) for one in MAKE), *(pair for pair in PAIRS if pair not in REFUSED), ("mask", "half", "grid")]


def made(*chain: str, seed: int = 0) -> nn.Module:
    model: nn.Module = Net(seed=seed)
    for name in chain:
        model = MAKE[name](model)
    return model.eval()


def gives(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(X)
    return found


def used(model: nn.Module) -> dict[str, Tensor]:
    """What the layers of the network multiply by, which the network around them may have rounded."""
    found = {}
    for path in ("conv", "one", "two"):
        weight = model.get_submodule(path).weight.detach()
        for form in Forms(model).held(path, "weight"):
            weight = form(weight)
        found[path] = weight
    return found


def check_values(chain: tuple[str, ...], model: nn.Module) -> None:
    """What each form promises of the weights is so, whatever else stores them."""
    tie = used(model)
    assert torch.equal(tie["one"], tie["two"])
    if chain[-1] == "grid":
        chain_before = used(made(*chain[:-1]))
    for path, weight in tie.items():
        rows = weight.flatten(1)
        if "mask" in chain:
            kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.5
            assert bool((weight[~kept] == 0).all()), "what was masked is back"
            assert float((weight[kept] != 0).double().mean()) > 0.5
        if "half" in chain and "grid" not in chain:
            module = model.get_submodule(path)
            form, seen = form_of(module, "weight", Codes), weight.abs() if "signs" in chain else weight
            if form is not None:  # the steps have 16 bits
                seen = form_of(module, "weight", Short)(stored(module, "weight"))
                assert torch.equal(form(seen), weight)
            assert torch.equal(seen, seen.half().float()), "it has more digits than 16 bits hold"
        if "codes" in chain and "grid" not in chain:
            assert max(len(row[:10].unique()) for row in rows) <= 8, "a group has more values than 3 bits"
        if "signs" in chain:
            assert all(len(row.abs().unique()) == 1 for row in rows), "a row has several magnitudes"
        if "grid" in chain:
            assert max(len(row.unique()) for row in rows) <= 15, "a row has more values than 4 bits"
        if chain[-1] == "grid":
            step = chain_before[path].flatten(1).abs().amax(1, keepdim=True) / 7
            assert bool(((rows - chain_before[path].flatten(1)).abs() <= step * 0.5001).all())


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


# Claims: in packed files and in ONNX files


def check_claims(model: nn.Module, folder: Path) -> None:
    """What the forms say a number of a parameter takes is what it takes in files, and the files give the outputs."""
    file = export_onnx(model, X, folder / "model.onnx")
    assert float((OnnxRuntime().load(file, threads=1)(X) - gives(model)).abs().max()) < 1e-5
    (constants,) = in_onnx(file)
    tensors, known = stored_state(model)
    taken = write_container(folder / "packed.safetensors", tensors, known=known)
    for name, bits in file_widths(model).items():
        path, _, last = name.rpartition(".")
        weight = getattr(model.get_submodule(path), last).detach()
        if bits < 32 and last == "weight":
            found = width_of(constants, weight.numpy())
            assert found is not None
            assert found <= bits, f"{name} takes {found} bits in ONNX, not {bits}"
            most = weight.numel() * (bits + 1) / 8 + 4 * len(weight) + 16
            own = [key for key in tensors if key.startswith(name) and tensors[key].numel() == weight.numel()]
            size = sum(taken[key] for key in own)
            assert size <= most, f"{name} takes {size} bytes in a packed file, at {bits} bits"


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_what_forms_claim_is_so_in_files(chain: tuple[str, ...], tmp_path: Path) -> None:
    model = made(*chain)
    widths = file_widths(model)
    expected = {"mask": 32, "codes": 4, "half": 16, "grid": 4, "signs": 1}
    assert widths["conv.weight"] == widths["one.weight"] == min(expected[name] for name in chain)
    assert widths["conv.bias"] == 32
    check_claims(model, tmp_path)


def test_a_claim_that_is_not_so_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Short, "file_bits", lambda form, bits: 8)
    with pytest.raises(AssertionError, match="takes 16 bits in ONNX, not 8"):
        check_claims(made("half"), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Short, "simpler", Form.simpler)
    model = made("half")
    with torch.no_grad():  # as training leaves it
        stored(model.get_submodule("one"), "weight").add_(1e-5)
    with pytest.raises(AssertionError, match="bytes in a packed file, at 16 bits"):
        check_claims(model, tmp_path)


def test_two_twins_with_one_operator_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(SignsTwin):
        pass

    monkeypatch.setattr(twins, "_registered", dict(twins._registered))
    register(Other())
    with pytest.raises(ExportError, match="Give yours another name"):
        export_onnx(made(), X, tmp_path / "model.onnx")


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


def test_what_is_baked_is_plain() -> None:
    model = made("mask", "half")
    gave = gives(model)
    assert [type(form) for form in forms_of(bake(model).get_submodule("one"), "weight")] == [Short]
    assert torch.equal(gives(model), gave)


# The form from outside, all the way


def exact(width: int = 64) -> nn.Module:
    """A network of signs whose sums are exact in any order, for inputs that are small whole numbers."""
    network = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8))
    network = Signed(names=("0", "2")).apply(network)
    with torch.no_grad():
        for layer in (network[0], network[2]):  # type: ignore[index]
            scales = stored(layer, "weight")
            scales.copy_((scales * 64).round().clamp_min(1) / 64)
            layer.bias.copy_((layer.bias * 64).round() / 64)
    return network.eval()


def test_scales_learn_and_signs_stay() -> None:
    network = exact()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert set(before) == {f"{at}.{part}" for at in (0, 2) for part in ("weight.scales", "weight.signs", "bias")}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(8, 16)).square().mean().backward()
    wanted = [parameter.grad.clone() for parameter in network.parameters()]
    optimizer.step()
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) == name.endswith("signs") for name in before)
    scales, signs = before["2.weight.scales"].double().requires_grad_(), before["2.weight.signs"].double()
    assert torch.autograd.gradcheck(lambda s: signed(s, signs.byte()), scales)
    assert all(bool(grad.isfinite().all()) for grad in wanted)


def test_signs_are_bit_equal_and_small_in_onnx_and_in_a_program(tmp_path: Path) -> None:
    network, plain_network = exact(), nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    x = torch.randint(-3, 4, (5, 16), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        wanted = network(x)
    file = export_onnx(network, x, tmp_path / "model.onnx")
    assert torch.equal(OnnxRuntime().load(file, threads=1)(x), wanted)
    numbers = 16 * 64 + 64 * 8
    stored_bytes = sum(len(each.raw_data) for each in onnx.load(file).graph.initializer)
    assert stored_bytes < numbers / 8 + 4 * 2 * (64 + 8) + 150  # signs, scales and biases, shapes
    assert not any(node.domain == DOMAIN for node in onnx.load(file).graph.node)
    program = export_pt2(network, x, tmp_path / "model.pt2")
    assert not [node for node in torch.export.load(program).graph.nodes if "own_forms" in str(node.target)]
    assert torch.equal(TorchProgram().load(program, threads=1)(x), wanted)
    assert file.stat().st_size < export_onnx(plain_network, x, tmp_path / "plain.onnx").stat().st_size


def test_a_twin_that_stores_another_sign_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = exact(), torch.ones(2, 16)
    right = written_codes.packed
    monkeypatch.setattr(written_codes, "packed", lambda values, bits: right(1 - values, bits))
    with torch.no_grad():
        wanted = network(x)
    file = export_onnx(network, x, tmp_path / "model.onnx")
    assert not torch.equal(OnnxRuntime().load(file, threads=1)(x), wanted)


def test_signs_are_packed_at_one_bit_and_come_back(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 16)).eval()
    plan = ToSigns().plan(network, Context(inputs=torch.randn(2, 64)))
    small = plan.apply(network)
    x = torch.randn(3, 64)
    wide, narrow = (pack(each, tmp_path / f"{n}.safetensors").bytes for n, each in enumerate((network, small)))
    assert narrow < wide / 10
    taken = pack(small, tmp_path / "small.safetensors", plans=[plan]).tensors
    assert taken["0.weight.signs"] <= 64 * 256 / 8 + 4
    assert "Signed" in str(read_container(tmp_path / "small.safetensors").more["plans"])
    fresh = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 16))
    with torch.no_grad():
        assert torch.equal(unpack(tmp_path / "small.safetensors", fresh)(x), small.eval()(x))


def job(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "teacher": perceptron(32, seed=0),
        "data": clusters(),
        "steps": [
            ToSigns(),
            offline(SoftTargets(temperature=4.0), epochs=2, fit=Fit(batch=16, keep_best=False)),
            Half(where="norm"),
        ],
        "deploy": Deploy(runtimes=(OnnxRuntime(),)),
        "measuring": Measuring(repeats=6, calibration=32),
        "progress": False,
    }
    return given | changes


class Killed(Exception):
    """What stops a run, as a kill would."""


def killed(*given: Any, **more: Any) -> None:
    raise Killed


@pytest.mark.parametrize("where", ["train_stages", "deploy_steps"])
def test_a_run_with_signs_is_stopped_and_resumed_to_the_same_bits(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = lessen.compress(run=tmp_path / "whole", **job())
    assert whole.file is not None
    assert {type(form) for form in forms_of(whole.model.get_submodule("layer1"), "weight")} == {Signs}
    with monkeypatch.context() as only:
        only.setattr(walk, where, killed)
        with pytest.raises(Killed):
            lessen.compress(run=tmp_path / "run", **job())
    again = lessen.resume(tmp_path / "run", **job(teacher=perceptron(32, seed=5)))
    one, other = whole.model.state_dict(), again.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    back = lessen.load(tmp_path / "run", perceptron(32, seed=5))
    assert all(torch.equal(value, one[name]) for name, value in back.state_dict().items())
    scales = Signed(names=("layer1",)).apply(perceptron(32, seed=0)).state_dict()["layer1.weight.scales"]
    assert not torch.equal(one["layer1.weight.scales"], scales)
    lessen.pack(tmp_path / "run", perceptron(32, seed=5))


def test_operations_leave_signs_alone_in_words() -> None:
    network = Signed(names=("layer1", "layer2", "head")).apply(perceptron(8, seed=0))
    context = Context(inputs=torch.randn(4, 8))
    assert set(PruneWeights(keep=0.5).plan(network, context).left.values()) == {
        "its weights are stored as signs; prune first"
    }
    assert set(QuantizeWeights(group=4).plan(network, context).left.values()) == {"it is already stored as signs"}
    assert {why for name, why in Half().plan(network, context).left.items() if name.endswith(".weight")} == {
        "it is stored as signs"
    }
    assert form_of(network.layer1, "weight", Signs) is not None


@pytest.mark.parametrize("name", exported())
def test_every_operation_meets_a_form_that_it_does_not_know(name: str) -> None:
    network = ToSigns().plan(LITTLE.build(), LITTLE.context()).apply(LITTLE.build())
    gave, state = outputs(network, LITTLE), {key: value.clone() for key, value in network.state_dict().items()}
    small = exported()[name].plan(network, LITTLE.context()).apply(network)
    assert bool(outputs(small, LITTLE).isfinite().all())
    there = {path for path, _ in small.named_modules()}
    left = {path for path, each in small.named_modules() if form_of(each, "weight", Signs) is not None}
    assert left >= {"head", "tied", "same"}
    assert "blocks.0.inner" in left or "blocks.0.inner" not in there
    assert torch.equal(outputs(network, LITTLE), gave)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_what_does_not_learn_is_frozen() -> None:
    class Fixed(Signs):
        learns: ClassVar[bool] = False

    network = nn.Sequential(nn.Linear(4, 3))
    weight = network[0].weight.detach()
    store(Owners(network), network[0], "weight", Fixed(weight), weight.abs().mean(1, keepdim=True))
    assert [name for name, each in network.named_parameters() if each.requires_grad] == ["0.bias"]


# Nothing else knows a form by its class.


def asks_for_a_class(source: str) -> list[str]:
    """The forms, holders and grids that a source looks for with `isinstance` or `type(...) is`."""
    kinds = {each.__name__ for base in (Form, Holder, Grid) for each in (base, *below(base))} | {"WeightGrid"}
    asked: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"isinstance", "issubclass"}
        ):
            asked += node.args[1:]
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Call) and ast.unparse(node.left.func) == "type":
            asked += node.comparators
    names = [each.id if isinstance(each, ast.Name) else each.attr for part in asked for each in ast.walk(part)
             if isinstance(each, ast.Name | ast.Attribute)]  # fmt: skip
    return [name for name in names if name in kinds]


def below(kind: type) -> list[type]:
    return [each for child in kind.__subclasses__() for each in (child, *below(child))]


def test_forms_are_asked_and_not_looked_for() -> None:
    root = Path(lessen.__file__).parent
    found = {}
    for file in root.rglob("*.py"):
        where = file.relative_to(root).as_posix()
        if not where.startswith(("surgery/forms/", "deploy/forms/")):
            found[where] = asks_for_a_class(file.read_text(encoding="utf-8"))
    assert {where: names for where, names in found.items() if names} == {}


def test_a_look_for_a_form_would_be_seen() -> None:
    assert asks_for_a_class("isinstance(form, Mask | mask.Codes)") == ["Mask", "Codes"]
    assert asks_for_a_class("type(form) is Short") == ["Short"]
    assert asks_for_a_class("isinstance(module, nn.Linear)") == []
