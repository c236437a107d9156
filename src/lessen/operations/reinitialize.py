"""Fresh weights under the same masks: the control that tells what masks know from what weights know.

Frankle & Carbin, The lottery ticket hypothesis, ICLR 2019, arXiv:1803.03635.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from lessen.core import Card, Context, Where, check_where, matches, settings
from lessen.core.errors import PlanError, did_you_mean
from lessen.core.seeds import derive, seeded
from lessen.surgery.forms.mask import bake_masks
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
        """A copy of the network with fresh weights; its masks hold.

        Raises:
            NetworkError: a module is missing.
        """
        network = plain_copy(model)
        if not values or not self.modules:
            return network
        fresh = bake_masks(plain_copy(model))
        with seeded(self.seed, "reinitialize"):
            for path in self.modules:
                _reset(get_module(fresh, path))
        network.load_state_dict(fresh.state_dict())
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each module."""
        rows = [{"module": path, "edit": "reinitialize", "before": "", "after": "drawn"} for path in self.modules]
        return rows + [{"module": p, "edit": "left alone", "before": why, "after": ""} for p, why in self.left.items()]


@settings
class Reinitialize:
    """Initialise the weights again, as the modules do at construction; masks and structure stay.

    Args:
        where: Which modules; None for all.
        exclude: Which of these to leave alone; None for none.
    """

    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / controls",
        paper="arXiv:1803.03635",
        says="The weights are drawn again; only the structure that pruning found is kept.",
        costs="All training must be repeated.",
        fails_when="A module has parameters of its own and cannot reset them: they stay, and the plan lists them.",
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
            meant = matches(self.where, path, module) and not (
                self.exclude is not None and matches(self.exclude, path, module)
            )
            if meant and _can(module):
                modules.append(path)
            elif meant and next(module.parameters(recurse=False), None) is not None:
                left[path] = f"a {type(module).__name__} cannot reset its parameters"
        if not modules and not left and self.where not in (None, ()):
            known = [path for path, module in model.named_modules() if path and _can(module)]
            raise PlanError(
                f"where={self.where!r} matches nothing with parameters; {did_you_mean(str(self.where), known)}"
            )
        return Reinitialized(modules=tuple(modules), seed=derive(context.seed, "reinitialize"), left=left)


def _can(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None)) or isinstance(module, nn.MultiheadAttention)


def _reset(module: nn.Module) -> None:
    reset: Any = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters")  # noqa: B009
    reset()
