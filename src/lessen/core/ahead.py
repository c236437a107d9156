"""Batches fetched while the network computes: by threads that read and decode, or by the workers of a DataLoader.

What is fetched never depends on how: the order is that of the parts, and each item of someone's own dataset draws its
random numbers from the seed of its part and its own number. So a run can stop anywhere and start again there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lessen.core.errors import DataError, LessenError
from lessen.core.machine import cores
from lessen.core.seeds import drawing_from

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from lessen.core.batch import Batch
    from lessen.core.examples import Examples

AHEAD_BYTES = 256 * 2**20
"""Memory that batches fetched ahead may take together, unless a single one takes more."""

FEW = 3
"""Batches from which starting worker processes is worth its time."""

Part = tuple[int, Tensor]
"""A seed, and the indices of the examples of one batch, shape (N,)."""


@dataclass(frozen=True)
class Loading:
    """How batches of a set of examples are fetched best.

    Args:
        threads: Threads that fetch ahead; 0 fetches when a batch is asked for, which is best in memory.
        loader: The loader whose worker processes fetch, set up as it says (`num_workers`, `prefetch_factor`,
            `worker_init_fn`, `multiprocessing_context`, `timeout`).
        foreign: Whether fetching runs someone else's code, which may draw random numbers and need not be safe to run
            in threads.
    """

    threads: int = 0
    loader: DataLoader[Any] | None = None
    foreign: bool = False


HERE = Loading()


def loading_of(examples: Examples) -> Loading:
    """How batches of these examples are fetched best; when they are asked for, where the examples do not say."""
    loading: Loading = getattr(examples, "loading", HERE)
    return loading


def threads() -> int:
    """How many threads read and decode: as many as there are processors, at most 4."""
    return min(4, cores())


def ahead(examples: Examples, parts: Iterable[Part]) -> Generator[Batch, None, None]:
    """The batches of these parts, in their order, some of them fetched before they are asked for.

    At most four batches and `AHEAD_BYTES` wait. Closing the generator, or dropping it, ends its threads and processes.

    Raises:
        LessenError: what fetching raised, when the batch that it belongs to is asked for.
    """
    loading = loading_of(examples)
    fetch = _Fetch(examples, loading.foreign)
    if loading.loader is not None and loading.loader.num_workers > 0:
        return _by_processes(fetch, parts, loading.loader)
    if loading.threads > 0 and not loading.foreign:
        return _by_threads(fetch, parts, loading.threads)
    return (fetch(part) for part in parts)


class _Fetch:
    """Fetches one part; also the dataset of a DataLoader whose items are whole batches."""

    def __init__(self, examples: Examples, foreign: bool) -> None:
        self.examples, self.foreign = examples, foreign

    def __call__(self, part: Part) -> Batch:
        seed, index_N = part
        if not self.foreign:
            return self.examples.fetch(index_N)
        with drawing_from(seed):
            return self.examples.fetch(index_N)

    def __getitem__(self, part: tuple[int, list[int]]) -> Batch | LessenError:
        try:
            return self((part[0], torch.tensor(part[1], dtype=torch.int64)))
        except LessenError as error:
            return error  # torch would put the trace of the worker into its text


def _by_threads(fetch: _Fetch, parts: Iterable[Part], count: int) -> Generator[Batch, None, None]:
    waiting: deque[Future[Batch]] = deque()
    depth = 1  # until it is known how large a batch is
    pool = ThreadPoolExecutor(count, thread_name_prefix="lessen-data")
    try:
        for part in parts:
            waiting.append(pool.submit(fetch, part))
            if len(waiting) > depth:
                batch = waiting.popleft().result()
                depth = min(max(2, count), max(1, AHEAD_BYTES // max(1, batch.nbytes)))
                yield batch
                del batch
            while len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _by_processes(fetch: _Fetch, parts: Iterable[Part], asked: DataLoader[Any]) -> Generator[Batch, None, None]:
    from torch.utils.data import DataLoader

    parts = iter(parts)
    first = list(islice(parts, FEW))
    if len(first) < FEW:
        yield from map(fetch, first)
        return
    loader: DataLoader[Any] = DataLoader(
        fetch,  # type: ignore[arg-type]
        sampler=((seed, index_N.tolist()) for seed, index_N in chain(first, parts)),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=asked.num_workers,
        prefetch_factor=asked.prefetch_factor,
        timeout=asked.timeout,
        worker_init_fn=asked.worker_init_fn,
        multiprocessing_context=asked.multiprocessing_context,
        generator=torch.Generator().manual_seed(0),
    )
    batches = iter(loader)
    try:
        while True:
            try:
                found = next(batches, None)
            except RuntimeError as error:
                raise DataError(f"A worker of the DataLoader failed ({error}). Try num_workers=0.") from error
            if found is None:
                return
            if isinstance(found, LessenError):
                raise found
            yield found
    finally:
        del batches, loader  # ends the workers, also where a traceback keeps this frame


def _as_it_is(item: Any) -> Any:
    return item
