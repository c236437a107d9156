"""The compressed file: one safetensors file whose header says, in JSON, how its bytes become a network's tensors.

It holds one tensor of bytes, `packed`, and three texts in its header: `format`; `index`, JSON, with the form of every
tensor in the order of its bytes, a checksum of them, and whatever else was to be kept; `checksum`, of the index.
Nothing in it is executed, and no more memory is taken than the tensors that the reader expects.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.core.errors import WeightsError
from lessen.core.files import check_regular, parse_json, write_whole
from lessen.surgery.packing.stream import Sink, Source
from lessen.surgery.packing.tensors import NOTHING, Behind, Known, read_tensor, write_tensor

FORMAT = "lessen packed, version 1"
_AXES = 64
_LARGEST = 1 << 56
"""Numbers in a tensor: more than any machine holds, and few enough that their bytes are counted in 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A compressed file, its tensors not yet unpacked.

    Args:
        path: Where it came from.
        more: What was kept beside the tensors, plain data.
        forms: The form of each tensor, by name, in the order of their bytes.
        content: The bytes.
    """

    path: Path
    more: dict[str, Any]
    forms: dict[str, dict[str, Any]]
    content: bytes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tuple(self.forms[form.get("same", name)]["shape"]) for name, form in self.forms.items()}

    def unpack(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Each tensor, and the places at which it stands (None where it is dense).

        Raises:
            WeightsError: the bytes of a tensor were altered; the text names it.
        """
        made: dict[str, tuple[Tensor, Tensor | None]] = {}
        source = Source(self.content)
        for name, form in self.forms.items():
            try:
                made[name] = made[form["same"]] if "same" in form else self._unpacked(form, source, made)
            except Exception as error:  # a forged form can break anywhere
                raise WeightsError(f"{name:.200} in {self.path} is damaged: {error} Get the file again.") from error
        source.end()
        return made

    def _unpacked(self, form: dict[str, Any], source: Source, made: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        content = source.take(form["bytes"])
        if zlib.crc32(content) != form["checksum"]:
            raise WeightsError("its checksum is another.")
        own = Source(content)
        behind = None
        if "behind" in form:
            name, group = form["behind"]
            codes = made[name][0]
            _check_behind(tuple(codes.shape), tuple(form["shape"]), group)
            behind = Behind(name=name, group=group).spread(codes, tuple(form["shape"]))
        tensor = read_tensor(form, own, behind)
        own.end()
        return tensor


def write_container(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    known: Mapping[str, Known] | None = None,
    more: Mapping[str, Any] | None = None,
    coded: bool = True,
) -> dict[str, int]:
    """Write tensors to one file, whole or not at all, and give the bytes that each of them takes.

    What stands under several names (shared weights, or equal ones) is written once.

    Args:
        path: The file.
        tensors: By name.
        known: What is known of some of them.
        more: What is to be kept beside them, plain data.
        coded: Whether frequent numbers may take fewer bits.

    Raises:
        WeightsError: a tensor is of a type that cannot be written.
    """
    from safetensors.torch import save_file

    known = known or {}
    sink, forms, taken = Sink(), dict[str, Any](), dict[str, int]()
    seen: dict[tuple[Any, ...], str] = {}
    for name in sorted(tensors, key=lambda name: known.get(name, NOTHING).behind is not None):
        tensor, told = tensors[name].detach(), known.get(name, NOTHING)
        same = seen.setdefault(_identity(tensor, told), name)
        if same != name:
            forms[name], taken[name] = {"same": same}, 0
            continue
        own, behind = Sink(), None
        if told.behind is not None:
            behind = told.behind.spread(tensors[told.behind.name], tuple(tensor.shape))
        form = write_tensor(tensor, own, told, behind, coded=coded)
        if told.behind is not None:
            form |= {"behind": [told.behind.name, told.behind.group]}
        content = own.content()
        forms[name] = {**form, "bytes": sink.put(content), "checksum": zlib.crc32(content)}
        taken[name] = len(content)
    index = json.dumps({**(more or {}), "tensors": forms}, separators=(",", ":"), allow_nan=False)
    header = {"format": FORMAT, "index": index, "checksum": str(zlib.crc32(index.encode()))}
    packed = torch.from_numpy(np.frombuffer(sink.content(), np.uint8).copy())
    write_whole(path, lambda part: save_file({"packed": packed}, part, header))
    return taken


def read_container(path: Path) -> Contents:
    """Open a compressed file; its tensors are unpacked later, when the reader knows that they are the expected ones.

    Raises:
        WeightsError: there is no such file, it is cut short, altered, or no compressed file of this version.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path, error=WeightsError, expected="a file that `lessen pack` wrote")
    try:
        with safe_open(path, "pt") as opened:
            header = opened.metadata() or {}
            if not str(header.get("format", "")).startswith("lessen packed"):
                raise WeightsError(
                    f"{path} was not written by `lessen pack`: it is a safetensors file of plain tensors. Load it into "
                    "its network with lessen.zoo.load_weights."
                )
            if header["format"] != FORMAT:
                raise WeightsError(f"{path} is of another version: {header['format']!r}, expected {FORMAT!r}.")
            packed = opened.get_tensor("packed")
            if packed.dtype != torch.uint8 or packed.ndim != 1:
                raise WeightsError(f"{path} holds no packed bytes, but {packed.dtype}. Get the file again.")
            content = packed.numpy().tobytes()
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). It may be cut short, or of another format; "
            "write it again with `lessen pack`."
        ) from error
    index = header.get("index", "")
    if str(zlib.crc32(index.encode())) != header.get("checksum"):
        raise WeightsError(f"The index of {path} was altered: its checksum is another. Get the file again.")
    more = parse_json(index, f"The index of {path}", error=WeightsError)
    forms = more.pop("tensors", None) if isinstance(more, dict) else None
    if not isinstance(forms, dict) or not all(_is_form(form, forms) for form in forms.values()):
        raise WeightsError(f"The index of {path} is no index of tensors. Get the file again.")
    return Contents(path=path, forms=forms, more=more, content=content)


def _is_form(form: Any, forms: Mapping[str, Any]) -> bool:
    """Whether a form has a shape that a tensor can have, its own or that of another form."""
    if not isinstance(form, dict):
        return False
    shape = form.get("shape")
    if "same" in form:
        other = forms.get(form["same"]) if isinstance(form["same"], str) else None
        return isinstance(other, dict) and "same" not in other
    if not isinstance(shape, list) or len(shape) > _AXES:
        return False
    return (
        all(type(size) is int and size >= 0 for size in shape) and math.prod(max(1, size) for size in shape) < _LARGEST
    )


def _check_behind(codes: tuple[int, ...], shape: tuple[int, ...], group: Any) -> None:
    whole = isinstance(group, int) and group > 0 and len(codes) == len(shape) == 2
    if not whole or codes != (shape[0], -(-shape[1] // group)):
        raise WeightsError(f"Groups of {group!r} do not fit {codes} and {shape}.")


def _identity(tensor: Tensor, known: Known) -> tuple[Any, ...]:
    """Equal for tensors that may be written once."""
    kept = None if known.kept is None else _digest(known.kept)
    return tensor.dtype, tuple(tensor.shape), _digest(tensor), kept


def _digest(tensor: Tensor) -> bytes:
    whole = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b"").digest()
