"""Where a run computes: device, precision and processes, from Hugging Face accelerate.

Accelerate keeps its state in class-wide dictionaries. A run has its own copies of them, put in place only while it
computes, so runs in sequence or interleaved, and a program's own use of accelerate, do not see one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.errors import SettingError
from lessen.graph.stage import Precision


class Home:
    """One accelerator, for one stage of one run.

    Args:
        device: "cpu", "cuda", ...; None: what accelerate finds.
        precision: Of the networks.
    """

    def __init__(self, *, device: torch.device | str | None, precision: Precision) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, PartialState
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType

        wanted = None if device is None else torch.device(device)
        if precision is Precision.FLOAT16 and not (
            torch.cuda.is_available() and (wanted is None or wanted.type == "cuda")
        ):
            raise SettingError("Precision FLOAT16 needs a CUDA device. Use BFLOAT16 or FULL on this machine.")
        self._shared = [PartialState._shared_state, AcceleratorState._shared_state, GradientState._shared_state]
        self._own: list[dict[str, Any]] = [{}, {}, {}]
        with self.inside():
            self.accelerator = Accelerator(
                cpu=wanted is not None and wanted.type == "cpu",
                mixed_precision=precision.value,
                gradient_accumulation_steps=1,
                kwargs_handlers=[DistributedDataParallelKwargs()],
            )
            self.device = torch.device(self.accelerator.device)
            self.processes = int(self.accelerator.num_processes)
            self.rank = int(self.accelerator.process_index)
            # One process that torchrun started is distributed too: its module is wrapped as those of several are.
            self.distributed = self.accelerator.distributed_type != DistributedType.NO
        if wanted is not None and wanted.type != self.device.type:
            raise SettingError(f"The device {wanted} was asked for, but accelerate found {self.device}.")
        self.main = self.rank == 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put this run's accelerate state in place, and afterwards what was there before."""
        before = [dict(state) for state in self._shared]
        self._put(self._own)
        try:
            yield
        finally:
            self._own = [dict(state) for state in self._shared]
            self._put(before)

    def _put(self, contents: list[dict[str, Any]]) -> None:
        for state, content in zip(self._shared, contents, strict=True):
            state.clear()
            state.update(content)

    def wrap(self, module: nn.Module, *, all_used: bool) -> nn.Module:
        """The module as several processes or mixed precision need it; the module itself otherwise.

        Args:
            module: What to wrap.
            all_used: Whether every weight gets a gradient in every pass; otherwise processes look for those that do
                not.
        """
        self.accelerator.ddp_handler.find_unused_parameters = not all_used
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, scaled where the precision needs it."""
        if self.accelerator.scaler is None and self.processes == 1:
            loss.backward()
            return
        with self.inside():
            self.accelerator.backward(loss)

    @contextmanager
    def apart(self, module: nn.Module) -> Iterator[None]:
        """While a part of a batch is computed whose gradients are exchanged between processes later, with the last."""
        with self.inside(), self.accelerator.no_sync(module):
            yield

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.processes == 1:
            return values
        with self.inside():
            reduced: Tensor = self.accelerator.reduce(values, reduction="mean")
        return reduced

    def wait(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            with self.inside():
                self.accelerator.wait_for_everyone()
