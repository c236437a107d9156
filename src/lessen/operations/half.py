"""Half precision: parameters stored in 16 bits, computations unchanged.

Micikevicius et al., Mixed precision training, ICLR 2018, arXiv:1710.03740, for float16; Kalamkar et al., A study of
BFLOAT16 for deep learning training, 2019, arXiv:1905.12322.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, Context, Where, check_where, matches, settings
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.surgery.forms.half import Short, shorten_parameter
from lessen.surgery.forms.places import Forms, Owners
from lessen.surgery.forms.registering import is_list, parametrised, refusal, stored
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain, plain_copy


@settings
class Float16:
    """5 bits of exponent, 10 of fraction: three decimal digits, up to 65,504."""

    brain: ClassVar[bool] = False
    largest: ClassVar[float] = torch.finfo(torch.float16).max


@settings
class BFloat16:
    """8 bits of exponent, 7 of fraction: two decimal digits, and the range of float32."""

    brain: ClassVar[bool] = True
    largest: ClassVar[float] = torch.finfo(torch.bfloat16).max


@settings
class Halved:
    """The plan of `Half`.

    Args:
        kind: Of 16 bits.
        parameters: Which parameters, by name; a tied one by its first.
        left: What was left alone, and why.
    """

    kind: Float16 | BFloat16 = Float16()
    parameters: tuple[str, ...] = ()
    left: dict[str, str] = Field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network that sees these parameters in 16 bits.

        Raises:
            PlanError: a parameter is missing, or stored in a form that cannot be rounded.
        """
        network = plain_copy(model)
        owners = Owners(network)
        for name in self.parameters:
            path, _, last = name.rpartition(".")
            try:
                module = get_module(network, path)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network. {error}") from error
            if not isinstance(getattr(module, last, None), Tensor):
                raise PlanError(f"The plan does not belong to this network: it has no parameter {name!r}.")
            try:
                for _, owner, its_name in owners.of(stored(module, last)):
                    shorten_parameter(owner, its_name, brain=self.kind.brain)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network: {error}") from error
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each parameter."""
        rows: list[dict[str, Any]] = [
            {
                "module": name,
                "edit": "halved",
                "before": "full precision",
                "after": type(self.kind).__name__,
                "stored": "16",
            }
            for name in self.parameters
        ]
        rows += [{"module": name, "edit": "left alone", "before": why, "after": ""} for name, why in self.left.items()]
        return rows


@settings
class Half:
    """Store parameters in 16 bits; the network still computes in its own precision.

    Args:
        kind: The 16-bit format.
        where: Which modules; None for all that have parameters.
        exclude: Which of these to leave unchanged.
    """

    kind: Float16 | BFloat16 = Float16()
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:1710.03740 (float16), arXiv:1905.12322 (bfloat16)",
        says="Every parameter is a number of 16 bits: ONNX, OpenVINO and packed files are half as large.",
        costs="No time is saved on a CPU: ONNX Runtime and OpenVINO widen the parameters to 32 bits when they load. A "
        "torch.export program (.pt2) and weights.safetensors store 32 bits.",
        fails_when="A parameter exceeds 65,504 (an error; use BFloat16()), or relative differences far below a "
        "thousandth in the parameters matter.",
        differs="Inputs, activations and outputs keep their type. Training updates the parameters in full precision "
        "before rounding.",
    )

    @classmethod
    def neutral(cls) -> Self:
        """No module is meant."""
        return cls(where=())

    def plan(self, model: nn.Module, context: Context) -> Halved:
        """Choose the parameters.

        Raises:
            PlanError: `where` matches no module with parameters, or a parameter is too large for the kind.
        """
        model = plain(model, context.inputs)
        check_where(model, where=self.where, exclude=self.exclude)
        chosen: list[str] = []
        left: dict[str, str] = {}
        seen: set[int] = set()
        forms = Forms(model)
        for path, module in model.named_modules():
            if is_list(module) or not matches(self.where, path, module):
                continue
            if self.exclude is not None and matches(self.exclude, path, module):
                continue
            for last in [*module._parameters, *parametrised(module)]:
                tensor, name = getattr(module, last), f"{path}.{last}" if path else last
                if tensor is None or id(stored(module, last)) in seen:
                    continue
                seen.add(id(stored(module, last)))
                reason = refusal(forms.at(path, last), Short) or _unfit(tensor)
                if reason:
                    left[name] = reason
                    continue
                if tensor.numel() and float(tensor.detach().abs().amax()) > self.kind.largest:
                    raise PlanError(f"{name} exceeds {self.kind.largest:g}. Use kind=BFloat16(), or exclude it.")
                chosen.append(name)
        if not chosen and not left and self.where not in (None, ()):
            known = [path for path, module in model.named_modules() if module._parameters]
            raise PlanError(
                f"where={self.where!r} matches nothing with parameters; {did_you_mean(str(self.where), known)}"
            )
        return Halved(kind=self.kind, parameters=tuple(chosen), left=left)


def _unfit(tensor: Tensor) -> str:
    """Why a parameter cannot be rounded to 16 bits, or nothing."""
    if not tensor.is_floating_point() or tensor.element_size() <= 2:
        return f"its type is {tensor.dtype}"
    return ""
