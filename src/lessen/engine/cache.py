"""What a frozen node gives, computed once and read from disk by example number afterwards.

A folder holds one array a tap, examples along axis 0 (`.npy`, read through the page cache in any order), and
`cache.json`, which says of which teacher, view and examples it is. It is used for nothing else.

Shapes: N examples, C outputs, K kept of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lessen.core.data import Examples, batches, examples_digest
from lessen.core.errors import DataError, GraphError, RunError, SettingError
from lessen.core.files import cannot_write, write_json
from lessen.engine.home import Home
from lessen.graph.cache import Cache, Stored
from lessen.graph.node import Network
from lessen.graph.units import NetworkUnit, Now
from lessen.surgery.digest import digest
from lessen.surgery.taps import Tap

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def use_cache(unit: NetworkUnit, examples: Examples, home: Home, *, folder: Path | None) -> None:
    """Let a frozen node be read from its cache, which is filled first where it is not complete.

    Args:
        unit: The node, with `Cache` settings.
        examples: The training examples.
        home: Where to compute; with several processes the main one fills.
        folder: Of the run, for caches that name none.

    Raises:
        RunError: the folder holds the cache of another teacher, view or data, or the disk is full.
        SettingError: there is no folder, or `top_k` is asked of something that is not (N, C).
    """
    assert isinstance(unit.node, Network)
    assert unit.node.cache is not None
    cache = unit.node.cache
    if cache.folder is None and folder is None:
        raise SettingError(f"The cache of {unit.name!r} has no folder, and neither has the run. Give one of them.")
    where = cache.folder if cache.folder is not None else Path(folder or ".") / "cache" / unit.name
    key = {
        "teacher": digest(unit.module),
        "view": unit.view_key if unit.view is not None else "none",
        "examples": examples_digest(examples, labels=False),
        "stored": cache.stored.value,
        "top_k": cache.top_k,
    }
    home.decide(lambda: _complete(unit, examples, home, cache=cache, where=where, key=key))
    about = _about(where, key)
    unit.cached = _Reader(where, [(tap, about["taps"][_tap_name(tap)]) for tap in unit.taps], home.device)


def keep_top(logits_NC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest log-probabilities, the log of the mass of all others behind them, and their places.

    Shapes: logits (N, C) -> (N, K + 1) and (N, K).

    >>> values, places = keep_top(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), 2)
    >>> values.exp().round(decimals=3)
    tensor([[0.2500, 0.2500, 0.5000]])
    """
    log_NC = logits_NC.float().log_softmax(1)
    top_NK, place_NK = log_NC.topk(count, dim=1)
    tail_N1 = (1 - top_NK.exp().sum(1, keepdim=True)).clamp_min(1e-7).log()
    return torch.cat([top_NK, tail_N1], dim=1), place_NK


def spread_top(values_NK1: Tensor, place_NK: Tensor, classes: int) -> Tensor:
    """Log-probabilities (N, C) that sum to one: the kept ones in their places, the tail spread evenly over the others.

    >>> values, places = keep_top(torch.tensor([[4.0, 2.0, 0.0, 0.0]]), 2)
    >>> dense = spread_top(values, places, 4)
    >>> torch.allclose(dense, torch.tensor([[4.0, 2.0, 0.0, 0.0]]).log_softmax(1), atol=1e-6)
    True
    """
    count = place_NK.shape[1]
    if count == classes:
        dense_NC = values_NK1.new_empty(len(values_NK1), classes)
    else:
        each_N1 = values_NK1[:, -1:] - float(np.log(classes - count))
        dense_NC = each_N1.expand(-1, classes).clone()
    dense_NC.scatter_(1, place_NK, values_NK1[:, :count])
    return dense_NC.log_softmax(1)


class _Reader:
    """Reads what a node gave for examples by their numbers."""

    def __init__(self, folder: Path, taps: list[tuple[Tap, Mapping[str, Any]]], device: torch.device) -> None:
        self._device = device
        self._taps = [
            (
                tap,
                [
                    torch.from_numpy(np.load(folder / name, mmap_mode="c", allow_pickle=False))
                    for name in about["files"]
                ],
                _DTYPES[about["dtype"]],
                about.get("classes"),
            )
            for tap, about in taps
        ]

    def __call__(self, index_N: Tensor) -> dict[Tap, Any]:
        index_N = index_N.cpu()
        found: dict[Tap, Any] = {}
        for tap, arrays, dtype, classes in self._taps:
            value = arrays[0][index_N].to(self._device, dtype)
            if classes is not None:
                value = spread_top(value, arrays[1][index_N].to(self._device, torch.int64), classes)
            found[tap] = value
        return found


