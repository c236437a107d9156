"""The forms in which people hold a network: which can be worked on, and what to do about the others.

A wrapper (`torch.compile`, `DataParallel`) is taken off. What is no network of plain floating-point tensors is refused
with the way out: a class, a file, a state dict, a scripted network, one on the meta device, one that another library
has quantized, one that computes in another precision than its inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lessen.core.batch import named_values
from lessen.core.data import Inputs, call, map_inputs
from lessen.core.errors import NetworkError


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def usable(network: Any, *, what: str = "The network", values: bool = True) -> nn.Module:
    """The network that can be worked on: the one that was given, out of what wraps it.

    Args:
        network: What somebody gave as a network; it is not changed.
        what: What to call it in an error.
        values: Whether its weights must have values; otherwise it may be on the meta device.

    Raises:
        NetworkError: it is no network, or one that cannot be worked on; the text says what it is and what to give.
    """
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{what} is {_no_module(network)}")
    found = unwrap(network)
    for path, module in found.named_modules():
        for applies, said in _MODULES:
            if applies(module):
                kind = type(module).__name__
                place = f" at {path!r}" if path else ""
                raise NetworkError(f"{what} {said.format(kind=kind, place=place)}")
    for name, tensor in [*found.named_parameters(), *found.named_buffers()]:
        for unfit, said in _TENSORS:
            if unfit(tensor) and (values or unfit is not _is_meta):
                kind = f"{type(tensor.data).__module__}.{type(tensor.data).__qualname__}"
                raise NetworkError(f"{what} {said.format(name=name, kind=kind)}")
    return found


def check_precision(network: nn.Module, inputs: Inputs, *, what: str = "The network") -> None:
    """Whether a network takes inputs of this precision. It is run only where the two differ; it is not changed.

    Raises:
        NetworkError: it computes in another one, and does not convert its inputs.
    """
    said = precision_differs(network, inputs)
    if said is None:
        return
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad():
            call(network, map_inputs(inputs, lambda value: value[:2].to(device)))
    except Exception as error:
        raise NetworkError(f"{what} {said}") from error
    finally:
        for module, training in modes.items():
            module.training = training


def precision_differs(network: nn.Module, inputs: Inputs) -> str | None:
    """In words that a network computes in another precision than that of its inputs; None where it does not."""
    own = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    given = {value.dtype for _, value in named_values(inputs) if value.is_floating_point()}
    if len(own) != 1 or not given or own == given:
        return None
    (kept,), found = map(_dtype, own), sorted(map(_dtype, given))
    said = f"computes in {kept}, but its inputs are {' and '.join(found)}."
    if given == {torch.float32}:
        return f"{said} Call network.float() first; lessen.operations.Half stores weights in 16 bits later."
    return f"{said} Call network.to(torch.{found[0]}) first, or give inputs of {kept}."


def _no_module(thing: Any) -> str:
    """What a thing is that is no network, and what to give instead."""
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        return f"the class {thing.__name__}; give a trained network, an object: {thing.__name__}(...)."
    if isinstance(thing, Mapping) and thing and all(isinstance(value, Tensor) for value in thing.values()):
        return "a dict of weights; build the network, call network.load_state_dict(weights), and give the network."
    if isinstance(thing, str):
        return (
            f"the text {thing!r:.100}; give a torch.nn.Module, as lessen.zoo.build({thing!r:.100}) returns it. Weights "
            "in a file are loaded into a network: network.load_state_dict(torch.load(path))."
        )
    if isinstance(thing, Path):
        return (
            f"the path {str(thing)!r:.200}; give a torch.nn.Module. Build the network, and load the file into it: "
            "network.load_state_dict(torch.load(path)); lessen.load loads the network of a run."
        )
    if isinstance(thing, torch.export.ExportedProgram):
        return "a torch.export program, whose layers are written out; give the torch.nn.Module that it was made from."
    kind = f"a {type(thing).__name__}; a torch.nn.Module was expected."
    return f"{kind} Call it, if it builds the network." if inspect.isfunction(thing) else kind


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction)


def _is_meta(tensor: Tensor) -> bool:
    return tensor.is_meta


def _is_quantized(module: nn.Module) -> bool:
    place = type(module).__module__
    return place.startswith(("torch.ao.nn.", "torch.nn.")) and ".quantized" in place


def _is_prepared(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")) or isinstance(
        module, torch.ao.quantization.ObserverBase | torch.ao.quantization.FakeQuantizeBase
    )


def _is_foreign_integer(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] in {"bitsandbytes", "torchao", "gptqmodel", "auto_gptq", "awq"}


_ORIGINAL = "Give the network as it was before that, in floating point; lessen.operations.Quantize quantizes it."
_MODULES: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        _is_scripted,
        "is scripted or traced by torch.jit ({kind}{place}): its layers cannot be changed any more. Give the network "
        "that it was made from.",
    ),
    (_is_quantized, "is quantized already by torch.ao ({kind}{place}). " + _ORIGINAL),
    (_is_prepared, "is prepared for quantizing by torch.ao ({kind}{place}). " + _ORIGINAL),
    (_is_foreign_integer, "is quantized already by another library ({kind}{place}). " + _ORIGINAL),
    (
        lambda module: isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel),
        "holds a {kind}{place}. Give the network inside it: its attribute `module`.",
    ),
)
_TENSORS: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (
        is_lazy,
        "has not found its sizes yet ({name!r} belongs to a lazy layer). Run it once on an example before it is given.",
    ),
    (
        _is_meta,
        "has no weights yet ({name!r} is on the meta device). Call network.to_empty(device='cpu') and load its "
        "weights: network.load_state_dict(state).",
    ),
    (
        lambda tensor: tensor.is_quantized,
        "is quantized already ({name!r} holds integers of torch.ao). " + _ORIGINAL,
    ),
    (
        lambda tensor: isinstance(tensor, nn.Parameter) and tensor.layout is not torch.strided,
        "keeps {name!r} as a sparse tensor. Call to_dense() on it; zeros stay zeros.",
    ),
    (
        lambda tensor: type(tensor.data) is not Tensor,
        "keeps {name!r} as a {kind}, a tensor that another library defines. Give the network with plain tensors.",
    ),
)


def _dtype(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
