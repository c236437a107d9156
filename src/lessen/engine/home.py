"""Where a run computes: device, precision and processes, from Hugging Face accelerate.

Accelerate keeps its state in class-wide dictionaries. A run has its own copies of them, put in place only while it
computes, so runs in sequence or interleaved, and a program's own use of accelerate, do not see each other.

With several processes, whatever is decided (where the run lies, how good an epoch was, whether to stop) is decided by
the main one and told to the others, and so is what it fails with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lessen.core import errors
from lessen.core.errors import LessenError, SettingError
from lessen.graph.stage import Precision

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for each other: the main one may measure and export for hours."""


def processes() -> int:
    """How many processes work together, as the launcher (torchrun) says."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1


_AUTOCAST = {Precision.FLOAT16: torch.float16, Precision.BFLOAT16: torch.bfloat16}


class Alone:
    """A process that computes for itself, whether a launcher has started others or not.

    Args:
        device: Where it computes.
        precision: Of the networks.

    Raises:
        SettingError: the device cannot compute in this precision.
    """

    main = True
    processes = 1

    def __init__(self, device: torch.device | None = None, precision: Precision = Precision.FULL) -> None:
        self.device, self.precision = device or torch.device("cpu"), precision
        if precision is Precision.FLOAT16 and self.device.type != "cuda":
            raise SettingError(
                f"Precision FLOAT16 needs a CUDA device, and this computes on {self.device}. Use BFLOAT16 or FULL."
            )
        self.scaler = torch.amp.GradScaler("cuda") if precision is Precision.FLOAT16 else None

    def decide(self, work: Callable[[], T]) -> T:
        """Do something, and give what came out of it."""
        return work()

    def autocast(self) -> AbstractContextManager[Any]:
        """A block whose forward pass is in the precision."""
        if self.precision is Precision.FULL:
            return nullcontext()
        return torch.autocast(self.device.type, _AUTOCAST[self.precision])

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, scaled where the precision needs it."""
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))


def meet(device: torch.device | str | None) -> Home | Alone:
    """This process among those that a launcher has started, ready to decide together.

    Args:
        device: As for `Home`.
    """
    return Home(device=device, precision=Precision.FULL) if processes() > 1 else Alone()


def as_device(device: torch.device | str | None) -> torch.device | None:
    """A device by its name; "gpu" is the accelerator of this machine, None stays None: what accelerate finds.

    Raises:
        SettingError: there is no such kind of device, or this machine has none.
    """
    if device is None:
        return None
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if isinstance(device, str) and device.lower() in {"gpu", "accelerator"}:
        if found is None:
            raise SettingError(f'device={device!r}: torch finds no GPU on this machine. Give "cpu", or leave it out.')
        return torch.device(found.type)
    try:
        wanted = torch.device(device.lower() if isinstance(device, str) else device)
    except (RuntimeError, TypeError) as error:
        raise SettingError(f'There is no device {device!r}. Give "cpu", "cuda" or "mps", or leave it out.') from error
    if wanted.type != "cpu" and (found is None or found.type != wanted.type):
        has = "only the CPU" if found is None else f"the CPU and {found.type}"
        raise SettingError(
            f"The device {wanted} was asked for, but torch finds {has} here. Give another, or leave it out."
        )
    return wanted


class Home:
    """One accelerator, for one stage of one run.

    Args:
        device: "cpu", "cuda", ...; None: what accelerate finds.
        precision: Of the networks.
    """

    def __init__(self, *, device: torch.device | str | None, precision: Precision) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, PartialState
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

        wanted = as_device(device)
        if precision is Precision.FLOAT16 and not (
            torch.cuda.is_available() and (wanted is None or wanted.type == "cuda")
        ):
            raise SettingError("Precision FLOAT16 needs a CUDA device. Use BFLOAT16 or FULL on this machine.")
        self._shared = [PartialState._shared_state, AcceleratorState._shared_state, GradientState._shared_state]
        self._own: list[dict[str, Any]] = [{}, {}, {}]
        # Without an accelerator, accelerate takes the processes of a launcher for each other only when it is told so.
        alone = wanted is None and processes() > 1 and not torch.accelerator.is_available()
        with self.inside():
            self.accelerator = Accelerator(
                cpu=alone or (wanted is not None and wanted.type == "cpu"),
                mixed_precision=precision.value,
                gradient_accumulation_steps=1,
                kwargs_handlers=[DistributedDataParallelKwargs(), InitProcessGroupKwargs(timeout=PATIENCE)],
            )
            self.scaler = self.accelerator.scaler
            self.device = torch.device(self.accelerator.device)
            self.processes = int(self.accelerator.num_processes)
            self.rank = int(self.accelerator.process_index)
            # One process that torchrun started is distributed too: its module is wrapped as those of several are.
            self.distributed = self.accelerator.distributed_type != DistributedType.NO
        if processes() not in {1, self.processes}:
            raise SettingError(
                f"The launcher started {processes()} processes, but accelerate found {self.processes}. Unset "
                "ACCELERATE_USE_CPU and other settings of accelerate, or start one process."
            )
        if wanted is not None and (wanted.type != self.device.type or wanted.index not in {None, self.device.index}):
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
        if self.scaler is None and self.processes == 1:
            torch.autograd.backward(loss)
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

    def decide(self, work: Callable[[], T]) -> T:
        """Let the main process do something, and give what came out of it to all: JSON data.

        Raises:
            LessenError: what the main process failed with, in every process.
        """
        if self.processes == 1:
            return work()
        answer: dict[str, Any] = {}
        failed: BaseException | None = None
        if self.main:
            try:
                answer = {"gave": work()}
            except BaseException as error:  # noqa: BLE001  # it is raised again, once the others know
                failed = error
                answer = {"failed": type(error).__name__, "says": str(error)}
        answer = json.loads(self._from_main(json.dumps(answer).encode()))
        if failed is not None:
            raise failed
        if "failed" in answer:
            kind = getattr(errors, answer["failed"], None)
            if isinstance(kind, type) and issubclass(kind, LessenError):
                raise kind(answer["says"])
            raise errors.RunError(f"The main process failed: {answer['failed']}: {answer['says']}")
        result: T = answer["gave"]
        return result

    def _from_main(self, content: bytes) -> bytes:
        """The bytes that the main process has."""
        with self.inside():
            length = torch.tensor([len(content)], device=self.device)
            torch.distributed.broadcast(length, src=0)
            sent = torch.empty(int(length), dtype=torch.uint8, device=self.device)
            if self.main:
                sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            torch.distributed.broadcast(sent, src=0)
        return sent.cpu().numpy().tobytes()

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values that the main one has, in place."""
        if self.processes == 1:
            return
        with self.inside():
            for value in tensors:
                whole = value.detach().contiguous()
                torch.distributed.broadcast(whole, src=0)
                if whole.data_ptr() != value.data_ptr():
                    value.copy_(whole)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            with self.inside():
                self.accelerator.wait_for_everyone()
