"""How large: bytes that were really written, parameters, and parameters that are not zero."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lessen.core.errors import NetworkError
from lessen.core.files import check_regular, writing
from lessen.core.scratch import scratch


def state_bytes(model: nn.Module) -> int:
    """Bytes of the network's state as a plain safetensors file: the file is written, looked at and removed."""
    from safetensors.torch import save_file

    own = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with scratch() as folder:
        path = folder / "weights.safetensors"
        with writing(path):
            save_file(own, path)
        return path.stat().st_size


def file_bytes(path: Path) -> int:
    """Bytes on the disk of a network's file and of the files it needs (see `parts_of`)."""
    return sum(part.stat().st_size for part in parts_of(path))


def parts_of(path: Path) -> list[Path]:
    """The files that are one network: an OpenVINO `.xml` needs its `.bin`, an `.onnx` its external data.

    Raises:
        NetworkError: there is no such file, or a part of it is missing.
    """
    check_regular(path, error=NetworkError, expected="a network's file")
    parts = [path]
    if path.suffix == ".xml":
        parts.append(path.with_suffix(".bin"))
    elif path.suffix == ".onnx":
        parts += [path.parent / name for name in _external_data(path)]
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise NetworkError(f"{path} needs {missing[0].name} next to it, which is missing. Move them together.")
    return parts


def count_parameters(model: nn.Module) -> int:
    """Numbers that training moves; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero_parameters(model: nn.Module) -> int:
    """Parameters that are not zero where the network uses them; a masked or parametrised-away weight is zero."""
    return sum(int(torch.count_nonzero(value)) for value in effective_parameters(model))


def effective_parameters(model: nn.Module) -> Iterator[Tensor]:
    """Each parameter once, as the forward pass sees it.

    A parameter `w` next to a buffer `w_mask` is multiplied by it (a `w_orig` next to `w_mask`, as in
    `torch.nn.utils.prune`, too). A parametrisation that keeps the shape is carried out; of one that does not (factors
    of a product), the factors themselves are what is stored.
    """
    seen: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, parametrize.ParametrizationList):
                continue
            for name, holder in _parametrizations(module):
                stored = list(holder.parameters())
                fresh = [value for value in stored if id(value) not in seen]
                seen.update(map(id, stored))
                used = getattr(module, name)
                if len(fresh) == len(stored) == 1 and used.shape == stored[0].shape:
                    yield used
                else:
                    yield from fresh
            for name, value in module.named_parameters(recurse=False):
                if id(value) not in seen:
                    seen.add(id(value))
                    mask = module._buffers.get(f"{name.removesuffix('_orig')}_mask")
                    yield value * mask if mask is not None and mask.shape == value.shape else value
        yield from (value for value in model.parameters() if id(value) not in seen)


def _parametrizations(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.items()  # type: ignore[operator, union-attr]


def _external_data(path: Path) -> list[str]:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # what protobuf raises is not public
        raise NetworkError(f"{path} is not a whole ONNX file ({_first(error)}). Export it again.") from error
    found = {entry.value for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location"}
    for name in found:
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise NetworkError(f"{path} refers to {name!r}, which is outside its folder. Export it again.")
    return sorted(found)


def _tensors(model: Any) -> Iterator[Any]:
    """The tensors of an ONNX model, those of attributes, branches, loops and functions too."""
    waiting = [model.graph, *model.functions]
    while waiting:
        part = waiting.pop()
        yield from getattr(part, "initializer", ())
        for sparse in getattr(part, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            waiting += [attribute.g, *attribute.graphs]


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
