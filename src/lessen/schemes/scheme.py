"""The contract of schemes: settings that return stages, given the network of each role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from lessen.core.card import Card
from lessen.core.errors import SettingError, did_you_mean
from lessen.graph import Edge, Fit, Graph, OnPolicy, Stage
from lessen.graph.nodes.node import Node

Cast = Mapping[str, Any]
"""Who plays: "teacher" and "student" are networks, "teachers", "students" and "assistants" are lists of them."""


@runtime_checkable
class Scheme(Protocol):
    """A settings object that defines who teaches whom, in stages."""

    card: ClassVar[Card]

    def stages(self, cast: Cast, /) -> list[Stage]:
        """The stages, in order. Networks that learn are those of the cast; frozen ones are not changed.

        Raises:
            SettingError: a role is missing from the cast, or has too few networks.
        """


def role(cast: Cast, name: str, scheme: object) -> nn.Module:
    """The network that plays a role.

    Raises:
        SettingError: there is none.
    """
    found = _found(cast, name, scheme)
    if not isinstance(found, nn.Module):
        raise SettingError(f"{type(scheme).__name__} needs one network as {name!r}, got a {type(found).__name__}.")
    return found


def roles(cast: Cast, name: str, scheme: object, *, least: int = 1) -> list[nn.Module]:
    """The networks that play a role together.

    Raises:
        SettingError: there are fewer than `least`.
    """
    found = _found(cast, name, scheme)
    networks = list(found) if isinstance(found, Sequence) else [found]
    if len(networks) < least or not all(isinstance(network, nn.Module) for network in networks):
        raise SettingError(
            f"{type(scheme).__name__} needs at least {least} networks as {name!r}, got {len(networks)}."
            f"{_written(name, scheme, least)}"
        )
    return networks


def stage(
    name: str,
    nodes: list[Node],
    edges: list[Edge],
    *,
    epochs: int,
    steps: int | None,
    fit: Fit,
    on_policy: OnPolicy | None = None,
) -> Stage:
    """A stage that runs for `steps`, or where these are None for `epochs`."""
    graph = Graph(nodes=nodes if on_policy is None else [*nodes, on_policy], edges=edges)
    return Stage(name=name, graph=graph, epochs=None if steps is not None else epochs, steps=steps, fit=fit)


def _found(cast: Cast, name: str, scheme: object) -> Any:
    if name not in cast:
        raise SettingError(
            f"{type(scheme).__name__} needs the role {name!r}: {did_you_mean(name, cast)}{_written(name, scheme, 1)}"
        )
    return cast[name]


def _written(name: str, scheme: object, least: int) -> str:
    """How the networks of a role are given to a step of a run; nothing for the roles that each run has."""
    if name not in {"assistants", "students"}:
        return ""
    return f" As a step of a run, write Roles(scheme={type(scheme).__name__}(), {name}={least})."
