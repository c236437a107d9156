"""Plans on disk: what was done to a network, as data that a freshly built one can follow."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lessen.core.contracts import Plan
from lessen.core.errors import PlanError
from lessen.core.files import read_json
from lessen.core.settings import decode, encode
from lessen.operations.parts.values import without_values
from lessen.zoo import load_tensors

MOST_PLANS = 256
"""Plans that one network is followed through; each copies the network."""
GROWTH = 8
"""How many times as large as the original a network may become on the way."""
LONGEST_FILE = 1 << 30
"""Bytes of a plan.json: it holds a mask of one bit for each weight that was pruned singly."""


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
    """Plans as JSON data, as a run keeps them: values that are stored in its weights are left out."""
    return [encode(without_values(plan)) for plan in plans]


def decode_plans(data: Any) -> list[Plan]:
    """Plans from JSON data.

    Raises:
        PlanError: this is no list, or a row is not a plan that this version knows.
    """
    if not isinstance(data, list):
        raise PlanError(f"Plans are a list of objects of the form {{'PlanName': {{...}}}}, but got {data!r:.200}.")
    if len(data) > MOST_PLANS:
        raise PlanError(f"There are {len(data):,} plans; at most {MOST_PLANS} are allowed.")
    known = known_settings("operations")
    plans = []
    for row in data:
        try:
            plan = decode(row, known)
        except Exception as error:  # an operation in the place of a plan, a field of another type
            raise PlanError(f"Not a plan: {row!r:.200}. {error}") from error
        if not isinstance(plan, Plan):
            raise PlanError(f"Not a plan: {row!r:.200}. A plan is one object of the form {{'PlanName': {{...}}}}.")
        plans.append(plan)
    return plans


def read_plans(path: Path) -> list[Plan]:
    """The plans of a plan.json.

    Raises:
        PlanError: the file is missing, damaged or not a list of plans.
    """
    try:
        return decode_plans(read_json(path, error=PlanError, most=LONGEST_FILE))
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
