"""Does a file agree with its network? On held-out examples, never on the test split.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lessen.core.data import Examples
from lessen.core.settings import settings
from lessen.core.tree import name_of_judged
from lessen.deploy.runtimes import Program
from lessen.measure.evaluate import evaluate
from lessen.measure.kept import KeptOutputs
from lessen.tasks.classification import accuracy
from lessen.tasks.fidelity import agreement
from lessen.tasks.regression import mean_squared_error

NotNegative = Annotated[float, Ge(0)]


@settings
class Verification:
    """How far a file may be from the network it was written from.

    Differences are measured in units of the largest absolute output of the network.

    Args:
        difference: Largest difference of a file that computes in fp32.
        int8_agreement: Smallest share of examples on which an int8 file predicts the same class as the fake-quantized
            network, in percent; for classifiers.
        int8_drop: How many points of accuracy an int8 file may lose against the fake-quantized network, in percent.
        int8_difference: Largest mean difference of an int8 file, where there are no classes to agree on.
        examples: How many of the held-out examples to use.
    """

    difference: NotNegative = 1e-4
    int8_agreement: NotNegative = 98.0
    int8_drop: NotNegative = 1.0
    int8_difference: NotNegative = 0.05
    examples: Annotated[int, Ge(1)] = 1024


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the comparison of a file with its network found.

    Args:
        passed: Whether the file may be shipped.
        reason: Why, in one sentence.
        max_difference: Largest difference of an output, in the outputs' unit; None if nothing could be compared.
        mean_difference: Mean difference of the outputs, likewise.
        scale: The largest absolute output of the network.
        agreement: Share of examples on which both predict the same class, in percent; None where there are no classes.
        metric: Which metric of the task: "accuracy" (%), "mean_squared_error", or None without labels.
        file_metric: The task's metric of the file.
        network_metric: The task's metric of the network in PyTorch, on the same examples.
        examples: How many examples were compared.
    """

    passed: bool
    reason: str
    max_difference: float | None
    mean_difference: float | None
    scale: float
    agreement: float | None
    metric: str | None
    file_metric: float | None
    network_metric: float | None
    examples: int


def verify(
    program: Program,
    network: nn.Module,
    examples: Examples,
    *,
    classes: bool = True,
    int8: bool = False,
    limits: Verification | None = None,
    outputs: KeptOutputs | None = None,
    output: str | None = None,
) -> Verified:
    """Run a file and its network over the same held-out examples and compare.

    Args:
        program: The loaded file.
        network: The network in PyTorch; of an int8 file, the fake-quantized one.
        examples: Held-out examples: the validation split.
        classes: Whether the outputs are logits of classes.
        int8: Whether the file computes in integers, so that values on the border of two steps may differ.
        limits: How far it may be.
        outputs: Outputs already computed, for networks with several files.
        output: The name of the output that counts, of networks with several. The others are compared as numbers.
    """
    limits = limits or Verification()
    how: dict[str, Any] = {"batch_size": 64, "most": limits.examples, "output": output, "whole": True}
    said = (outputs or KeptOutputs()).of(network, examples, **how)
    found = evaluate(program, examples, **how)
    verified = compare(found.values, said.values, said.labels, classes=classes, int8=int8, limits=limits)
    if not verified.passed or not said.parts:
        return verified
    return compare_others(found.parts, said.parts, verified, judged=output, int8=int8, limits=limits)


def compare_others(
    file: Sequence[Mapping[str, Tensor]],
    network: Sequence[Mapping[str, Tensor]],
    verified: Verified,
    *,
    judged: str | None,
    int8: bool,
    limits: Verification,
) -> Verified:
    """The result for all outputs of a network with several: what was found of the one that counts, and of the others.

    Args:
        file: What the file gave, batch by batch; outputs in the order of the network's.
        network: What the network gave.
        verified: What the comparison of the output that counts found.
        judged: The name of that output; None: `logits`, or the only one.
        int8: Whether the file computes in integers.
        limits: How far it may be.
    """
    names = list(network[0])
    judged = judged or name_of_judged(network[0])
    others = [number for number, name in enumerate(names) if name != judged]
    if not others:
        return verified
    counts = {len(batch) for batch in file} or {1}
    if counts != {len(names)}:
        return replace(
            verified, passed=False, reason=f"The file returns {max(counts)} outputs, the network {len(names)}."
        )
    limit = limits.int8_difference if int8 else limits.difference
    worst = 0.0
    for number in others:
        one, other = ([list(batch.values())[number] for batch in batches] for batches in (file, network))
        off = off_by(one, other, mean=int8)
        if isinstance(off, str) or off > limit:
            said = off if isinstance(off, str) else f"differs by {off:.1e} of the largest; allowed {limit:.1e}"
            return replace(verified, passed=False, reason=f"The output {names[number]} {said}.")
        worst = max(worst, off)
    which = ", ".join(names[number] for number in others)
    return replace(verified, reason=f"{verified.reason}; other outputs ({which}): {worst:.1e}")


