"""Does a file agree with its network? On held-out examples, never on the test split.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lessen.core.data import Examples
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Task
from lessen.core.tree import name_of_judged
from lessen.deploy.runtimes import Program
from lessen.measure.evaluate import evaluate
from lessen.measure.kept import KeptOutputs
from lessen.tasks.closeness import agreement_with

NotNegative = Annotated[float, Ge(0)]


@settings
class Verification:
    """How far a file may be from the network it was written from.

    Differences are measured in units of the largest absolute output of the network.

    Args:
        difference: Largest difference of a file that computes in fp32.
        int8_agreement: Smallest share of decisions (classes of examples or positions, labels) that an int8 file has in
            common with the fake-quantized network, in percent; where outputs are logits.
        int8_drop: How many points of the task's first metric an int8 file may lose against the fake-quantized network
            (percent of its value, where it is no share).
        int8_difference: Largest mean difference of an int8 file, where there are no decisions to agree on.
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
        agreement: Share of equal decisions, in percent; None where outputs decide nothing.
        metric: The name of the task's first metric, or None without labels.
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
    task: Task | None = None,
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
        task: What outputs and labels mean; None: outputs are compared as numbers.
        int8: Whether the file computes in integers, so that values on the border of two steps may differ.
        limits: How far it may be.
        outputs: Outputs already computed, for networks with several files.
        output: The name of the output that counts, of networks with several. The others are compared as numbers.
    """
    limits = limits or Verification()
    how: dict[str, Any] = {"batch_size": 64, "most": limits.examples, "output": output, "whole": True}
    said = (outputs or KeptOutputs()).of(network, examples, **how)
    found = evaluate(program, examples, **how)
    verified = compare(found.values, said.values, said.labels, task=task, int8=int8, limits=limits)
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
    file: Tensor, network: Tensor, labels: Tensor | None, *, task: Task | None, int8: bool, limits: Verification
) -> Verified:
    """Compare the outputs of a file with those of its network, shape (N, ...) each (see `verify`)."""
    if file.shape != network.shape:
        shapes = f"{tuple(file.shape)}, the network {tuple(network.shape)}"
        return failed(f"The file returns outputs of shape {shapes}.")
    if not bool(torch.isfinite(file).all()):
        return failed("The file returns numbers that are not finite.")
    if not bool(torch.isfinite(network).all()):
        return failed("The network in PyTorch returns numbers that are not finite.")
    distance = (file.double() - network.double()).abs()
    scale = max(float(network.abs().max()), torch.finfo(torch.float32).tiny)
    same = _agreement(file, network, task)
    metric, of_file, of_network = _metric(file, network, labels, task)
    largest, mean = float(distance.max()), float(distance.mean())
    if not int8:
        passed = largest <= limits.difference * scale
        reason = f"largest difference {largest / scale:.1e} of the largest output; allowed {limits.difference:.1e}"
    elif same is not None:
        drop = 0.0 if metric is None or of_file is None or of_network is None else metric.loss(of_network, of_file)
        one = 100 / len(network)  # of few examples, one may always differ
        passed = same >= min(limits.int8_agreement, 100 - one) and drop <= max(limits.int8_drop, one)
        reason = (
            f"agreement {same:.1f} %, {_word(metric)} worse by {drop:.2f}; allowed {limits.int8_agreement:.1f} % and "
        )
        reason += f"{limits.int8_drop:.2f}"
    else:
        passed = mean <= limits.int8_difference * scale
        reason = f"mean difference {mean / scale:.1e} of the largest output; allowed {limits.int8_difference:.1e}"
    return Verified(
        passed=passed, reason=reason, max_difference=largest, mean_difference=mean, scale=scale, agreement=same,
        metric=None if metric is None else metric.name, file_metric=of_file, network_metric=of_network,
        examples=len(network),
    )  # fmt: skip


def failed(reason: str) -> Verified:
    """The result for a file that could not be compared."""
    return Verified(
        passed=False, reason=reason, max_difference=None, mean_difference=None, scale=0.0,
        agreement=None, metric=None, file_metric=None, network_metric=None, examples=0,
    )  # fmt: skip


def _agreement(file: Tensor, network: Tensor, task: Task | None) -> float | None:
    if task is None:
        return None
    if task.meaning is Meaning.CLASSES and network.ndim < 2:
        return None
    found = agreement_with(file, network, meaning=task.meaning, class_axis=task.class_axis)
    return None if found is None else found.value


def _metric(
    file: Tensor, network: Tensor, labels: Tensor | None, task: Task | None
) -> tuple[Metric | None, float | None, float | None]:
    if labels is None or task is None or not task.metrics:
        return None, None, None
    metric = task.metrics[0]
    values = [metric.value(task.rows(outputs, labels)) for outputs in (file, network)]
    of_file, of_network = (value if math.isfinite(value) else None for value in values)
    return metric, of_file, of_network


def _word(metric: Metric | None) -> str:
    return "quality" if metric is None else metric.name.replace("_", " ")
