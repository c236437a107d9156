"""Numbers in a network's own code that change with its sizes: attributes such as `out_channels` or `num_heads`.

Where an operator says which attribute it is (`in_features` of a linear layer), that one is set. Where a number only
appears as the size in a reshape, it is looked for among the attributes of the modules that were running, innermost
first. What was changed is proven afterwards by running the network (see `verify`); several candidates are tried in
turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from lessen.core.errors import PlanError
from lessen.surgery.coupling import Coupling, Number, groups_of, size
from lessen.surgery.modules import get_module

Edit = dict[str, Any]
Choice = Mapping[tuple[str, tuple[str, ...]], tuple[str, ...]]
"""(class of the module, attributes that hold the number) -> those that are changed."""

_NOT_SIZES = {"kernel_size", "stride", "padding", "dilation", "output_padding", "training", "start_dim", "end_dim"}


def edits(model: nn.Module, coupling: Coupling, kept: Mapping[str, int], choice: Choice) -> list[Edit]:
    """The attributes to set when the groups keep this many indices.

    Each is `{"module": path, "attribute": name, "before": old, "after": new}`; tuples are written as lists.
    """
    new_sizes = {**coupling.sizes, **kept}
    first = {id(module): path for path, module in model.named_modules()}  # a shared module is edited once
    changes: dict[tuple[str, str], dict[int, int]] = {}
    for number in coupling.numbers:
        new = size(number.layout, new_sizes)
        if new == number.value or not set(groups_of(number.layout)) & set(kept):
            continue
        for path, attribute in _places(model, number, choice):
            changes.setdefault((first[id(get_module(model, path))], attribute), {})[number.value] = new
    found = []
    for (path, attribute), renamed in changes.items():
        before = getattr(get_module(model, path), attribute)
        as_list = list(before) if isinstance(before, tuple | list) else before
        after = (
            [renamed.get(item, item) for item in as_list] if isinstance(as_list, list) else renamed.get(before, before)
        )
        found.append({"module": path, "attribute": attribute, "before": as_list, "after": after})
    return found


def candidates(model: nn.Module, coupling: Coupling, groups: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The keys of choices that play a part for some groups."""
    for number in coupling.numbers:
        if number.attribute is None and any(group in groups for group in groups_of(number.layout)):
            path, attributes = _search(model, number)
            if attributes:
                yield type(get_module(model, path)).__name__, attributes


def _places(model: nn.Module, number: Number, choice: Choice) -> Iterator[tuple[str, str]]:
    if number.attribute is not None:
        path = number.modules[-1] if number.modules else ""
        if _holds(getattr(get_module(model, path), number.attribute, None), number.value):
            yield path, number.attribute
        return
    path, attributes = _search(model, number)
    if attributes:
        key = (type(get_module(model, path)).__name__, attributes)
        for attribute in choice.get(key, attributes):
            yield path, attribute


def _search(model: nn.Module, number: Number) -> tuple[str, tuple[str, ...]]:
    for path in reversed(number.modules):
        module = get_module(model, path)
        held = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and name not in _NOT_SIZES and _holds(value, number.value)
        }
        if held:
            return path, tuple(sorted(held))
    return "", ()


def _holds(value: Any, number: int) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds(item, number) for item in value if not isinstance(item, tuple | list))
    return isinstance(value, int) and not isinstance(value, bool) and value == number


def carry_out(model: nn.Module, edit: Edit) -> None:
    """Set one attribute, in place. Only what `edits` can produce is set: a size, or a tuple with sizes, made smaller.

    Raises:
        PlanError: the network's attribute is not what the plan was made for, or is no size.
    """
    if set(edit) != {"module", "attribute", "before", "after"}:
        raise PlanError(f"An edit of the plan has the fields {sorted(edit)}. Make the plan again.")
    path, attribute, before, after = edit["module"], edit["attribute"], edit["before"], edit["after"]
    module = get_module(model, path)
    now = getattr(module, attribute, None) if _is_size(module, attribute) else None
    if now is None or (list(now) if isinstance(now, tuple | list) else now) != before:
        raise PlanError(
            f"The plan expects {path}.{attribute} to be the size {before!r}, and it is {now!r}. "
            "Apply the plan to a network built like the one it was made for."
        )
    many = isinstance(before, list)
    pairs = list(zip(before, after, strict=False)) if many and isinstance(after, list) else [(before, after)]
    if many != isinstance(after, list) or (many and len(before) != len(after)) or not all(map(_smaller, pairs)):
        raise PlanError(f"The plan sets {path}.{attribute} from {before!r} to {after!r}, which makes no size smaller.")
    setattr(module, attribute, type(now)(after) if many else after)


def _is_size(module: nn.Module, attribute: Any) -> bool:
    return isinstance(attribute, str) and not attribute.startswith("_") and attribute in vars(module)


def _smaller(pair: tuple[Any, Any]) -> bool:
    before, after = pair
    whole = all(isinstance(each, int) and not isinstance(each, bool) for each in pair)
    return (0 < after <= before) if whole else (before == after and type(before) is type(after))
