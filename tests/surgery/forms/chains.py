"""Networks whose weights are stored in one form after another, and what each form promises of the weights."""

import torch
from tests.surgery.forms.signs import sign_parameter
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.operations.quantize.grids import Grids
from lessen.operations.quantize.network import with_grids
from lessen.operations.weight_only.nearest import nearest
from lessen.surgery.forms.codes import Codes, code_parameter
from lessen.surgery.forms.half import Short, shorten_parameter
from lessen.surgery.forms.mask import mask_parameter
from lessen.surgery.forms.places import Forms, Owners
from lessen.surgery.forms.registering import form_of, stored


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
