"""Does the pruned network compute what the masked original computes? Proven by running both.

The two networks do the same sums in another order, so their outputs differ by rounding, which a deep network may
amplify. How much is measured (`rounding`): a plan is wrong if it differs by more than rounding can explain.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Inputs, call, map_inputs
from lessen.core.errors import PlanError
from lessen.core.seeds import derive
from lessen.core.tree import parts
from lessen.operations.prune_channels.masked import masked
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.surgery.forms.places import holders
from lessen.surgery.modules import copy_with

TOLERANCE = 1e-8
"""Outputs that differ by less than this, relative to the largest, are equal whatever the network."""
LARGEST = 1e-5
"""Nothing is proven with a larger tolerance than this; wrong surgery was never seen to differ by less than 1e-3."""
_FLOORS = 100
"""How many times the measured rounding is still rounding: surgery changes the order of many sums."""
_SINGLE = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Trial:
    """What plans are proven on.

    Attributes:
        network: The network in float64.
        inputs: What it is run on.
        tolerance: The difference, relative to the largest output, that rounding can explain.
    """

    network: nn.Module
    inputs: Inputs
    tolerance: float = TOLERANCE

    @functools.cached_property
    def shapes(self) -> nn.Module | None:
        """The network with shapes and no numbers (PyTorch's meta device); None if it does not run like that."""
        tensors = itertools.chain(self.network.named_parameters(), self.network.named_buffers())
        try:
            shapes = copy_with(self.network, {name: tensor.detach().to("meta") for name, tensor in tensors})
        except Exception:  # noqa: BLE001  (whatever the network's own code raises: then numbers are run)
            return None
        return None if _refusal(shapes, _shapes(self.inputs)) else shapes


def trial(model: nn.Module, example: Inputs) -> Trial:
    """The network that plans are proven on: with random parameters, or with its own if those blow rounding up.

    Args:
        model: The network; it is not changed.
        example: Example inputs; the first alone is used if the network takes it.

    Raises:
        PlanError: rounding alone changes its outputs too much to prove anything.
    """
    first = map_inputs(example, lambda value: value[:1] if value.ndim else value)
    found: list[Trial] = []
    for make in (randomised, in_double):
        for inputs in (first, example):
            work = make(model) if make is in_double else settled(make(model), inputs)
            if runs(work, inputs):
                found.append(Trial(work, inputs, max(TOLERANCE, _FLOORS * rounding(work, inputs))))
                break
        if found and found[-1].tolerance <= TOLERANCE:
            break
    if not found:
        return Trial(in_double(model), example)
    best = min(found, key=lambda one: one.tolerance)
    if best.tolerance > LARGEST:
        raise PlanError(
            f"Rounding alone changes the outputs of this network by {best.tolerance / _FLOORS:.0e} of the largest, in "
            "float64. So nobody can tell whether a smaller network is right. Check the network for values that grow "
            "from layer to layer."
        )
    return best


def misfit(trial: Trial, plan: PrunedChannels) -> str | None:
    """What the pruned network raises when it runs on shapes alone; None if it runs, or if that cannot be tried.

    Most wrong plans do not fit together, and this takes a tenth of the time of `verify`.
    """
    return None if trial.shapes is None else _refusal(trial.shapes, _shapes(trial.inputs), plan)


def verify(trial: Trial, plan: PrunedChannels) -> str | None:
    """None if the pruned network equals the masked original, else what is wrong, in one sentence."""
    model, inputs = trial.network, trial.inputs
    try:
        with torch.no_grad():
            small, whole = plan.apply(model), masked(model, plan)
            with _doubles():
                found = list(_outputs(call(small, double(inputs))))
                wanted = list(_outputs(call(whole, double(inputs))))
    except Exception as error:  # noqa: BLE001  (whatever the network's own code raises is the finding)
        return _said(error)
    return compare(found, wanted, trial.tolerance)


def _refusal(shapes: nn.Module, inputs: Inputs, plan: PrunedChannels | None = None) -> str | None:
    """What a network of shapes, pruned after a plan if there is one, raises; None if it runs."""
    try:
        with torch.no_grad(), _doubles():
            call(shapes if plan is None else plan.apply(shapes, values=False), inputs)
    except Exception as error:  # noqa: BLE001  (whatever the network's own code raises is the finding)
        return _said(error)
    return None


def _said(error: Exception) -> str:
    said = str(error).strip() or "it does not say why"
    return f"the pruned network does not run: {type(error).__name__}: {said.splitlines()[0][:200]}"


def _shapes(inputs: Inputs) -> Inputs:
    return map_inputs(double(inputs), lambda value: value.to("meta"))


def rounding(model: nn.Module, inputs: Inputs) -> float:
    """How far rounding in float64 moves outputs, relative to the largest: an estimate, infinite if there is none.

    The larger of two: the outputs in float32 and in float64 differ, scaled by the ratio of their precisions; and the
    outputs change when every weight moves by one unit in the last place. The first sees what is lost on the way (a
    small difference of large numbers), the second still grows where float32 has lost everything.
    """
    generator = torch.Generator().manual_seed(0)
    moved, short = {}, {}
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        if value.is_floating_point():
            up = torch.randint(2, value.shape, generator=generator, dtype=torch.bool)
            towards = torch.where(up, torch.inf, -torch.inf).to(value.dtype)
            near = torch.nextafter(value.detach(), towards)
            moved[name] = near.where(value.isfinite(), value.detach())  # the infinities of a mask are not rounded
            short[name] = value.detach().float()
    single = map_inputs(inputs, lambda value: value.cpu().float() if value.is_floating_point() else value.cpu())
    exact = double(inputs)
    with torch.no_grad():
        with _doubles():
            wanted = [value for value in _outputs(call(model, exact)) if value.is_floating_point()]

        def away(values: dict[str, Tensor], given: Inputs) -> float:
            found = [value for value in _outputs(call(copy_with(model, values), given)) if value.is_floating_point()]
            return max((_off(a.double(), b) for a, b in zip(found, wanted, strict=True)), default=0.0)

        apart = away(short, single) * _SINGLE
        with _doubles():
            estimates = apart, away(moved, exact)
    return max(value if math.isfinite(value) else math.inf for value in estimates)


@contextlib.contextmanager
def _doubles() -> Iterator[None]:
    """Tensors that the network's own code makes are in float64 as well: states that a recurrent layer starts from.

    PyTorch's fused encoder layer is not used: some masks that its layers take make it return NaN.
    """
    before, fused = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    try:
        torch.set_default_dtype(torch.float64)
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.set_default_dtype(before)
        torch.backends.mha.set_fastpath_enabled(fused)


def runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the network takes these inputs, and its outputs are finite."""
    try:
        with torch.no_grad(), _doubles():
            outputs = list(_outputs(call(model, double(inputs))))
    except Exception:  # noqa: BLE001  (whatever the network's own code raises)
        return False
    return all(bool(value.isfinite().all()) for value in outputs)


def compare(found: list[Tensor], wanted: list[Tensor], tolerance: float = TOLERANCE) -> str | None:
    """None if the tensors are equal within a tolerance relative to the largest entry, else what is wrong."""
    if [value.shape for value in found] != [value.shape for value in wanted]:
        return f"outputs have shapes {[tuple(v.shape) for v in found]} instead of {[tuple(v.shape) for v in wanted]}"
    for a, b in zip(found, wanted, strict=True):
        if not a.is_floating_point():
            continue
        off = _off(a, b)
        if not off <= tolerance:
            return f"outputs differ from the masked network by {off:.1e} of the largest"
    return None


def _off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    if not found.numel():
        return 0.0
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy in float64 and evaluation mode with random parameters that keep signals at their scale.

    What is proven on it does not rest on weights that happen to be zero (a fresh classifier, a layer scale of 1e-6).
    """
    generator = torch.Generator().manual_seed(derive(seed, "verify"))
    values: dict[str, Tensor] = {}
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point():
            values[name] = _random(name, tensor, generator).double()
    return _still(copy_with(model, values))


def settled(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The same network, with its running statistics at the scale of what each normalisation is given, in place.

    Random statistics let signals grow from layer to layer, and gates (SiLU, squeeze-and-excitation) then amplify
    rounding. Only the scale of a layer is set, in one pass: centring each channel would silence it where it has one
    value.
    """
    seen: set[nn.Module] = set()

    def scale(module: nn.Module, given: tuple[Any, ...]) -> None:
        if module in seen or not given or not isinstance(given[0], Tensor):
            return
        seen.add(module)
        square = float(given[0].detach().square().mean())
        if square > 0 and math.isfinite(square):
            module.running_var.mul_(square)  # type: ignore[operator]
            if isinstance(module.running_mean, Tensor):
                module.running_mean.mul_(math.sqrt(square))

    hooks = [
        module.register_forward_pre_hook(scale)
        for module in model.modules()
        if isinstance(getattr(module, "running_var", None), Tensor)
    ]
    try:
        runs(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return model


def in_double(model: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode with the parameters as they are."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    values = {name: tensor.detach().double() for name, tensor in tensors if tensor.is_floating_point()}
    return _still(copy_with(model, values))


def _still(model: nn.Module) -> nn.Module:
    """A copy as it is to be run, in place: what layers are given is not rounded to a grid that is found in it.

    The grid is that of what is left, so what is removed would decide by chance whether outputs are the same.
    """
    for holder in holders(model):
        holder.make_still()
    return model.cpu().eval()


def _random(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    shape = tensor.shape
    if name.endswith("running_mean"):
        return torch.randn(shape, generator=generator) * 0.1
    if name.endswith("running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    if isinstance(tensor, nn.Parameter) and sum(size > 1 for size in shape) < 2:
        # Biases, scales and slopes: of both signs, so that every branch of an activation is seen, and far from zero.
        sign = torch.randint(2, shape, generator=generator) * 2 - 1
        return sign * (torch.rand(shape, generator=generator) + 0.5)
    if isinstance(tensor, nn.Parameter):
        return torch.randn(shape, generator=generator) * math.sqrt(2 / tensor[0].numel())
    return tensor.detach().cpu()


def double(inputs: Inputs) -> Inputs:
    """Inputs for a `randomised` network."""
    return map_inputs(inputs, lambda value: value.cpu().double() if value.is_floating_point() else value.cpu())


def _outputs(outputs: Any) -> Iterator[Tensor]:
    yield from parts(outputs).values()
