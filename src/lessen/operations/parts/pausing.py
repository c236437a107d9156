"""A call that can be stopped in the middle, by turns with its caller, and a watch that keeps to its own thread.

A forward pass cannot be left and entered again, but a thread can wait. The call runs in a thread of its own; of the two
threads one always waits for the other, so nothing runs at the same time. What PyTorch keeps for each thread (whether
gradients are recorded, autocast, the default device, the stream of a GPU) is as it is where the call was made.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from lessen.surgery.calls import Watch


class _Closed(BaseException):  # not an Exception: what a network catches for itself must not catch this
    """Nobody waits for this call any more."""


class Pausable:
    """A call in a thread of its own. The caller calls `resume` and `close`, the call itself `pause` and `check`.

    Args:
        work: What to call. It starts with the first `resume`.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._settings = work, _settings()
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._closing = False
        self._error: BaseException | None = None
        around = contextvars.copy_context()
        self._thread = threading.Thread(target=around.run, args=(self._run,), daemon=True, name="lessen: a paused pass")
        self.done = False

    def resume(self) -> None:
        """Go on to the next pause or to the end; at once, where it has come to its end. Raises what the call raises."""
        if self.done:
            return
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def pause(self) -> None:
        """Wait until the caller resumes."""
        self._back.release()
        self._go.acquire()
        self.check()

    def check(self) -> None:
        """End the call here if nobody waits for it any more."""
        if self._closing:
            raise _Closed

    def close(self) -> None:
        """End the call where it is."""
        self._closing = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()
        self.done = True

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.check()
            with self._settings():
                self._work()
        except _Closed:
            pass
        except BaseException as error:  # noqa: BLE001  (it is raised again where somebody waits)
            self._error = error
        self.done = True
        self._back.release()


def _settings() -> Callable[[], contextlib.ExitStack]:
    """What PyTorch keeps for the thread that asks: gives what puts another thread into the same state."""
    grad, inference, device = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device()
    kinds = ("cpu", "cuda")
    casts = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)]
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def enter() -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(grad))
            for kind, dtype in casts:  # without its cache of weights, which may change while the call waits
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
            if device.type != "cpu":
                stack.enter_context(device)
            return stack.pop_all()
        raise AssertionError

    return enter


class ThreadWatch(Watch):
    """A watch that meets only the modules that run in the thread it was entered in.

    PyTorch's hooks on all modules are those of all threads. While a pass waits in its thread, others may run the same
    modules.
    """

    thread = 0
    """The identity of that thread."""

    def __enter__(self) -> Self:
        self.thread = threading.get_ident()
        return super().__enter__()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() == self.thread:
            super()._enter(module, args)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        return super()._leave(module, args, output) if threading.get_ident() == self.thread else None
