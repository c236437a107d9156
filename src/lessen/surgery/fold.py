"""Batch normalisation folded into the convolution or linear layer before it.

In eval mode batch normalisation is y = (x - mean) * weight / sqrt(var + eps) + bias: it multiplies and shifts each
channel, which a linear layer can do itself. The network computes the same function with fewer modules. Which layers may
be folded is read from a run of the network, not from the order in which modules were registered.

Shapes: O output channels; weights (O, I/groups, ...) of convolutions, (I, O/groups, ...) of transposed ones, (O, I).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lessen.core.data import Inputs
from lessen.core.errors import NetworkError
from lessen.surgery.calls import Call, trace
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import forms_of, parametrised, stored
from lessen.surgery.modules import get_module, set_modules
from lessen.surgery.plain import plain_copy
from lessen.surgery.proof import Proof, those_that_hold

Pair = tuple[str, str]
"""The names of a layer and of the batch normalisation that follows it."""


def fold_batchnorm(model: nn.Module, inputs: Inputs) -> nn.Module:
    """A new network in which every batch normalisation that can be folded is folded; for eval mode only.

    Args:
        model: The network; it is not changed.
        inputs: Example inputs, to see what follows what.
    """
    return fold(model, foldable(model, inputs))


def foldable(model: nn.Module, inputs: Inputs) -> list[Pair]:
    """Which layers give their output to a batch normalisation and to nothing else, each called just once.

    A layer with several normalisations in a row is in several pairs, in order.

    Each is proven: with it folded, the network gives the same outputs. A convolution that standardises its weight, or
    whose weight another module reads, is left as it is.
    """
    seen, owners = trace(model, inputs), Owners(model)
    consumers, pairs = seen.consumers(), []
    for one in seen.calls:
        last = one  # several normalisations in a row are folded one after the other
        while len(after := consumers.get(last.outputs[0], [])) == 1 and last.outputs[0] not in seen.outputs:
            (norm,) = after
            once = seen.times[one.path] == seen.times[norm.path] == 1
            if norm.op != "batch_norm" or not once or not _fits(model, owners, one, norm):
                break
            pairs.append((one.path, norm.path))
            last = norm
    if not pairs:
        return []
    proof = Proof(model, inputs)
    return those_that_hold(pairs, lambda some: proof.holds(fold(proof.model, some)))


def fold(model: nn.Module, pairs: Sequence[Pair], *, values: bool = True) -> nn.Module:
    """A new network with these pairs folded: the layer has a bias, and identity stands in the normalisation's place.

    A normalisation that carries its activation (as timm's `BatchNormAct2d` does) leaves the activation behind.

    Args:
        model: The network; it is not changed.
        pairs: Names, as `foldable` gives them.
        values: False makes the structure only, for loading folded weights.

    Raises:
        NetworkError: a name does not exist, or is of a module that cannot be folded.
    """
    new = plain_copy(model)
    rests: dict[str, nn.Module] = {}
    for layer_name, norm_name in pairs:
        layer, norm = get_module(new, layer_name), get_module(new, norm_name)
        if not isinstance(layer, _ConvNd | nn.Linear) or not isinstance(norm, _BatchNorm):
            raise NetworkError(
                f"Cannot fold {norm_name!r} ({type(norm).__name__}) into {layer_name!r} ({type(layer).__name__}); "
                "expected a batch normalisation and a convolution or linear layer. The plan is of another network."
            )
        weight, bias = folded(layer, norm) if values else (layer.weight, layer.weight.new_zeros(_channels(layer)))
        # Behind a mask, too: each channel is multiplied by one number, so zeros stay zeros.
        kept = stored(layer, "weight")
        kept.data = weight.detach()
        layer.bias = nn.Parameter(bias.detach(), requires_grad=kept.requires_grad)
        rests[norm_name] = _rest_of(norm)
    set_modules(new, rests)
    return new


def folded(layer: _ConvNd | nn.Linear, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The weight, in its shape, and the bias, (O,), that do what the layer and then the normalisation do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain_O = norm.running_var.double().add(norm.eps).rsqrt()
    if norm.weight is not None:
        gain_O = gain_O * norm.weight.double()
    shift_O = -norm.running_mean.double() * gain_O
    if norm.bias is not None:
        shift_O = shift_O + norm.bias.double()
    if layer.bias is not None:
        shift_O = shift_O + layer.bias.double() * gain_O
    weight = layer.weight.double() * _along_outputs(layer, gain_O)
    return weight.to(layer.weight.dtype), shift_O.to(layer.weight.dtype)


def _along_outputs(layer: _ConvNd | nn.Linear, value_O: Tensor) -> Tensor:
    """One number an output channel, in a shape that multiplies the layer's weight."""
    if isinstance(layer, _ConvTransposeNd):
        inputs, outputs, *kernel = layer.weight.shape
        by_group = value_O.reshape(layer.groups, 1, outputs).expand(-1, inputs // layer.groups, -1)
        return by_group.reshape(inputs, outputs, *[1] * len(kernel))
    return value_O.reshape(-1, *[1] * (layer.weight.ndim - 1))


def _channels(layer: _ConvNd | nn.Linear) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _fits(model: nn.Module, owners: Owners, one: Call, after: Call) -> bool:
    layer, norm = get_module(model, one.path), get_module(model, after.path)
    return (
        isinstance(layer, _ConvNd | nn.Linear)
        and _may_be_scaled(layer)
        and len(owners.of(stored(layer, "weight"))) == 1
        and isinstance(norm, _BatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
        # A linear layer over tokens gives (N, T, O): its channels are not the normalisation's.
        and norm.num_features == _channels(layer)
    )


def _may_be_scaled(layer: nn.Module) -> bool:
    """Whether the bias is plain, and the weight's rows may be scaled where they are stored."""
    return all(
        name == "weight" and len(forms_of(layer, name)) == len(forms) and all(form.linear for form in forms)
        for name, forms in parametrised(layer).items()
    )


def _rest_of(norm: nn.Module) -> nn.Module:
    children = OrderedDict((name, child) for name, child in norm.named_children() if name != "parametrizations")
    return nn.Sequential(children) if children else nn.Identity()
