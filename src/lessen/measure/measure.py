"""Look at a network or a file and write down all that can be said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lessen.core.calling import public
from lessen.core.data import Data, Examples, Inputs
from lessen.core.errors import DataError, SettingError
from lessen.core.estimate import Estimate
from lessen.core.record import Record
from lessen.core.usable import check_precision, usable
from lessen.measure.evaluate import Outputs, Runnable, check_finite, evaluate
from lessen.measure.latency import Speed, time_networks
from lessen.measure.memory import peak_memory
from lessen.measure.multiply_adds import multiply_adds_by_operator
from lessen.measure.quality import quality
from lessen.measure.size import count_nonzero_parameters, count_parameters, file_bytes, parts_of, state_bytes
from lessen.measure.task import guessed
from lessen.measure.timing import pinned_threads
from lessen.measure.timings import FEWEST_ROUNDS

Say = Callable[..., Record]


@public
def measure(
    thing: nn.Module | str | Path,
    data: Data | None = None,
    *,
    teacher: nn.Module | None = None,
    told: Outputs | None = None,
    taught: Outputs | None = None,
    run: Callable[[Inputs], Any] | None = None,
    runtime: str = "pytorch",
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    repeats: int = 30,
    split: Literal["test", "validation"] = "test",
    batch_size: int = 256,
    subject: str | None = None,
    step: int = 0,
    seed: int = 0,
) -> list[Record]:
    """Measure a network, or a file of one.

    Of a module: bytes, parameters and non-zero parameters; with data also multiply-adds, peak memory, latency and
    throughput at each batch size, and quality on the split. Of a file: bytes; with data and `run` also what a clock
    and labels can tell. With a teacher also the agreement, the divergence, and the speed-up, timed interleaved.

    Args:
        thing: A module, or the path of a file (`.onnx`, `.xml` with its `.bin`, `.pt2`, `.safetensors`).
        data: Where inputs and labels come from, with their task; without one it is guessed.
        teacher: What to compare with; None for no comparison.
        told: What it says to the split, if that is known already.
        taught: What the teacher says to the split, likewise.
        run: What runs the file, from inputs to outputs; loading runtimes is not done here.
        runtime: What the runtime is called in the records.
        batch_sizes: At which batch sizes to time and to look at memory.
        threads: How many threads PyTorch gets; None leaves the number as it is. `run` must pin its own.
        repeats: How many timed repeats, at least 6.
        split: On which split quality is measured.
        batch_size: Examples at a time for the quality; does not change the figures.
        subject: What to call it in the records.
        step: Which step of a pipeline it comes from; 0 is the original network.
        seed: For resampling and the order of timing.

    Raises:
        NetworkError: no such file, or `thing` is neither a path nor a network that can be worked on (`core.usable`).
        SettingError: a setting out of range.
        ShapeError, DataError: outputs and labels do not fit together.
    """
    if split not in ("test", "validation"):
        raise SettingError(f"Got split={split!r}; expected 'test' or 'validation'.")
    if not batch_sizes or min(batch_sizes) < 1 or batch_size < 1 or repeats < FEWEST_ROUNDS:
        raise SettingError(
            f"Got batch_sizes={tuple(batch_sizes)}, batch_size={batch_size}, repeats={repeats}; expected at least one "
            f"batch size, sizes of at least 1, and at least {FEWEST_ROUNDS} repeats."
        )
    thing = thing if isinstance(thing, str | Path) else usable(thing)
    teacher = None if teacher is None else usable(teacher, what="The teacher")
    path = None if isinstance(thing, nn.Module) else Path(thing)
    name = subject or (path.name if path is not None else type(thing).__name__)

    def say(figure: str, value: Estimate | float | None, unit: str, **more: Any) -> Record:
        estimate = value if isinstance(value, Estimate) else Estimate(math.nan if value is None else float(value))
        if value is not None and not math.isfinite(estimate.value):
            more["detail"] = {**more.get("detail", {}), "reason": f"it is {estimate.value}: the outputs are not finite"}
        return Record(
            subject=name,
            figure=figure,
            value=_finite(estimate.value),
            low=_finite(estimate.low),
            high=_finite(estimate.high),
            unit=unit,
            step=step,
            file=None if path is None else path.name,
            **more,
        )

    runnable = thing if isinstance(thing, nn.Module) else run
    records = list(_size(thing if isinstance(thing, nn.Module) else Path(thing), say))
    if data is None or runnable is None:
        return records
    examples = data.test if split == "test" else data.validation
    if len(examples) == 0:
        raise DataError(f"The {split} split of {data.name} has no examples. Every split needs at least one.")
    if isinstance(thing, nn.Module):
        check_precision(thing, _first(examples, 2))
        records += _cost(thing, examples, batch_sizes, say)
    with pinned_threads(threads) as used:
        settings = {"threads": used, "runtime": runtime, "repeats": repeats}
        for size in batch_sizes:
            records += _speed(runnable, teacher, examples, size, about=settings, say=say, seed=seed)
        task = guessed(data, runnable).task
        told = told or evaluate(runnable, examples, batch_size=batch_size, output=data.output, task=task)
        check_finite(told, what=name, where=f"the {split} split of {data.name}")
        if teacher is not None and taught is None:
            taught = evaluate(teacher, examples, batch_size=batch_size, output=data.output, task=task)
    about = {"split": split, "examples": len(examples), "data": data.name, "task": task.name}
    for figure in quality(told, taught, task=task):
        how, detail = {**about, **figure.settings}, figure.detail()
        records.append(say(figure.name, figure.estimate, figure.unit, settings=how, detail=detail))
    return records


def _size(thing: nn.Module | Path, say: Say) -> Iterator[Record]:
    if isinstance(thing, Path):
        yield say("bytes", file_bytes(thing), "B", detail={"files": [part.name for part in parts_of(thing)]})
        return
    yield say("bytes", state_bytes(thing), "B", settings={"format": "safetensors"})
    yield say("parameters", count_parameters(thing), "1")
    yield say("nonzero_parameters", count_nonzero_parameters(thing), "1")


def _cost(model: nn.Module, examples: Examples, batch_sizes: Sequence[int], say: Say) -> Iterator[Record]:
    counted = multiply_adds_by_operator(model, _first(examples, 1))
    yield say("multiply_adds", sum(counted.values()), "1", settings={"batch": 1}, detail={"operators": counted})
    for size in batch_sizes:
        peak = peak_memory(model, _first(examples, size))
        yield say("peak_memory", peak, "B", settings={"batch": size, "counts": "living tensors"})


def _speed(
    network: Runnable,
    teacher: nn.Module | None,
    examples: Examples,
    size: int,
    *,
    about: dict[str, Any],
    say: Say,
    seed: int,
) -> Iterator[Record]:
    networks = {"this": network}
    if teacher is not None and teacher is not network:
        networks["teacher"] = teacher
    timings = time_networks(networks, _first(examples, size), rounds=about["repeats"], seed=seed)
    about = {"batch": size, **about}
    reference = "teacher" if "teacher" in networks else None
    speed = Speed.of(timings, "this", reference)
    for figure, value, unit in speed.figures(size, compared=reference is not None):
        how = {**about, "reference": reference} if figure == "speedup" else about
        yield say(figure, value, unit, settings=how, detail=speed.detail())


def _finite(value: float | None) -> float | None:
    """A record goes to a file, and JSON knows no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _first(examples: Examples, count: int) -> Inputs:
    """The inputs of the first examples, from the start again where there are too few."""
    return examples.fetch(torch.arange(count) % len(examples)).inputs
