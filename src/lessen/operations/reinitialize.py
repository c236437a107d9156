"""Fresh weights under the same masks: the control that tells what masks know from what weights know.

Frankle & Carbin, The lottery ticket hypothesis, ICLR 2019, arXiv:1803.03635.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from lessen.core import Card, Context, Where, check_where, matches, settings
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.core.seeds import derive, seeded
from lessen.surgery.forms.base import Form
from lessen.surgery.forms.places import places
from lessen.surgery.forms.registering import bake_form, forms_of, is_list, parametrised
from lessen.surgery.forms.stored import full_name
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain, plain_copy


@settings
class Reinitialized:
    """The plan of `Reinitialize`.

    Args:
        modules: Which modules draw their weights again, in order.
        seed: From which seed.
        left: What keeps its weights, and why.
    """

    modules: tuple[str, ...] = ()
    seed: int = 0
    left: dict[str, str] = Field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network with fresh weights; its masks hold, and what was in 16 bits is again.

        Raises:
            NetworkError: a module is missing.
        """
        network = plain_copy(model)
        if not values or not self.modules:
            return network
        drawn = _without_forms(plain_copy(model))
        with seeded(self.seed, "reinitialize"):
            for path in self.modules:
                _reset(get_module(drawn, path))
        state = network.state_dict()
        network.load_state_dict(state | {name: new for name, new in drawn.state_dict().items() if name in state})
        with torch.no_grad():
            for path, module, name in places(network):
                if _drawn_behind(forms_of(module, name)):
                    setattr(module, name, getattr(get_module(drawn, path), name).detach())
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each module."""
        rows = [{"module": path, "edit": "reinitialize", "before": "", "after": "drawn"} for path in self.modules]
        return rows + [{"module": p, "edit": "left alone", "before": why, "after": ""} for p, why in self.left.items()]


@settings
class Reinitialize:
    """Reinitialise the weights as the modules do at construction; masks and structure are kept.

    Args:
        where: Which modules; None for all.
        exclude: Which of these to leave unchanged; None for none.
    """

    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / controls",
        paper="arXiv:1803.03635",
        says="Only the structure that pruning found is kept; the weights are new random ones.",
        costs="All training must be repeated.",
        fails_when="A module has its own parameters and no way to reset them: they are kept, and the plan lists them.",
    )

    @classmethod
    def neutral(cls) -> Reinitialize:
        """No module."""
        return cls(where=())

    def plan(self, model: nn.Module, context: Context) -> Reinitialized:
        """Find the modules that can draw their own weights.

        Raises:
            PlanError: `where` matches no module with parameters.
        """
        model = plain(model, context.inputs)
        check_where(model, where=self.where, exclude=self.exclude)
        modules: list[str] = []
        left: dict[str, str] = {}
        for path, module in model.named_modules():
            meant = (
                not is_list(module)
                and matches(self.where, path, module)
                and not (self.exclude is not None and matches(self.exclude, path, module))
            )
            if meant and _can(module):
                modules.append(path)
                left |= _kept(path, module)
            elif meant and next(module.parameters(recurse=False), None) is not None:
                left[path] = f"a {type(module).__name__} cannot reset its parameters"
        if not modules and not left and self.where not in (None, ()):
            known = [path for path, module in model.named_modules() if path and _can(module)]
            raise PlanError(
                f"where={self.where!r} matches nothing with parameters; {did_you_mean(str(self.where), known)}"
            )
        return Reinitialized(modules=tuple(modules), seed=derive(context.seed, "reinitialize"), left=left)


def redrawn(model: nn.Module, *, seed: int) -> nn.Module:
    """A copy whose modules have drawn their weights again, as at construction; masks and structure stay.

    What no module can draw, as a parameter that a network made itself, keeps its value.

    Raises:
        NetworkError: no module can draw its weights.
    """
    modules = tuple(path for path, module in model.named_modules() if not is_list(module) and _can(module))
    if not modules:
        raise NetworkError(f"No module of this {type(model).__name__} can draw its weights: none has reset_parameters.")
    return Reinitialized(modules=modules, seed=seed).apply(model)


def _kept(path: str, module: nn.Module) -> dict[str, str]:
    """The parameters of a module that cannot be drawn because of how they are stored, and why."""
    why = {name: next((one for form in forms_of(module, name) if (one := form.under_reset())), "")
           for name in parametrised(module)}  # fmt: skip
    return {full_name(path, name): reason for name, reason in why.items() if reason}


def _drawn_behind(forms: Sequence[Form]) -> bool:
    """Whether a parameter has forms, and all of them store what is drawn."""
    return bool(forms) and not any(form.under_reset() for form in forms)


def _without_forms(model: nn.Module) -> nn.Module:
    """The network with plain parameters wherever these can be drawn, in place."""
    for _, module, name in list(places(model)):
        forms = forms_of(module, name)
        if _drawn_behind(forms):
            for form in forms:
                bake_form(module, name, form)
    return model


def _can(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None)) or isinstance(module, nn.MultiheadAttention)


def _reset(module: nn.Module) -> None:
    reset: Any = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters")  # noqa: B009
    reset()
