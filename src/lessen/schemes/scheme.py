"""The contract of schemes: settings that return stages, given the network of each role; and their common base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from lessen.core.card import Card
from lessen.core.errors import SettingError, did_you_mean
from lessen.core.ranges import Count
from lessen.core.settings import shared_settings
from lessen.graph import Fit, Stage

if TYPE_CHECKING:
    from lessen.schemes.pattern import Pattern

Cast = Mapping[str, Any]
"""Who plays: "teacher" and "student" are networks, "teachers", "students" and "assistants" are lists of them."""

Counts = Mapping[str, int]
"""How many networks play each role."""


@runtime_checkable
class Scheme(Protocol):
    """A settings object that defines who teaches whom, in stages."""

    card: ClassVar[Card]

    def stages(self, cast: Cast, /) -> list[Stage]:
        """The stages, in order. Networks that learn are those of the cast; frozen ones are not changed.

        Raises:
            SettingError: a role is missing from the cast, or has too few networks.
        """


class BaseScheme:
    """A scheme whose graphs depend only on how many networks play each role: it says its patterns, this the stages."""

    card: ClassVar[Card]

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        """The graph of each stage in order, with a `Role` for each network.

        Raises:
            SettingError: a role is missing, or has too few networks.
        """
        raise NotImplementedError(f"{type(self).__name__} has no patterns.")

    def stages(self, cast: Cast, /) -> list[Stage]:
        """The patterns, with the networks of the cast in their roles.

        Raises:
            SettingError: a role is missing from the cast, or has too few networks.
        """
        counts = {name: len(given) if isinstance(given, Sequence) else 1 for name, given in cast.items()}
        return [pattern.played(cast, self) for pattern in self.patterns(counts)]


@shared_settings
class TrainedScheme(BaseScheme):
    """A scheme that says how long its networks are trained, and how.

    Args:
        epochs: Passes over the training data.
        steps: Optimizer steps, instead of epochs.
        fit: How the networks that learn are trained.
    """

    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()


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
        raise _too_few(name, scheme, least, len(networks))
    return networks


def count(counts: Counts, name: str, scheme: object, *, least: int = 1) -> int:
    """How many networks play a role.

    Raises:
        SettingError: fewer than `least`.
    """
    found: int = _found(counts, name, scheme)
    if found < least:
        raise _too_few(name, scheme, least, found)
    return found


def _too_few(name: str, scheme: object, least: int, found: int) -> SettingError:
    return SettingError(
        f"{type(scheme).__name__} needs at least {least} networks as {name!r}, got {found}."
        f"{_written(name, scheme, least)}"
    )


def _found(cast: Mapping[str, Any], name: str, scheme: object) -> Any:
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
