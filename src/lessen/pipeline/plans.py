"""Plans on disk: what was done to a network, as data that a freshly built one can follow."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.batch import call
from lessen.core.contracts import Plan
from lessen.core.data import Inputs
from lessen.core.errors import LessenError, PlanError, SettingError
from lessen.core.files import read_json
from lessen.core.others import SCRIPT, allow, is_lessens, named, others, use
from lessen.core.settings import decode, encode
from lessen.operations.parts.values import without_values
from lessen.surgery.copying import copy_network
from lessen.surgery.values import leaves
from lessen.zoo import load_tensors

MOST_PLANS = 256
"""Plans that one network is followed through; each copies the network."""
GROWTH = 8
"""How many times as large as the original a network may become on the way."""
LONGEST_FILE = 1 << 30
"""Bytes of a plan.json: it holds a mask of one bit for each weight that was pruned singly."""


FROM = "from"
"""The key of a plan.json that tells the module of a plan from outside lessen."""


class ForeignPlanError(PlanError):
    """A plan comes from a module that is not allowed, or that does not have it."""


def known_settings(*packages: str) -> dict[str, type]:
    """The settings classes that packages offer in their `__all__`, by name; nothing else is ever made from a file."""
    found: dict[str, type] = {}
    for package in packages:
        module = importlib.import_module(f"lessen.{package}")
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) and dataclasses.is_dataclass(thing):
                found[name] = thing
    return found


def encode_plans(plans: Sequence[Plan]) -> list[Any]:
    """Plans as JSON data, as a run keeps them: values that are stored in its weights are left out.

    A plan from outside lessen also tells the module of its class, as `from`; it is then known in this process.
    """
    for plan in plans:
        allow(plan)
    return [_encoded(without_values(plan)) for plan in plans]


def _encoded(plan: Plan) -> dict[str, Any]:
    row: dict[str, Any] = encode(plan)
    return row if is_lessens(type(plan)) else {**row, FROM: type(plan).__module__}


def decode_plans(data: Any, *, allow_import: bool = False) -> list[Plan]:
    """Plans from JSON data.

    Args:
        data: What `encode_plans` made.
        allow_import: Whether the modules of plans from outside lessen may be imported, which executes them.

    Raises:
        PlanError: this is no list, a row is not a plan that this version knows, or it comes from a module that is not
            allowed.
    """
    if not isinstance(data, list):
        raise PlanError(f"Plans are a list of objects of the form {{'PlanName': {{...}}}}, but got {data!r:.200}.")
    if len(data) > MOST_PLANS:
        raise PlanError(f"There are {len(data):,} plans; at most {MOST_PLANS} are allowed.")
    known = known_settings("operations")
    plans = []
    for row in data:
        try:
            plan = _decoded(row, known, allow_import)
        except ForeignPlanError:
            raise
        except Exception as error:  # an operation in the place of a plan, a field of another type
            raise PlanError(f"Not a plan: {row!r:.200}. {error}") from error
        if not isinstance(plan, Plan):
            raise PlanError(f"Not a plan: {row!r:.200}. A plan is one object of the form {{'PlanName': {{...}}}}.")
        plans.append(plan)
    return plans


def _decoded(row: Any, known: Mapping[str, type], allow_import: bool) -> Any:
    if not isinstance(row, dict) or FROM not in row:
        return decode(row, known)
    module, ((name, fields),) = str(row[FROM]), ((key, value) for key, value in row.items() if key != FROM)
    try:
        if allow_import and module != SCRIPT:
            use(module)
        kind = named(module, name)
    except SettingError as error:
        raise ForeignPlanError(str(error)) from error
    brought = {each.__name__: each for each in others() if each.__module__ == module}
    return decode({name: fields}, {**known, **brought, name: kind})


def check_keeps(plan: Plan, before: nn.Module, after: nn.Module, inputs: Inputs) -> None:
    """Whether a network that a plan made can be loaded again, by anyone who has the plan and the weights.

    Plans of lessen are held to this by its tests; others are tried, before anything long starts.

    Args:
        plan: What was decided.
        before: The network that it was made for.
        after: That network with the plan applied.
        inputs: Some of its inputs.

    Raises:
        PlanError: the plan cannot be written, is not the same when read back, or leads to another network.
    """
    kind = type(plan)
    if is_lessens(kind):
        return
    allow(plan)
    if kind.__name__ in known_settings("operations"):
        raise PlanError(f"{kind.__name__} is the name of a plan of lessen as well. Give your class another name.")
    advice = "Otherwise the network that it makes could not be loaded, packed or resumed."
    try:
        (again,) = decode_plans(json.loads(json.dumps(encode_plans([plan]), allow_nan=False)))
    except (LessenError, TypeError, ValueError) as error:
        raise PlanError(
            f"{kind.__name__} cannot be written to plan.json and read back: {error} A plan is a settings object "
            f"(@lessen.core.settings) that holds numbers, texts, lists and other settings objects. {advice}"
        ) from error
    try:
        made = load_tensors(follow(copy_network(before), [again], "the run"), after.state_dict(), source="the run")
    except LessenError as error:
        raise PlanError(
            f"{kind.__name__}.apply(model, values=False) must make a network that takes the tensors of the one that "
            f"apply(model) made: {error} {advice}"
        ) from error
    if not _agree(made, after, inputs):
        raise PlanError(
            f"{kind.__name__}: the network that is loaded from its plan and its tensors gives other outputs than the "
            "one that was made. What apply() changes must be in the structure that apply(model, values=False) makes, "
            f"or in the state dict. {advice}"
        )


def _agree(one: nn.Module, two: nn.Module, inputs: Inputs) -> bool:
    with torch.no_grad():
        mine, other = (list(leaves(call(copy_network(network).eval(), inputs))) for network in (one, two))
    return len(mine) == len(other) and all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def read_plans(path: Path, *, allow_import: bool = False) -> list[Plan]:
    """The plans of a plan.json.

    Args:
        path: The file.
        allow_import: As for `decode_plans`.

    Raises:
        PlanError: the file is missing, damaged or not a list of plans.
    """
    try:
        return decode_plans(read_json(path, error=PlanError, most=LONGEST_FILE), allow_import=allow_import)
    except ForeignPlanError as error:
        raise ForeignPlanError(f"{path}: {error}") from error
    except PlanError as error:
        raise PlanError(f"{path} is damaged, or was not written by lessen. {error}") from error


def follow(network: nn.Module, plans: Sequence[Plan], source: str) -> nn.Module:
    """Carry out the structure of plans that came from a file; their values are loaded afterwards.

    No plan can ask for more memory than a few times that of the network: each checks its sizes against the tensors.

    Args:
        network: Built as the original was; it is not changed.
        plans: What was done to the original, in order.
        source: Where they come from, for the error.

    Raises:
        PlanError: a plan does not belong to this network.
    """
    most, made = GROWTH * (_bytes(network) + (1 << 20)), network
    for plan in plans:
        name = type(plan).__name__
        try:
            made = plan.apply(made, values=False)
            made.state_dict()  # masks of another shape show themselves here
        except PlanError:
            raise
        except Exception as error:  # forged numbers can break a plan anywhere
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            raise PlanError(f"{name} in {source} does not belong to this {type(network).__name__}: {first}") from error
        if _bytes(made) > most:
            raise PlanError(f"{name} in {source} makes the network more than {GROWTH} times as large.")
    return made


def replay(network: nn.Module, plans: Sequence[Plan], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Follow plans on a freshly built network and load the saved tensors strictly.

    Args:
        network: Built as the original was; it is not changed.
        plans: What was done to the original, in order.
        tensors: The state that was saved after the last plan.

    Raises:
        PlanError: a plan does not belong to this network.
        WeightsError: the tensors are not of the network that the plans lead to.
    """
    return load_tensors(follow(network, plans, "the run"), tensors, source="the run")


def _bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
