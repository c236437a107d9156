"""One pass of a network over a set of examples; every metric of quality is computed from its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Examples, Inputs, batches, call, map_inputs
from lessen.core.errors import DataError, NetworkError
from lessen.core.task import Rows, Task, joined
from lessen.core.tree import is_several, judged, parts

Runnable = nn.Module | Callable[[Inputs], Any]
"""A network, or what runs one: from inputs to outputs."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network for N examples, on the CPU.

    Args:
        values: The outputs, shape (N, ...); of the first examples only where all were too large to keep.
        labels: The labels of the same examples, shape (N, ...), or None if the examples have none.
        parts: Everything that a network with several outputs gives, by name, batch by batch; empty where nobody asked.
        rows: What the metrics of a task need to know of all examples, or None.
    """

    values: Tensor
    labels: Tensor | None = None
    parts: tuple[dict[str, Tensor], ...] = ()
    rows: Rows | None = None

    def rows_of(self, task: Task) -> Rows:
        """What the metrics of the task need to know of all examples.

        Raises:
            ShapeError, DataError: outputs and labels do not belong to the task, or there are no labels.
        """
        if self.rows is not None:
            return self.rows
        if self.labels is None:
            raise DataError("Without labels there is nothing to judge outputs by.")
        return task.rows(self.values, self.labels)


MOST_BYTES = 2**28
"""Outputs that are kept, where the rows of a task are there: those of a network that labels every pixel are large."""


def evaluate(
    network: Runnable,
    examples: Examples,
    *,
    batch_size: int = 256,
    most: int | None = None,
    output: str | None = None,
    whole: bool = False,
    task: Task | None = None,
) -> Outputs:
    """Run a network over examples in order, in eval mode and without gradients; it is not changed.

    Args:
        network: A module, or a callable from inputs to outputs.
        examples: What to run it on.
        batch_size: Examples at a time.
        most: Only so many of the first examples; None for all.
        output: The name of the output that counts, of networks with several; None: `logits`, or the only one.
        whole: Whether to keep the other outputs of a network with several as well.
        task: Judge the outputs batch by batch, and keep no more of them than fit into `MOST_BYTES`. None: keep all.

    Raises:
        DataError: there are no examples.
        ShapeError: outputs and labels do not belong to the task.
        NetworkError: the network returns no tensor, several without a word which of them counts, or not a row for each
            example.
    """
    if len(examples) == 0:
        raise DataError("There are no examples to evaluate on; expected at least one.")
    values: list[Tensor] = []
    labels: list[Tensor] = []
    rest: list[dict[str, Tensor]] = []
    rows: list[Rows] = []
    kept, judging = 0, task is not None and bool(task.metrics)
    with evaluating(network):
        for batch in batches(examples, size=batch_size, most=most):
            returned = run_once(network, batch.inputs)
            value = judged(returned, output).detach().cpu()
            if whole and is_several(returned):
                rest.append({name: found.detach().cpu() for name, found in parts(returned).items()})
            if value.ndim == 0 or len(value) != len(batch) or (values and value.shape[1:] != values[0].shape[1:]):
                raise NetworkError(
                    f"The network gives outputs of shape {tuple(value.shape)} for {len(batch)} examples; expected one "
                    "row for each example, all of one shape."
                )
            truth = None if batch.labels is None else batch.labels.cpu()
            # What is not finite is kept whole, so that whoever looks finds it.
            finite = bool(value.isfinite().all())
            judging = judging and truth is not None and finite
            if task is not None and judging and truth is not None:
                rows.append(task.rows(value, truth))
            if task is not None and finite and values and kept > MOST_BYTES:
                continue
            kept += value.nbytes
            values.append(value)
            if truth is not None:
                labels.append(truth)
    found = joined(rows) if judging else None
    return Outputs(torch.cat(values), torch.cat(labels) if labels else None, tuple(rest), found)


def check_finite(said: Outputs, *, what: str, where: str) -> None:
    """Check that all outputs are finite: otherwise no quality can be computed.

    Args:
        said: The outputs.
        what: What to call the network in an error.
        where: The examples.

    Raises:
        NetworkError: some are NaN or infinite; the text says how many.
    """
    finite_N = torch.isfinite(said.values).flatten(1).all(1) if said.values.ndim > 1 else torch.isfinite(said.values)
    bad = (~finite_N).nonzero().flatten()
    if len(bad):
        raise NetworkError(
            f"{what} returns NaN or infinity for {len(bad)} of {len(finite_N)} examples of {where}, the first of them "
            f"example {int(bad[0])}. Look for NaN in its weights and for inputs that are too large; if it was just "
            "trained, lower the learning rate."
        )


def run_once(network: Runnable, inputs: Inputs) -> Any:
    """Call a network with inputs, on its own device if it is a module."""
    if not isinstance(network, nn.Module):
        return network(inputs)
    device = device_of(network)
    return call(network, map_inputs(inputs, lambda value: value.to(device)))


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer is; the CPU if it has none."""
    for value in (*module.parameters(), *module.buffers()):
        return value.device
    return torch.device("cpu")


@contextmanager
def evaluating(network: Runnable) -> Iterator[None]:
    """No gradients, and every part of the network in eval mode, for a block; each part's mode is restored."""
    parts = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
