"""What is taken out of a network, as data; and taking it out."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from lessen.core.errors import NetworkError, PlanError
from lessen.core.settings import settings
from lessen.operations.parts.values import put_values
from lessen.operations.prune_channels.edits import carry_out
from lessen.surgery.attention import open_attention
from lessen.surgery.coupling import groups_of, is_formula, keep_mask, size
from lessen.surgery.modules import copy_with, get_tensor
from lessen.surgery.plain import plain


@settings
class PrunedChannels:
    """Which indices of which groups stay, and where the groups stand.

    Args:
        kept: For each group that loses something, the indices that stay.
        sizes: For each of these groups, how many indices it had.
        layouts: For each parameter and buffer that changes, how each of its axes is made of groups
            (`surgery.coupling.formula`).
        consumed: Of these, the weights that a product sums over, and the groups it sums over.
        normalised: Weights of normalisations that average over what a group removes; they average over the rest.
        averaged: Calls that reduce over what a group removes, and now over the rest: their sites (`surgery.calls`), and
            how each axis of what they are given is made of groups.
        edits: Attributes that change with the sizes.
        opened: Attention modules that are replaced by `surgery.attention.OpenAttention`.
        left_out: Groups whose removal could not be proven right, and why.
        pinned: Modules whose channels cannot be removed, and why.
        parameters: Number of parameters, before and after.
        multiply_adds: Multiply-adds of one example, before and after.
        measured: What was timed to choose the widths, and other rows for people.
        carries: Names of tensors that also carry what removed channels add on average, or that were fitted again; their
            numbers are in `values`.
        values: These, as text, or None where there are none or they stand in the weights beside the plan.
    """

    kept: dict[str, list[int]]
    sizes: dict[str, int]
    layouts: dict[str, list[list[Any]]]
    consumed: dict[str, list[str]]
    normalised: list[str]
    averaged: dict[str, list[list[Any]]]
    edits: list[dict[str, Any]]
    opened: list[str]
    left_out: dict[str, str]
    pinned: dict[str, str]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    measured: list[dict[str, str]] = Field(default_factory=list)
    carries: list[str] = Field(default_factory=list)
    values: dict[str, str] | None = None

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A new network without the removed channels; `values` says whether biases carry what these added.

        Raises:
            PlanError: the network has other names or shapes than the one that the plan was made for.
        """
        self._check()
        model = plain(model, values=values)
        try:
            sliced = {name: self._sliced(name, get_tensor(model, name)) for name in self.layouts}
            work = copy_with(model, sliced)
            if self.opened:
                work = open_attention(work, self.opened)
            for edit in self.edits:
                carry_out(work, edit)
        except NetworkError as error:
            raise PlanError(
                f"The plan was made for another network than this {type(model).__name__}. {error}"
            ) from error
        if values and self.carries:
            put_values(work, self.values)
        return work

    def _check(self) -> None:
        """Whether masks can be made of this at all: a plan may come from a file.

        Raises:
            PlanError: a formula, a size or an index is none.
        """
        for name, layouts in self.layouts.items():
            for layout in layouts:
                if not is_formula(layout, self.sizes):
                    raise PlanError(f"The layout of {name} in the plan is none: {layout!r:.200}. Make the plan again.")
        for group, kept in self.kept.items():
            count = self.sizes.get(group, 0)
            if not kept or any(not 0 <= index < count for index in kept) or len(set(kept)) != len(kept):
                raise PlanError(f"The plan keeps indices of {group} that are none of its {count}. Make the plan again.")

    def _sliced(self, name: str, tensor: Tensor) -> Tensor:
        layouts = self.layouts[name]
        expected = tuple(size(layout, self.sizes) for layout in layouts)
        if tuple(tensor.shape) != expected:
            raise PlanError(
                f"The plan expects {name} of shape {expected}, and it has {tuple(tensor.shape)}. "
                "Apply the plan to a network built like the one it was made for."
            )
        made = tensor.detach()
        for dim, mask in self.masks(name).items():
            made = made.index_select(dim, mask.nonzero().flatten().to(tensor.device))
        return made

    def masks(self, name: str) -> dict[int, Tensor]:
        """For each axis of a parameter or buffer that loses something, which of its indices stay, bool."""
        return self._masks(self.layouts[name])

    def averages(self, site: str) -> dict[int, Tensor]:
        """For each axis of what a call is given that it reduces over, and that loses something, which indices stay."""
        return self._masks(self.averaged[site])

    def _masks(self, layouts: list[list[Any]]) -> dict[int, Tensor]:
        return {
            dim: keep_mask(layout, self.sizes, self.kept)
            for dim, layout in enumerate(layouts)
            if any(groups_of(layout))
        }

    def describe(self) -> list[dict[str, Any]]:
        """One row for each group that lost something, named after its module; then what was left alone and why."""
        rows = []
        for name, indices in self.kept.items():
            module, before, after = name.split("#")[0], str(self.sizes[name]), str(len(indices))
            rows.append({"module": module, "edit": "remove channels", "before": before, "after": after})
        for path in self.opened:
            what = {"before": "MultiheadAttention", "after": "OpenAttention"}
            rows.append({"module": path, "edit": "open attention", **what})
        for name, why in (self.left_out | self.pinned).items():
            rows.append({"module": name, "edit": "left alone", "before": why, "after": ""})
        fitted = {name.rpartition(".")[0] for name in self.carries if name.endswith(".weight")}
        for name in self.carries:
            if name.rpartition(".")[0] in fitted:
                continue  # said with its error, in `measured`
            row = {"module": name.rpartition(".")[0], "edit": "keep means", "before": "", "after": f"in {name}"}
            rows.append(row)
        return [*rows, *self.measured]
