"""Weight-only quantization: weights become codes of a few bits with a step for each group; activations stay.

Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323, for the setting; how weights are rounded is an axis of its own
(`Nearest`, `Gptq`, `Awq`, `Hqq`).

Shapes: O rows, I inputs of a row.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lessen.core import Card, Context, Where, check_where, matches, settings
from lessen.core.errors import PlanError, did_you_mean
from lessen.operations.parts.hessian import InputsOfLayers, layers_of, rows_of
from lessen.operations.parts.layer_bits import LayerBits, bits_by_name
from lessen.operations.prune_weights.candidates import other_matrices, prunable
from lessen.operations.weight_only.awq import Awq
from lessen.operations.weight_only.gptq import Gptq
from lessen.operations.weight_only.hqq import Hqq
from lessen.operations.weight_only.nearest import Nearest, nearest
from lessen.operations.weight_only.plan import QuantizedWeights, values_of
from lessen.operations.weight_only.rounding import Rounding
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.codes import Coded, Codes
from lessen.surgery.forms.places import Forms, Owners
from lessen.surgery.forms.registering import kept_weights, refusal, stored
from lessen.surgery.plain import plain

FULL = 32
_Weights = dict[str, tuple[nn.Module, str]]


@settings
class QuantizeWeights:
    """Store weights in a few bits; the network still computes in floating point.

    Args:
        bits: Bits of a weight, 2 to 8; 32 changes nothing.
        layer_bits: Layers, by name, whose weights get other bits than the rest, as the first and the last.
        group: Number of weights along a row that share a step; None for a whole row.
        method: How weights are rounded.
        symmetric: Whether the code of zero is in the middle of every grid; otherwise each group has its own.
        where: Which modules; None: every linear layer, convolution and attention. Embeddings only if named.
        exclude: Which of these to leave alone.
    """

    bits: Annotated[int, Ge(2), Le(8)] | Literal[32] = 4
    layer_bits: tuple[LayerBits, ...] = ()
    group: Annotated[int, Ge(2)] | None = 32
    method: Nearest | Gptq | Awq | Hqq = Nearest()
    symmetric: bool = False
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:2210.17323 (GPTQ), arXiv:2306.00978 (AWQ)",
        says="Weights are integers of a few bits with a step for each group; activations keep their precision.",
        costs="Weights are dequantized whenever they are used, so PyTorch becomes slower. A runtime gains time only "
        "if it has kernels for such weights and is limited by memory bandwidth. "
        "A torch.export program (.pt2) holds codes in 8 bits.",
        fails_when="2 bits without training; layers with few weights, where steps and zero points take as many bytes.",
        differs="Zero is always one of the values. A mask on a weight becomes codes of zero, which stay zero.",
    )

    @classmethod
    def neutral(cls) -> Self:
        """32 bits: nothing is rounded."""
        return cls(bits=FULL)

    def plan(self, model: nn.Module, context: Context) -> QuantizedWeights:
        """Round weight after weight; one that needs its inputs sees those that the rounded ones before it give.

        Raises:
            PlanError: `where` matches no such layer, there is none, or there is no calibration batch for a method that
                needs inputs.
        """
        if self.bits == FULL:
            return QuantizedWeights(bits=FULL)
        model = plain(model, context.inputs)
        check_where(model, where=self.where, exclude=self.exclude)
        weights, left = self._candidates(model)
        if self.method.needs_inputs and not context.calibration:
            raise PlanError(
                f"{type(self.method).__name__} needs calibration batches to observe the inputs of layers, and there "
                "are none in the context. Nearest() and Hqq() need none."
            )
        paths = {name: name.rpartition(".")[0] for name in weights}
        own_bits = bits_by_name(model, self.layer_bits, dict.fromkeys(paths.values()))
        bits = {name: own_bits.get(path, int(self.bits)) for name, path in paths.items()}
        own = copy_network(model).to(context.device).eval()
        layers = layers_of(own, context.inputs, weights) if self.method.needs_inputs else {}
        values: dict[str, str] = {}
        groups, scaled = dict[str, int](), list[str]()
        batches = (batch.inputs for batch in context.calibration)
        with InputsOfLayers(own, layers, batches, device=context.device) as inputs:
            for name in [*layers, *(name for name in weights if name not in layers)]:
                path, _, last = name.rpartition(".")
                module = own.get_submodule(path)
                one = dataclasses.replace(self, bits=bits[name])
                layer = layers.get(name)
                coded = one._round(module, last, None if layer is None else inputs.gram(layer).gram.cpu())
                groups[name] = coded.group
                scaled += [name] if coded.columns is not None else []
                values |= values_of(name, coded)
                # What comes behind sees the rounded weights.
                stored(module, last).data = coded.weight().reshape(getattr(module, last).shape).to(stored(module, last))
                inputs.changed([name] if layer is not None else [])
        shapes = {name: tuple(getattr(*weights[name]).shape) for name in groups}
        return QuantizedWeights(
            bits=self.bits,
            widths={name: width for name, width in bits.items() if width != self.bits},
            groups=groups,
            shapes=shapes,
            scaled=tuple(scaled),
            values=values,
            left=left,
        )

    def _round(self, module: nn.Module, last: str, grams: Tensor | None) -> Coded:
        """The codes of one weight; of blocks of rows that see inputs of their own each by itself."""
        weight = getattr(module, last).detach()
        weight_GRI = rows_of(weight, 1 if grams is None else len(grams)).double().cpu()
        kept = kept_weights(module, last)
        kept_GRI = None if kept is None else rows_of(kept, len(weight_GRI)).cpu()
        group = min(self.group or weight_GRI.shape[2], weight_GRI.shape[2])
        about: dict[str, Any] = {"bits": int(self.bits), "group": group, "symmetric": self.symmetric}
        if self.method.needs_inputs and grams is None:
            return nearest(weight_GRI[0], **about)
        made = []
        for block, weight_RI in enumerate(weight_GRI):
            kept_RI = None if kept_GRI is None else kept_GRI[block]
            gram_II = None if grams is None else grams[block]
            if isinstance(self.method, Awq) and len(weight_GRI) > 1:
                made.append(nearest(weight_RI, **about))  # columns of other blocks are other inputs
            else:
                made.append(self.method.round(weight_RI, Rounding(**about, gram=gram_II, kept=kept_RI)))
        return Coded(
            codes=torch.cat([each.codes for each in made]),
            steps=torch.cat([each.steps for each in made]),
            zeros=torch.cat([each.zeros for each in made]),
            group=group,
            columns=made[0].columns,
        )

    def _candidates(self, model: nn.Module) -> tuple[_Weights, dict[str, str]]:
        """The weights to round, by name, each once, and the reasons for those that are left alone."""
        chosen: _Weights = {}
        left: dict[str, str] = {}
        seen: set[int] = set()
        owners, forms = Owners(model), Forms(model)
        for path, module in model.named_modules():
            excluded = self.exclude is not None and matches(self.exclude, path, module)
            if excluded or not matches(self.where, path, module):
                continue
            last = self._weight(module)
            if last is None:
                left |= dict.fromkeys(
                    other_matrices(path, module), f"it is not known how a {type(module).__name__} uses its weight"
                )
                continue
            tensor, name = stored(module, last), f"{path}.{last}" if path else last
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            other = [at for at, owner, its in owners.of(tensor) if self._weight(owner) != its]
            if why := refusal(forms.at(path, last), Codes):
                left[name] = why
            elif other:
                left[name] = f"tied to {other[0]}, which does not only multiply by it"
            elif not tensor.is_floating_point() or tensor.ndim < 2:
                left[name] = f"a {tensor.dtype} tensor of {tensor.ndim} axes is not a weight matrix"
            else:
                chosen[name] = (module, last)
        if not chosen and not left and self.where is not None:
            known = [path for path, module in model.named_modules() if self._weight(module)]
            raise PlanError(
                f"where={self.where!r} matches no layer with weights; {did_you_mean(str(self.where), known)}"
            )
        if not chosen and not left and self.exclude is None:
            raise PlanError(
                "This network has no linear layer, convolution or attention whose weights can be quantized."
            )
        return chosen, left

    def _weight(self, module: nn.Module) -> str | None:
        """The name of the parameter of this module that may be codes, or None."""
        if isinstance(module, nn.Embedding):
            return None if self.where is None else "weight"
        return prunable(module)
