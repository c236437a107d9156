"""The files to export: which, from which networks, how verified and timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen
from pydantic import PositiveInt
from torch import nn

from lessen.core.errors import NetworkError, need
from lessen.core.settings import settings
from lessen.deploy.axes import Axes
from lessen.deploy.kernels import Kernels
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Runtime, TorchProgram, installed
from lessen.deploy.verify import Verification, Verified, failed
from lessen.measure.latency import Speed
from lessen.measure.timings import FEWEST_ROUNDS
from lessen.operations.quantize import is_quantized
from lessen.operations.quantize.network import target_of
from lessen.tasks.figures import Figure

REFERENCE = "reference"


@settings
class Deploy:
    """Which files are made, and how they are verified and timed.

    Args:
        runtimes: Which to write for; None for all that are installed, none for no files.
        batch_sizes: At which to time; the fastest is named by the first.
        threads: How many threads each file gets; None for as many as PyTorch takes (OMP_NUM_THREADS, or all cores).
        rounds: How many times each is timed; at least 6, or there is no interval.
        every_step: Whether the network after each step is written as ONNX too: it shows how much time each step saves.
        limits: How far a file may be from its network.
    """

    runtimes: tuple[OnnxRuntime | OpenVino | TorchProgram, ...] | None = None
    batch_sizes: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1,)
    threads: PositiveInt | None = None
    rounds: Annotated[int, Ge(FEWEST_ROUNDS)] = 30
    every_step: bool = True
    limits: Verification = Verification()

    def check(self) -> None:
        """Raise now what would only be raised after the training.

        Raises:
            MissingExtraError: a runtime that is asked for is not installed.
        """
        if any(isinstance(runtime, OpenVino) for runtime in self.runtimes or ()):
            need("openvino", "openvino")


@dataclass(frozen=True, kw_only=True)
class StepNetwork:
    """A network after a step.

    Args:
        name: What it is called.
        step: After which step; 0 is the teacher.
        network: The network in PyTorch, in eval mode.
    """

    name: str
    step: int
    network: nn.Module


@dataclass(kw_only=True)
class DeployedFile:
    """One file, and its verification and measurements.

    Args:
        name: Its path, relative to the folder.
        path: Where it is.
        runtime: What runs it.
        network: The network in PyTorch that it must agree with.
        step: Which step of the pipeline the network comes from; 0 is the teacher.
        int8: Whether it is meant to compute in integers.
        reference: Whether it is the teacher's, there to be compared with.
        shipped: Whether it may be recommended; a step in between may not.
        bytes: On the disk, with the files that belong to it; 0 if it could not be written.
        axes: Which sizes it takes, and what stays fixed.
        tried: The other sizes at which it agrees with its network.
        verified: Whether it agrees with its network, and why.
        kernels: What really runs.
        against: The fp32 file of the same runtime that it is compared with: the teacher's, or the network's own.
        speed: How fast it is at each batch size, also compared with `against`.
        quality: How well it does on the test split.
    """

    name: str
    path: Path
    runtime: Runtime
    network: nn.Module
    step: int = 0
    int8: bool = False
    reference: bool = False
    shipped: bool = True
    bytes: int = 0
    axes: Axes = field(default_factory=Axes)
    tried: tuple[str, ...] = ()
    verified: Verified = field(default_factory=lambda: failed("Not verified yet."))
    kernels: Kernels = field(default_factory=Kernels)
    against: str | None = None
    speed: dict[int, Speed] = field(default_factory=dict)
    quality: tuple[Figure, ...] = ()

    @property
    def target(self) -> str | None:
        """Which processors an int8 file computes right on, "any" or "vnni"; None for other files."""
        return target_of(self.network)


def planned(networks: Sequence[StepNetwork], folder: Path, settings: Deploy) -> list[DeployedFile]:
    """Which files are to be made; the last network's first. Where there is only the teacher, it is the one shipped.

    Raises:
        NetworkError: there is no network.
    """
    if not networks:
        raise NetworkError("There are no networks to deploy; give at least one.")
    teachers = [each for each in networks if each.step == 0]
    learned = [each for each in networks if each.step > 0]
    last = learned.pop() if learned else teachers.pop()
    found: list[tuple[str, StepNetwork]] = [("model.int8" if is_quantized(last.network) else "model", last)]
    if is_quantized(last.network) and learned and not is_quantized(learned[-1].network):
        found.append(("model", learned.pop()))
    found += [(f"steps/{each.step}", each) for each in learned if settings.every_step]
    found += [(f"{REFERENCE}/teacher", each) for each in teachers]
    files = []
    for name, each in found:
        int8 = is_quantized(each.network)
        between, reference = name.startswith("steps/"), name.startswith(f"{REFERENCE}/")
        for runtime in installed() if settings.runtimes is None else settings.runtimes:
            # A PyTorch program emulates int8 in floating point: there is nothing to gain from one.
            if (int8 and isinstance(runtime, TorchProgram)) or (between and not isinstance(runtime, OnnxRuntime)):
                continue
            files.append(
                DeployedFile(
                    name=f"{name}{runtime.suffix}",
                    path=folder / f"{name}{runtime.suffix}",
                    runtime=runtime,
                    network=each.network,
                    step=each.step,
                    int8=int8,
                    reference=reference,
                    shipped=not reference and not between,
                )
            )
    return files
