"""From kept indices to a plan, and what to do when its surgery is not proven: leave groups out, and say why."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lessen.core.data import Inputs
from lessen.operations.prune_channels.edits import Choice, candidates, edits
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.operations.prune_channels.verify import Trial, misfit, trial, verify
from lessen.surgery.attention import can_open, open_attention
from lessen.surgery.coupling import Coupling, Formula, groups_of, multiply_adds, parameter_count
from lessen.surgery.modules import copy_structure

_MOST_TRIALS = 32
"""Networks that need more guesses than this at what their attributes mean are left alone."""

Kept = Mapping[str, list[int]]


@dataclass
class Attempt:
    """Plans for one network; groups whose surgery cannot be proven are left out.

    Args:
        model: The network; it is not changed.
        coupling: Its groups.
        example: Example inputs.
        left_out: Group -> why it is left alone.
    """

    model: nn.Module
    coupling: Coupling
    example: Inputs
    left_out: dict[str, str] = field(default_factory=dict)
    choice: Choice = field(default_factory=dict)
    _settled: dict[str, set[Any]] = field(default_factory=dict)
    _wanted: Kept = field(default_factory=dict)
    _by_shapes: bool = True
    _told: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Attributes are looked for in the network as the analysis saw it, with its attention opened.
        self._opened = open_attention(copy_structure(self.model))

    def anew(self, coupling: Coupling) -> Attempt:
        """An attempt with other groups of the same network, which is proven on the same."""
        made = Attempt(self.model, coupling, self.example, _by_shapes=self._by_shapes)
        made._trial = self._trial
        return made

    @property
    def blocks(self) -> set[str]:
        """The groups each of whose indices is a block of another axis."""
        return {name for name, group in self.coupling.groups.items() if group.blocks}

    def proven(self, kept: Kept) -> PrunedChannels | None:
        """The plan if the network it makes equals the masked one; else None, and `left_out` has grown."""
        plan, self._wanted = self.plan(kept), kept
        wrong = self._differs(plan) if plan.kept else None
        if wrong is None:
            return self._fewest_edits(kept, plan)
        self._blame(kept, wrong, fits=self._misfit(plan) is None)
        return None

    def _blame(self, kept: Kept, wrong: str, *, fits: bool) -> None:
        """Leave out, or choose other edits for, the groups that make a plan wrong: halve until one is left.

        b wrong groups of G cost about b log2(G) proofs. Where what is left does not even fit together, shapes alone say
        which half is wrong; the rest is proven when the plan is tried again.
        """
        if len(kept) == 1:
            if not self._choose(kept):
                if not fits:
                    told = self._told.get(wrong) or self._differs(self.plan(kept))
                    if told is None:  # shapes refuse what runs: they are not asked again
                        self._by_shapes = False
                        return
                    wrong = self._told[wrong] = told
                self.left_out |= dict.fromkeys(kept, wrong)
                self._settled = {name: keys for name, keys in self._settled.items() if name not in kept}
            return
        names = [*kept]
        halves = [{name: kept[name] for name in part} for part in (names[: len(names) // 2], names[len(names) // 2 :])]
        passed = True
        for half in halves:  # one after the other: edits chosen for the first half may put the second right
            reason = self._verify(self.plan(half), fits=fits)
            if reason is not None:
                passed = False
                self._blame(half, reason, fits=fits)
        if passed:
            self._leave_out_together(kept, wrong, fits=fits)

    def _leave_out_together(self, kept: Kept, wrong: str, *, fits: bool) -> None:
        """Each half passes and both do not: leave out, one by one, the groups that break the sum of those before.

        The first such group is the end of the shortest wrong beginning, which is found by bisection.
        """
        names = [*kept]
        while True:
            right, broken = 0, len(names)  # the first `right` groups pass together; the first `broken` do not
            while broken - right > 1:
                middle = (right + broken) // 2
                if self._verify(self.plan({name: kept[name] for name in names[:middle]}), fits=fits) is None:
                    right = middle
                else:
                    broken = middle
            self.left_out[names.pop(broken - 1)] = f"together with other groups {wrong}"
            if self._verify(self.plan({name: kept[name] for name in names}), fits=fits) is None:
                return

    def _choose(self, kept: Kept) -> bool:
        """Try the subsets of the attributes that may hold a number, until the network is right.

        Groups for which one of these attributes was chosen before must stay right, and no group is chosen for twice:
        two that need it to mean different things would take turns for ever.
        """
        if kept.keys() <= self._settled.keys():
            return False
        keys = self._candidates(kept)
        along = {name: self._wanted[name] for name, own in self._settled.items() if own & set(keys)}
        self._settled |= {name: set(keys) for name in kept}
        before = dict(self.choice)
        trials = itertools.product(*([*_subsets(key[1])] for key in keys)) if keys else iter(())
        for subsets in itertools.islice(trials, _MOST_TRIALS):
            if not along and all(before.get(key, key[1]) == one for key, one in zip(keys, subsets, strict=True)):
                continue  # it is what was tried
            self.choice = before | dict(zip(keys, subsets, strict=True))
            if self._verify(self.plan({**along, **kept})) is None:
                return self.choice != before
        self.choice = before
        return False

    def _fewest_edits(self, kept: Kept, plan: PrunedChannels) -> PrunedChannels:
        """The plan without those edits that the network does not need: an attribute may hold the number by chance."""
        for key in self._candidates(kept):
            before = dict(self.choice)
            for subset in _subsets(key[1]):
                if len(subset) == len(before.get(key, key[1])):
                    self.choice = before
                    break
                self.choice = before | {key: subset}
                fewer = self.plan(kept)
                if self._verify(fewer) is None:
                    plan = fewer
                    break
        return plan

    def _candidates(self, kept: Kept) -> list[tuple[str, tuple[str, ...]]]:
        return list(dict.fromkeys(candidates(self._opened, self.coupling, kept.keys())))

    def _verify(self, plan: PrunedChannels, *, fits: bool = True) -> str | None:
        """What is wrong with a plan; with `fits=False` only whether what is left fits together."""
        wrong = self._misfit(plan)
        return self._differs(plan) if wrong is None and fits else wrong

    def _differs(self, plan: PrunedChannels) -> str | None:
        return verify(self._trial, plan)

    def _misfit(self, plan: PrunedChannels) -> str | None:
        return misfit(self._trial, plan) if self._by_shapes else None

    @functools.cached_property
    def _trial(self) -> Trial:
        return trial(self.model, self.example)

    def plan(self, kept: Kept) -> PrunedChannels:
        """The plan that keeps these indices of these groups, not yet proven."""
        coupling, model, counts = self.coupling, self.model, {name: len(indices) for name, indices in kept.items()}
        layouts, averaged = (
            {
                name: [_fixed(layout, kept, coupling.sizes) for layout in axes]
                for name, axes in every.items()
                if any(group in kept for layout in axes for group in groups_of(layout))
            }
            for every in (coupling.layouts, coupling.averaged)
        )
        consumed: dict[str, list[str]] = {}
        for name in kept:
            for member in coupling.groups[name].members:
                if member.consumes and name not in consumed.setdefault(member.tensor, []):
                    consumed[member.tensor].append(name)
        examples = _examples(self.example)
        return PrunedChannels(
            kept={name: list(indices) for name, indices in kept.items()},
            sizes={name: coupling.sizes[name] for name in kept},
            layouts=layouts,
            consumed=consumed,
            normalised=sorted(coupling.normalised & set(layouts)),
            averaged=averaged,
            edits=edits(self._opened, coupling, counts, self.choice),
            opened=[
                path
                for path, module in model.named_modules()
                if can_open(module) and any(name.startswith(f"{path}." if path else "") for name in layouts)
            ],
            left_out=dict(self.left_out),
            pinned={
                name.rpartition(".")[0]: why
                for (name, dim), why in coupling.pinned.items()
                if dim == 0 and name in coupling.weights and len(coupling.layouts[name]) > 1
            },
            parameters=(parameter_count(coupling, model, {}), parameter_count(coupling, model, counts)),
            multiply_adds=(multiply_adds(coupling, {}) // examples, multiply_adds(coupling, counts) // examples),
        )


def _fixed(layout: Formula, kept: Kept, sizes: Mapping[str, int]) -> Formula:
    """The layout with groups that lose nothing written as numbers."""
    return [[_factor(factor, kept, sizes) for factor in term] for term in layout]


def _factor(factor: Any, kept: Kept, sizes: Mapping[str, int]) -> Any:
    if isinstance(factor, list):
        return _fixed(factor, kept, sizes)
    return sizes[factor] if isinstance(factor, str) and factor not in kept else factor


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for count in range(len(names) + 1):
        yield from itertools.combinations(names, count)


def _examples(inputs: Inputs) -> int:
    values = [inputs] if isinstance(inputs, Tensor) else list(inputs.values() if isinstance(inputs, dict) else inputs)
    return int(values[0].shape[0]) if values and values[0].ndim else 1
