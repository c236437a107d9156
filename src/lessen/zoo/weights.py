"""Weights from files, into networks they belong to; nothing in a file is ever executed."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.errors import WeightsError
from lessen.core.files import check_regular, read_tensors

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "network", "net", "module")
"""Keys under which training programs keep the state of the network, among other things."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers (data parallel, compile, Lightning) put before every name."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, or of a checkpoint that holds nothing but tensors and plain values.

    Raises:
        WeightsError: there is no such file, it is damaged, or reading it would mean running code that it names.
    """
    try:
        path = Path(path).expanduser()
    except RuntimeError as error:
        raise WeightsError(f"{str(path)!r} begins with the home directory of a user that does not exist.") from error
    if path.suffix == ".safetensors":
        return read_tensors(path)
    check_regular(path, error=WeightsError, expected="a .safetensors file or of a checkpoint")
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(
            f"{path} cannot be read as plain tensors, and lessen does not execute the content of a file. If it is a "
            "whole pickled network, load it where it was made, in an environment you trust, and save only its "
            "weights: safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')."
        ) from error
    return _tensors(content, path)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Read a file and put its tensors into a network, every name and every shape of it; the network is given back.

    Raises:
        WeightsError: the file cannot be read, or its weights are of another network; the text says which names differ.
    """
    tensors = read_weights(path)
    own = network.state_dict()
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors) and not any(name.startswith(prefix) for name in own):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return load_tensors(network, tensors, source=str(path))


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> nn.Module:
    """Put named tensors into a network, every name and every shape of it; the network is given back.

    Args:
        network: Changed in place.
        tensors: Its whole state.
        source: Where they come from, for the error.

    Raises:
        WeightsError: they are of another network; the text says which names differ.
    """
    check_tensors(network, tensors, source=source)
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except (RuntimeError, NotImplementedError, TypeError) as error:  # sparse tensors, tensors without data
        last = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(
            f"The weights in {source} cannot be put into this {type(network).__name__}: {last}"
        ) from error
    return network


def check_tensors(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Whether named tensors are the whole state of a network, in every name and every shape.

    Raises:
        WeightsError: they are of another network; the text says which names differ.
    """
    differs = _differences(network.state_dict(), tensors)
    if differs:
        raise WeightsError(
            f"The weights in {source} do not belong to this {type(network).__name__}: {'; '.join(differs)}. Give the "
            "weights of this network, or build it with the settings the weights were trained with."
        )


def _check_archive(path: Path) -> None:
    """Refuse an archive that promises more bytes than it has: `torch.load` unpacks what is compressed.

    Raises:
        WeightsError: what is in it is compressed, or lies in one place twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            promised = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # no archive, or a damaged one, which torch refuses
    if promised > path.stat().st_size:
        raise WeightsError(
            f"{path} promises {promised:,} bytes, but has {path.stat().st_size:,}: it is compressed, and torch.save "
            "does not compress. Load it where you trust it, and save it again."
        )


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): value for name, value in content.items()}
        content = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), Mapping)), None)
    raise WeightsError(
        f"{path} contains no state dict: expected named tensors, or these under one of {', '.join(_WRAPPINGS)}."
    )


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    reshaped = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    return [f"{len(names)} {what} ({_few(names)})" for what, names in found if names]


def _few(names: Iterable[str], *, most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
