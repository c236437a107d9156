"""Plans on disk: what was done to a network, as data that a freshly built one can follow."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lessen.core.contracts import Plan
from lessen.core.errors import PlanError
from lessen.core.settings import decode, encode
from lessen.operations.values import without_values
from lessen.zoo import load_tensors


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
    """Plans as JSON data, as a run keeps them: what stands in its weights is left out."""
    return [encode(without_values(plan)) for plan in plans]


def decode_plans(data: Sequence[Any]) -> list[Plan]:
    """Plans from JSON data.

    Raises:
        PlanError: a row is not a plan that this version knows.
    """
    known = known_settings("operations")
    plans = []
    for row in data:
        plan = decode(row, known)
        if not isinstance(plan, Plan):
            raise PlanError(
                f"Not a plan: {json.dumps(row)[:200]}. A plan is one object of the form {{'PlanName': {{...}}}}."
            )
        plans.append(plan)
    return plans


def read_plans(path: Path) -> list[Plan]:
    """The plans of a plan.json.

    Raises:
        PlanError: the file is missing, damaged or not a list of plans.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlanError(f"{path} cannot be read as a list of plans: {error}.") from error
    if not isinstance(data, list):
        raise PlanError(f"{path} holds a {type(data).__name__}, but a list of plans was expected.")
    return decode_plans(data)


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
    for plan in plans:
        network = plan.apply(network, values=False)
    return load_tensors(network, tensors, source="the run")