def off_by(file: Sequence[Tensor], network: Sequence[Tensor], *, mean: bool) -> float | str:
    """How far tensors of a file are from the network's, as a share of the largest entry; in words what never agrees.

    Args:
        file: Tensors of the file.
        network: Those of the network, which may hold infinities (masks). Of whole numbers and truth values the share
            that differs is returned.
        mean: Whether the mean distance counts, or the largest.
    """
    distances: list[Tensor] = []
    scale = torch.finfo(torch.float32).tiny
    for one, other in zip(file, network, strict=True):
        if one.shape != other.shape:
            return f"has shape {tuple(one.shape)}, in the network {tuple(other.shape)}"
        if not other.is_floating_point():
            distances.append((one != other).double().mean().reshape(1))
            scale = 1.0
            continue
        finite = other.isfinite()
        if not torch.equal(one.double()[~finite].nan_to_num(), other.double()[~finite].nan_to_num()):
            return "is not finite at the same places as in the network"
        distance = (one.double() - other.double())[finite].abs()
        if distance.numel():
            distances.append(distance.reshape(-1))
            scale = max(scale, float(other[finite].abs().max()))
    if not distances:
        return 0.0
    together = torch.cat(distances)
    return float(together.mean() if mean else together.max()) / scale


def compare(
    file: Tensor, network: Tensor, labels: Tensor | None, *, classes: bool, int8: bool, limits: Verification
) -> Verified:
    """Compare the outputs of a file with those of its network, shape (N, ...) each (see `verify`)."""
    classes = classes and network.ndim == 2
    if file.shape != network.shape:
        shapes = f"{tuple(file.shape)}, the network {tuple(network.shape)}"
        return failed(f"The file returns outputs of shape {shapes}.")
    if not bool(torch.isfinite(file).all()):
        return failed("The file returns numbers that are not finite.")
    if not bool(torch.isfinite(network).all()):
        return failed("The network in PyTorch returns numbers that are not finite.")
    distance = (file.double() - network.double()).abs()
    scale = max(float(network.abs().max()), torch.finfo(torch.float32).tiny)
    same = agreement(file, network).value if classes else None
    metric, of_file, of_network = _task(file, network, labels, classes=classes)
    largest, mean = float(distance.max()), float(distance.mean())
    if not int8:
        passed = largest <= limits.difference * scale
        reason = f"largest difference {largest / scale:.1e} of the largest output; allowed {limits.difference:.1e}"
    elif same is not None:
        drop = 0.0 if of_file is None or of_network is None else of_network - of_file
        one = 100 / len(network)  # of few examples, one may always differ
        passed = same >= min(limits.int8_agreement, 100 - one) and drop <= max(limits.int8_drop, one)
        reason = (
            f"agreement {same:.1f} %, accuracy lower by {drop:.2f} points; allowed {limits.int8_agreement:.1f} % and "
        )
        reason += f"{limits.int8_drop:.2f}"
    else:
        passed = mean <= limits.int8_difference * scale
        reason = f"mean difference {mean / scale:.1e} of the largest output; allowed {limits.int8_difference:.1e}"
    return Verified(
        passed=passed, reason=reason, max_difference=largest, mean_difference=mean, scale=scale, agreement=same,
        metric=metric, file_metric=of_file, network_metric=of_network, examples=len(network),
    )  # fmt: skip


def failed(reason: str) -> Verified:
    """The result for a file that could not be compared."""
    return Verified(
        passed=False, reason=reason, max_difference=None, mean_difference=None, scale=0.0,
        agreement=None, metric=None, file_metric=None, network_metric=None, examples=0,
    )  # fmt: skip


def _task(
    file: Tensor, network: Tensor, labels: Tensor | None, *, classes: bool
) -> tuple[str | None, float | None, float | None]:
    if labels is None:
        return None, None, None
    if classes:
        return "accuracy", accuracy(file, labels).value, accuracy(network, labels).value
    return "mean_squared_error", mean_squared_error(file, labels).value, mean_squared_error(network, labels).value