def _complete(
    unit: NetworkUnit, examples: Examples, home: Home, *, cache: Cache, where: Path, key: dict[str, Any]
) -> None:
    about = _about(where, key) if (where / "cache.json").is_file() else {**key, "taps": {}}
    missing = [tap for tap in unit.taps if _tap_name(tap) not in about["taps"]]
    if not missing:
        return
    filling = where / f".filling-{os.getpid()}"
    try:
        shutil.rmtree(filling, ignore_errors=True)
        filling.mkdir(parents=True)
        made = _fill(unit, examples, home, cache=cache, folder=filling, taps=missing)
        for name, entry in made.items():
            for file in entry["files"]:
                (filling / file).replace(where / file)
            about["taps"][name] = entry
        write_json(where / "cache.json", about)
    except OSError as error:
        raise cannot_write(where, error) from error
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def _fill(
    unit: NetworkUnit, examples: Examples, home: Home, *, cache: Cache, folder: Path, taps: list[Tap]
) -> dict[str, dict[str, Any]]:
    count = len(examples)
    made: dict[str, dict[str, Any]] = {}
    streams: dict[str, BinaryIO] = {}
    numpy_type = np.float16 if cache.stored is Stored.HALF else np.float32

    def put(name: str, value: np.ndarray[Any, Any]) -> None:
        if name not in streams:
            stream = streams[name] = (folder / name).open("wb")
            header = {"descr": np.lib.format.dtype_to_descr(value.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": (count, *value.shape[1:])})
        streams[name].write(np.ascontiguousarray(value).tobytes())

    try:
        for batch in batches(examples, size=256):
            now = Now(batch=batch.to(home.device), training=True)
            unit.compute(now)
            for tap in taps:
                value, name = now.values[unit.name][tap], _tap_name(tap)
                stem = hashlib.sha256(name.encode()).hexdigest()[:12]
                entry = made.setdefault(name, _entry(unit, tap, value, cache, stem))
                if "classes" in entry:
                    value, places = keep_top(value, min(cache.top_k or 0, entry["classes"]))
                    put(entry["files"][1], places.cpu().numpy().astype(np.int32))
                with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is named below
                    stored = value.detach().float().cpu().numpy().astype(numpy_type)
                if not np.isfinite(stored).all():
                    raise DataError(
                        f"What {unit.name!r} gives at {str(tap)!r} does not fit into half precision, or is not finite. "
                        "Store it in full, or look for NaN in its weights."
                    )
                put(entry["files"][0], stored)
        unit.forget()
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        for stream in streams.values():
            stream.close()
    return made


def _entry(unit: NetworkUnit, tap: Tap, value: Any, cache: Cache, stem: str) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise GraphError(
            f"The tap {str(tap)!r} of {unit.name!r} gives a {type(value).__name__}; only tensors are cached."
        )
    entry: dict[str, Any] = {"files": [f"{stem}.npy"], "dtype": str(value.dtype).removeprefix("torch.")}
    if entry["dtype"] not in _DTYPES:
        raise GraphError(
            f"The tap {str(tap)!r} of {unit.name!r} gives {entry['dtype']}; only floating point is cached."
        )
    if cache.top_k is not None and tap == Tap():
        if value.ndim != 2:
            raise SettingError(
                f"Cache: top_k needs outputs of shape (N, C), but {unit.name!r} gives {tuple(value.shape)}. "
                f"Leave it out."
            )
        entry["files"].append(f"{stem}.places.npy")
        entry["classes"] = value.shape[1]
    return entry


def _about(where: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((where / "cache.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{where} is not a cache of lessen ({error}). Choose another folder.") from error
    for name, value in key.items():
        if about.get(name) != value:
            raise RunError(
                f"The cache in {where} was made with another setting of {name!r} ({about.get(name)!r}, not {value!r}). "
                "Choose another folder, or remove this one."
            )
    return about


def _tap_name(tap: Tap) -> str:
    return f"{tap.side}:{tap.path}" + ("" if tap.call is None else f"[{tap.call}]")
