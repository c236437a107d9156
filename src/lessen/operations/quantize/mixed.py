"""As many bits for each layer as it needs: what each would lose at each width, and the best of all choices in a budget.

Measured divergence: one layer at a time is rounded, and the outputs are compared. Fisher: squared changes of a layer's
output weighted by the squared gradient of the loss there, as in ModelOpt's AutoQuantize and, with the Hessian's trace,
in HAWQ-V2 (Dong et al., NeurIPS 2020, arXiv:1911.03852). The choice is a multiple-choice knapsack, solved exactly.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor, nn

from lessen.core.contracts import Context
from lessen.core.data import call
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.functional.knapsack import knapsack
from lessen.operations.quantize.edges import LAYERS
from lessen.operations.quantize.fake import quantize_weight
from lessen.operations.quantize.network import with_weight
from lessen.operations.quantize.observers import Observer
from lessen.operations.quantize.observing import weight_steps
from lessen.operations.quantize.stepped import quantize_weight_by
from lessen.surgery.calls import Place, Watch, floating

Bits = Annotated[int, Ge(2), Le(8)]
Round = Callable[[str, int, Tensor, int], Tensor]
"""From a layer, bits, its weight and the axis of its output channels to the weight on its grid."""


@runtime_checkable
class Sensitivity(Protocol):
    """What rounding the weights of one layer to some bits costs; only comparisons between them matter."""

    def losses(
        self, model: nn.Module, layers: Sequence[str], options: Sequence[int], rounded: Round, context: Context
    ) -> dict[str, list[float]]:
        """For each layer a number for each of the options.

        Raises:
            PlanError: the context lacks what is needed.
        """


@settings
class OutputDivergence:
    """Measured: how far the classes that the network names move when one layer alone is rounded.

    Mean Kullback-Leibler divergence from the outputs in full, in nat; one pass over the calibration batches for each
    layer and width. Outputs that are no logits of classes, shape (N, C), are compared by their squared error; those of
    a network with several are added up.
    """

    def losses(
        self, model: nn.Module, layers: Sequence[str], options: Sequence[int], rounded: Round, context: Context
    ) -> dict[str, list[float]]:
        """For each layer the divergence at each of the options."""
        batches = [batch.to(context.device).inputs for batch in context.calibration]

        def outputs(path: str | None, bits: int) -> list[list[Tensor]]:
            said: list[list[Tensor]] = []
            with torch.no_grad():
                for inputs in batches:
                    with _One(model, path, bits, rounded):
                        said.append(list(floating(call(model, inputs))))
            return said

        full = outputs(None, 0)
        count = sum(len(batch) for batch in context.calibration)

        def loss(path: str, bits: int) -> float:
            found = outputs(path, bits)
            pairs = [pair for before, now in zip(full, found, strict=True) for pair in zip(before, now, strict=True)]
            return sum(float(distance(one, other).sum()) for one, other in pairs) / count

        def judged(path: str, bits: int) -> float:
            return context.judge([path, bits], lambda: loss(path, bits))

        return {path: [judged(path, bits) for bits in options] for path in layers}


@settings
class FisherError:
    """Estimated: mean over examples of the sum of (dL/dy * change of y) ** 2 over what a layer gives.

    One pass with gradients, from the context's loss and labels, and each layer by itself for each width.
    """

    def losses(
        self, model: nn.Module, layers: Sequence[str], options: Sequence[int], rounded: Round, context: Context
    ) -> dict[str, list[float]]:
        """For each layer the estimate at each of the options.

        Raises:
            PlanError: there is no loss, or a batch has no labels.
        """
        if context.loss is None or any(batch.labels is None for batch in context.calibration):
            raise PlanError(
                "FisherError needs a loss and labels in the calibration batches. Give them, or use OutputDivergence()."
            )
        totals = {path: [0.0] * len(options) for path in layers}
        for batch in context.calibration:
            here = batch.to(context.device)
            assert here.labels is not None
            with torch.enable_grad(), _All(model, layers) as seen:
                loss = context.losses(call(model, here.inputs), here.labels).sum()
            slopes = torch.autograd.grad(loss, [one[-1] for one in seen.calls], allow_unused=True)
            for (place, run, args, kwargs, output), slope in zip(seen.calls, slopes, strict=True):
                for number, bits in enumerate(options):
                    with torch.no_grad():
                        change = _rounding(place, bits, rounded)
                        given, named = with_weight(place.op, args, kwargs, change)
                        new = run(*given, **named)
                        felt = 0.0 if slope is None else float((slope * (new - output)).double().square().sum())
                    totals[place.path][number] += felt
        count = sum(len(batch) for batch in context.calibration)
        return {path: [total / count for total in found] for path, found in totals.items()}


@settings
class Mixed:
    """Bits for each layer, so that the least is lost within a budget.

    Args:
        average: Bits a weight may take on average over all layers. An int8 file takes a byte for each all the same;
            what is won shows in files that are packed or compressed.
        options: The widths to choose from.
        sensitivity: What a layer loses at each width.
    """

    average: Annotated[float, Ge(2), Le(8)] = 4.0
    options: Annotated[tuple[Bits, ...], MinLen(1)] = (2, 3, 4, 6, 8)
    sensitivity: Sensitivity = OutputDivergence()

    def assign(self, losses: Mapping[str, Sequence[float]], sizes: Mapping[str, int]) -> dict[str, int]:
        """The bits of each layer.

        Args:
            losses: For each layer what it loses at each of the options.
            sizes: How many weights it has.

        Raises:
            PlanError: even the fewest bits are too many.
        """
        costs = [[bits * sizes[path] / 8 for bits in self.options] for path in losses]
        chosen = knapsack(list(losses.values()), costs, self.average * sum(sizes[path] for path in losses) / 8)
        return {path: self.options[option] for path, option in zip(losses, chosen, strict=True)}


def distance(full: Tensor, other: Tensor) -> Tensor:
    """The divergence of classes, in nat, or the squared error of other outputs; one number for each example, (N,)."""
    if full.ndim == 2 and full.shape[1] > 1:
        log_p, log_q = full.double().log_softmax(1), other.double().log_softmax(1)
        return (log_p.exp() * (log_p - log_q)).sum(1)
    return (full.double() - other.double()).square().flatten(1).sum(1)


def rounder(observer: Observer | None) -> Round:
    """Rounding to grids whose steps an observer chooses, or that follow the weights."""
    steps: dict[tuple[str, int], Tensor] = {}

    def rounded(path: str, bits: int, weight: Tensor, axis: int) -> Tensor:
        limit = 2 ** (bits - 1) - 1
        if observer is None:
            follows: Tensor = quantize_weight(weight, limit=limit, axis=axis)
            return follows
        step = steps.get((path, bits))
        if step is None or len(step) != weight.shape[axis]:
            step = steps[path, bits] = weight_steps(weight, observer, limit=limit, axis=axis)
        own: Tensor = quantize_weight_by(weight, step, limit=limit, axis=axis)
        return own

    return rounded


def _rounding(place: Place, bits: int, rounded: Round) -> Callable[..., Tensor]:
    return lambda weight, *, axis: rounded(place.path, bits, weight.detach(), axis)


class _One(Watch):
    """Rounds the weights of one layer."""

    def __init__(self, model: nn.Module, path: str | None, bits: int, rounded: Round) -> None:
        super().__init__(model)
        self._chosen, self._bits, self._rounded = path, bits, rounded

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if place.op in LAYERS and place.path == self._chosen:
            args, kwargs = with_weight(place.op, args, kwargs, _rounding(place, self._bits, self._rounded))
        return run(*args, **kwargs)


class _All(Watch):
    """Keeps the calls of layers, and what they give."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__(model)
        self._chosen = frozenset(layers)
        self.calls: list[tuple[Place, Callable[..., Any], Any, Any, Tensor]] = []

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        if place.op not in LAYERS or place.path not in self._chosen:
            return result
        self.calls.append((place, run, args, kwargs, result))
        return result.clone()  # what writes in place does not reach what is kept
