"""What a frozen node gives, computed once and read from disk by example number afterwards.

A folder holds one array a tap, examples along axis 0 (`.npy`, read through the page cache in any order), and
`cache.json`, which says of which teacher, view and examples it is. It is used for nothing else: the teacher is told by
its class, settings and weights, and what it says now to a few examples is compared with what is stored. It is computed
in the precision of its weights, whatever the precision of the training.

Shapes: N examples, C outputs, K kept of them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lessen.core.data import Batch, Examples, batches, examples_digest
from lessen.core.errors import DataError, GraphError, RunError, SettingError
from lessen.core.files import cannot_write
from lessen.core.identity import identity
from lessen.engine.cached import DTYPES, About, Entry, Reader, check_files, checksum, keep_top, tap_name
from lessen.engine.home import Home
from lessen.graph.cache import Cache, Stored
from lessen.graph.nodes.unit import Now, Unit
from lessen.surgery.taps import Tap


def use_cache(unit: Unit, examples: Examples, home: Home, *, folder: Path | None) -> None:
    """Let a frozen node be read from its cache, which is filled first where it is not complete.

    Args:
        unit: The node, with `Cache` settings.
        examples: The training examples.
        home: Where to compute; with several processes the main one fills.
        folder: Of the run, for caches that name none.

    Raises:
        RunError: the folder holds the cache of another teacher, view or data, or the disk is full.
        SettingError: there is no folder, or `top_k` is asked of something that is neither (N, C) nor (N, L, C).
    """
    cache = unit.cache
    assert cache is not None
    if cache.folder is None and folder is None:
        raise SettingError(f"The cache of {unit.name!r} has no folder, and neither has the run. Give one of them.")
    where = cache.folder if cache.folder is not None else Path(folder or ".") / "cache" / unit.name
    key = {
        "teacher": _identity(unit, cache),
        "view": "none" if unit.view is None else identity(unit.view),
        "examples": examples_digest(examples, labels=False),
        "stored": cache.stored.value,
        "top_k": cache.top_k,
    }
    home.decide(lambda: _complete(unit, examples, home, cache=cache, where=where, key=key))
    about = About.read(where, key)
    stored = {tap: about.taps[tap_name(tap)] for tap in unit.taps}
    reader = Reader(where, stored, shapes=unit.shapes, count=len(examples), device=home.device)
    if cache.key is None:
        few_N = torch.arange(min(4, len(examples)))
        wrong = reader.differs(few_N, _now(unit, examples.fetch(few_N), home))
        if wrong is not None:
            raise RunError(
                f"The cache in {where} differs from what {unit.name!r} now computes at {str(wrong)!r}: it was made by "
                "another teacher. Choose another folder, or remove this one. For a teacher whose outputs differ each "
                "time, set Cache(key=...)."
            )
    unit.cached = reader


def _identity(unit: Unit, cache: Cache) -> str:
    """What tells a teacher from all others: its class, settings and weights, or the word that was given for it."""
    if cache.key is not None:
        return f"key {cache.key}"
    if unit.module is None or not unit.module.state_dict():
        raise SettingError(
            f"The cache of {unit.name!r} cannot tell this teacher from another one: it has no weights. Give it a name, "
            "Cache(key=...), and a new name whenever its outputs change."
        )
    return identity(unit.module)


def _now(unit: Unit, batch: Batch, home: Home) -> dict[Tap, Any]:
    """What the node gives for a batch, computed and not read."""
    now = Now(batch=batch.to(home.device), training=True)
    unit.compute(now)
    found = dict(now.values[unit.name])
    unit.forget()
    return found


def _complete(unit: Unit, examples: Examples, home: Home, *, cache: Cache, where: Path, key: dict[str, Any]) -> None:
    about = About.read(where, key) if (where / "cache.json").exists() else About(key=key, taps={})
    missing = [tap for tap in unit.taps if tap_name(tap) not in about.taps]
    for tap in unit.taps:
        if tap not in missing:
            check_files(where, tap, about.taps[tap_name(tap)])
    if not missing:
        return
    filling = where / f".filling-{os.getpid()}"
    try:
        shutil.rmtree(filling, ignore_errors=True)
        filling.mkdir(parents=True)
        made = _fill(unit, examples, home, cache=cache, folder=filling, taps=missing)
        for tap, entry in made.items():
            entry.checksums = [checksum(filling / file) for file in entry.files(tap)]
            for file in entry.files(tap):
                (filling / file).replace(where / file)
            about.taps[tap_name(tap)] = entry
        about.write(where)
    except OSError as error:
        raise cannot_write(where, error) from error
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def _fill(
    unit: Unit, examples: Examples, home: Home, *, cache: Cache, folder: Path, taps: list[Tap]
) -> dict[Tap, Entry]:
    count = len(examples)
    made: dict[Tap, Entry] = {}
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
                value = now.values[unit.name][tap]
                entry = made.setdefault(tap, _entry(unit, tap, value, cache))
                files = entry.files(tap)
                if entry.classes is not None:
                    value, places = keep_top(value, min(cache.top_k or 0, entry.classes))
                    put(files[1], places.cpu().numpy().astype(np.int32))
                with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is named below
                    stored = value.detach().float().cpu().numpy().astype(numpy_type)
                if not np.isfinite(stored).all():
                    raise DataError(
                        f"The outputs of {unit.name!r} at {str(tap)!r} do not fit into half precision, or are not "
                        "finite. Store it in full, or look for NaN in its weights."
                    )
                put(files[0], stored)
        unit.forget()
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        for stream in streams.values():
            stream.close()
    return made


def _entry(unit: Unit, tap: Tap, value: Any, cache: Cache) -> Entry:
    if not isinstance(value, Tensor):
        raise GraphError(
            f"The tap {str(tap)!r} of {unit.name!r} gives a {type(value).__name__}; only tensors are cached."
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise GraphError(f"The tap {str(tap)!r} of {unit.name!r} gives {dtype}; only floating point is cached.")
    kept = cache.top_k is not None and tap == Tap()
    if kept and value.ndim not in (2, 3):
        raise SettingError(
            f"Cache: top_k needs outputs of shape (N, C), or (N, L, C) with one distribution a position, but "
            f"{unit.name!r} gives {tuple(value.shape)}. Leave it out."
        )
    return Entry.model_validate(
        {"dtype": dtype, "shape": list(value.shape[1:]), "classes": value.shape[-1] if kept else None}
    )
