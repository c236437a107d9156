"""Pruning with reconstruction: weights go, and the others make good what their layer's outputs lose.

Layer by layer, in the order in which the network computes, each on the inputs that the layers pruned before it give
(sequential): what an early layer has lost, later ones see. All solving is done in float64.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core import Card, Context, Where, settings
from lessen.core.errors import PlanError
from lessen.functional.quadratic import damped, on_support, quadratic_error
from lessen.functional.shapes import wide
from lessen.operations.parts.allocation import Allocation, Uniform
from lessen.operations.parts.hessian import Gram, InputsOfLayers, layers_of, rows_of
from lessen.operations.parts.pattern import Pattern
from lessen.operations.parts.values import write_value
from lessen.operations.prune_weights import PrunedWeights, check_share, fitting, masks_of
from lessen.operations.prune_weights.scoring import without_pruned
from lessen.operations.second_order.choice import Choice, kept_of, split_count
from lessen.operations.second_order.method import ReconstructionMethod
from lessen.operations.second_order.plan import Reconstructed
from lessen.operations.second_order.smallest import Smallest
from lessen.operations.second_order.sparse_gpt import SparseGpt
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.mask import mask_parameter
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import kept_weights, stored
from lessen.surgery.plain import plain


@settings
class PruneByReconstruction:
    """Set weights to zero permanently, and adjust the others so that each layer's outputs change little.

    Args:
        keep: The share of weights that stays.
        method: Which weights are removed, and how the others are adjusted.
        pattern: Which sets of weights of a layer may be kept. None: the method's usual pattern. `NM(n=2, m=4)` fixes
            the share itself, and `keep` must agree.
        allocation: How the share is divided over the layers, by the size of the weights.
        refit: Whether the kept weights are refitted by least squares on the calibration inputs: exact, and never worse
            on these inputs.
        damping: Added to the diagonal of X^T X, as a share of the mean of the diagonal.
        where: Which modules; None for all that have weights to prune.
        exclude: Which of these to leave alone.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    method: ReconstructionMethod = SparseGpt()
    pattern: Pattern | None = None
    allocation: Allocation = Uniform()
    refit: bool = True
    damping: Annotated[float, Field(ge=0)] = 0.01
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / unstructured pruning",
        paper="arXiv:2301.00774, arXiv:2208.11580, arXiv:2306.11695, arXiv:2406.07831",
        says="Each layer is pruned using its inputs, so that its outputs change as little as possible; no training.",
        costs="One pass over the calibration examples, one more for each layer that is called several times, and work "
        "of inputs^3 for each layer. Memory holds the activations of all examples at one layer. The shipped file is as "
        "with PruneWeights: no time and no bytes are saved by zeros alone, N:M included.",
        fails_when="There are few calibration examples for the width of the layers (the fit then overfits them), or "
        "so many weights are removed that only training can repair the loss.",
        differs="Sequential: inputs are computed by the layers that are already pruned. Weights are refit by least "
        "squares with every method. Padding tokens (`attention_mask`) do not count.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.pattern is not None:
            check_share(self.pattern, self.keep)
        return self

    @classmethod
    def neutral(cls) -> PruneByReconstruction:
        return cls(keep=1.0)

    def plan(self, model: nn.Module, context: Context) -> Reconstructed:
        """Prune layer by layer on a copy.

        Raises:
            PlanError: there is no calibration batch, or a layer would lose all its weights.
        """
        pattern = self.pattern or self.method.usual
        if self.keep == 1.0 and self.where is None:
            return Reconstructed(pruned=PrunedWeights(masks={}, shapes={}, left={}), values={})
        model = plain(model, context.inputs)
        chosen, left = fitting(model, self.where, self.exclude, pattern)
        scores = {name: without_pruned(wide(getattr(*owner).detach()).abs(), *owner) for name, owner in chosen.items()}
        layers = layers_of(model, context.inputs, chosen)
        left |= {name: _why_unseen(chosen[name][0]) for name in chosen if name not in layers}
        counts = self.allocation.counts({name: scores[name] for name in layers}, self.keep)
        empty = [name for name, count in counts.items() if count == 0]
        if empty:
            raise PlanError(
                f"Keeping {self.keep:g} of the weights would leave none in {', '.join(empty[:3])}. Keep more."
            )
        own, errors, values = copy_network(model), {}, {}
        owners = Owners(own)
        how = dataclasses.replace(self, method=Smallest(), refit=False) if context.rehearsal else self
        batches = (batch.inputs for batch in context.calibration)
        with InputsOfLayers(own, layers, batches, device=context.device) as inputs:
            for name, layer in layers.items():
                gram = inputs.gram(layer)
                path, _, last = name.rpartition(".")
                module = own.get_submodule(path)
                weight = getattr(module, last).detach().to(context.device)
                kept, found = how.solve(weight, gram, pattern, counts[name], kept_weights(module, last))
                errors[name] = relative_error(weight, found, gram)
                for _, owner, its in owners.of(stored(module, last)):
                    mask_parameter(owner, its, kept)
                with torch.no_grad():
                    setattr(module, last, found.to(weight))
                values[name] = write_value(stored(module, last))
                inputs.changed([name])
        now = masks_of(own)
        pruned = PrunedWeights(
            masks={name: text for name, text in now.masks.items() if name in layers},
            shapes={name: shape for name, shape in now.shapes.items() if name in layers},
            left=left,
        )
        return Reconstructed(pruned=pruned, errors=errors, values=values)

    def solve(
        self, weight: Tensor, gram: Gram, pattern: Pattern, count: int, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is kept of one weight, and the weight, in its shape.

        Args:
            weight: Shape (O, ...).
            gram: Of its inputs.
            pattern: Which weights may stay together.
            count: How many stay.
            before: What was not pruned before; None for all.
        """
        blocks = len(gram.gram)
        alive_GRI = rows_of(kept_of(weight, before), blocks)
        weight_GRI = rows_of(weight.double(), blocks)
        columns = pattern.columns(weight.shape)
        order_I = torch.arange(weight_GRI.shape[2]) if columns is None else columns
        back_I = order_I.argsort()
        kept, found = [], []
        for number, part in enumerate(split_count(count, blocks)):
            gram_II = damped(gram.gram[number], self.damping)[order_I][:, order_I]
            weight_RI, alive_RI = weight_GRI[number][:, order_I], alive_GRI[number][:, order_I]
            choice = Choice(pattern=pattern, count=part, alive=alive_RI)
            kept_RI, found_RI = self.method.prune(weight_RI, gram_II, choice)
            if self.refit:
                found_RI = on_support(weight_RI, gram_II, kept_RI)
            kept.append(kept_RI[:, back_I])
            found.append(found_RI[:, back_I])
        return torch.stack(kept).view(weight.shape), torch.stack(found).view(weight.shape)


def relative_error(weight: Tensor, found: Tensor, gram: Gram) -> float:
    """The squared change of a layer's outputs as a share of their square."""
    blocks = len(gram.gram)
    pairs = zip(rows_of(weight.double(), blocks), rows_of(found, blocks), gram.gram, strict=True)
    sums = [
        (quadratic_error(new - old, gram_II).sum(), quadratic_error(old, gram_II).sum()) for old, new, gram_II in pairs
    ]
    return float(sum(change for change, _ in sums) / max(float(sum(whole for _, whole in sums)), 1e-300))


def _why_unseen(module: nn.Module) -> str:
    if type(module).__name__.startswith("ConvTranspose"):
        return "the inputs of a transposed convolution are not collected; use PruneWeights"
    return "no product with it was observed"
