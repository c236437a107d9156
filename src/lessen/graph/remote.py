"""A teacher behind a slow function or a service: each example is asked for once, and the answer is kept on disk.

Shapes: N examples.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lessen.core.batch import Inputs, map_inputs, values_of
from lessen.core.content import bytes_of
from lessen.core.errors import DataError, RunError, SettingError


class Remote(nn.Module):
    """A function as the frozen network of a node, with a cache by an explicit key.

    An answer belongs to the key and to the content of an example, whatever its number or split, and is on disk before
    the next call: a run that was stopped asks for nothing twice. A random view makes every example a new one in every
    epoch; give the node a fixed view, as `AsTheyAre()`.

    Args:
        function: `(inputs) -> outputs` for several examples along axis 0: tensors or arrays, (N, ...).
        key: A name for what the function is. Give a new one whenever its answers change.
        folder: Where the answers are kept.
        batch: How many examples it is called with at most.
        retries: How often a call that fails is made again, after 1, 2, 4, ... seconds.
        wait: Seconds before the first of these.

    Raises:
        SettingError: the function cannot be called, or the key is empty.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        key: str,
        folder: str | Path = "answers",
        batch: int = 32,
        retries: int = 2,
        wait: float = 1.0,
    ) -> None:
        super().__init__()
        if not callable(function) or not key or batch < 1 or retries < 0:
            raise SettingError(
                f"Remote got {function!r}, key={key!r}, batch={batch}, retries={retries}; expected a function of "
                "inputs, a name for what it is, at least one example a call, and no negative number of retries."
            )
        self.key, self.folder, self.batch, self.retries, self.wait = key, str(folder), batch, retries, wait
        # A list hides it from `nn.Module`, where a network that is called in it would become a part.
        self._function = [function]
        self.calls = 0

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The answers for the examples along axis 0.

        Raises:
            DataError: the function fails, or what it gives is not one row for each example.
        """
        given: Inputs = named if named else inputs[0] if len(inputs) == 1 else inputs
        first = next(iter(values_of(given)))
        keys = [self._key(given, place) for place in range(len(first))]
        with self._open() as kept:
            found = {key: row for key in set(keys) if (row := _get(kept, key)) is not None}
            missing = [place for place, key in enumerate(keys) if key not in found and keys.index(key) == place]
            for start in range(0, len(missing), self.batch):
                places = missing[start : start + self.batch]
                rows = self._ask(given, places)
                with kept:
                    for place, row in zip(places, rows, strict=True):
                        found[keys[place]] = row
                        _put(kept, keys[place], row)
        return torch.stack([torch.from_numpy(found[key]) for key in keys]).to(first.device)

    def _key(self, given: Inputs, place: int) -> str:
        told = hashlib.sha256(self.key.encode())
        for value in values_of(given):
            row = value[place].detach().cpu().contiguous()
            told.update(f"{row.dtype} {tuple(row.shape)} ".encode())
            told.update(bytes_of(row).data)
        return told.hexdigest()

    def _ask(self, given: Inputs, places: list[int]) -> np.ndarray[Any, Any]:
        some = map_inputs(given, lambda value: value[places])
        for attempt in range(self.retries + 1):
            self.calls += 1
            try:
                answer = self._function[0](some)
                break
            except Exception as error:
                if attempt == self.retries:
                    raise DataError(
                        f"The teacher {self.key!r} failed {attempt + 1} times, the last time with "
                        f"{type(error).__name__}: {error}. What it has answered is kept in {self.folder}; run again to "
                        "go on."
                    ) from error
                time.sleep(self.wait * 2**attempt)
        rows = answer.detach().cpu().numpy() if isinstance(answer, Tensor) else np.asarray(answer)
        if rows.ndim < 2 or len(rows) != len(places) or rows.dtype.kind != "f" or not np.isfinite(rows).all():
            raise DataError(
                f"The teacher {self.key!r} gave {rows.dtype} of shape {rows.shape} for {len(places)} examples; finite "
                "floating-point numbers with one row for each were expected."
            )
        return rows

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(Path(self.folder) / "answers.sqlite", timeout=60)) as kept:
                kept.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, row BLOB NOT NULL)")
                yield kept
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"The answers in {self.folder} cannot be read or written: {error}.") from error


def _get(kept: sqlite3.Connection, key: str) -> np.ndarray[Any, Any] | None:
    found = kept.execute("SELECT row FROM answers WHERE key = ?", (key,)).fetchone()
    return None if found is None else np.load(io.BytesIO(found[0]), allow_pickle=False)


def _put(kept: sqlite3.Connection, key: str, row: np.ndarray[Any, Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, row, allow_pickle=False)
    kept.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, stream.getvalue()))
