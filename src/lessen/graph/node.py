"""Nodes: whatever has a state that can teach or learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from torch import nn

from lessen.core.contracts import Bridge
from lessen.core.data import View
from lessen.core.settings import named_fields
from lessen.graph.cache import Cache
from lessen.graph.combine import Combine, Sum
from lessen.graph.ensemble import Mean, Members
from lessen.graph.head import LinearHead
from lessen.graph.snapshot import LastEpoch, When
from lessen.optim.optimizer import Optimizer
from lessen.optim.schedule import Schedule
from lessen.sparsify.contract import Sparsify
from lessen.surgery.taps import Tap


@named_fields
class Network:
    """A network that learns, or that is frozen: in eval mode, without gradient, whatever wraps it.

    Args:
        name: What edges call it.
        module: The network. A learning one is changed in place.
        learns: Whether its weights move.
        view: What it sees of a batch. None: what the data says for training batches.
        optimizer: How it moves, with the bridges and objectives of the edges that arrive. None: as the stage says.
        schedule: Of its learning rate. None: as the stage says.
        combine: What it does with several losses that arrive.
        cache: Keep what a frozen node gives on disk. None: compute it each time.
        sparsify: How its weights become sparse while it learns. None: as the stage says.
    """

    name: str
    module: nn.Module
    learns: bool
    view: View | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    combine: Combine = field(default_factory=Sum)
    cache: Cache | None = None
    sparsify: Sparsify | None = None


@named_fields
class Labels:
    """The labels of the batch, as they are."""

    name: str = "labels"


@named_fields
class Snapshot:
    """A frozen copy of a network, taken from time to time.

    Args:
        name: What edges call it.
        of: The network node it is a copy of.
        when: When the copy is taken.
        view: What it sees of a batch. None: what the network it copies sees.
    """

    name: str
    of: str
    when: When = field(default_factory=LastEpoch)
    view: View | None = None


@named_fields
class Ensemble:
    """One output made of the outputs of several nodes.

    Args:
        name: What edges call it.
        of: The nodes it is made of.
        combine: How.
        to_members: Whether gradient of the edges that arrive at the ensemble flows on to its members.
    """

    name: str
    of: Sequence[str]
    combine: Members = field(default_factory=Mean)
    to_members: bool = False


@named_fields
class Branch:
    """An exit of its own from the middle of a network: a tap, and a head that learns with what arrives at the branch.

    Args:
        name: What edges call it.
        of: The network node it leaves.
        tap: Where it leaves.
        head: What makes an output of the tap's value: a module, or settings that build one from the shape of the
            tap's value to the shape of the network's output.
        optimizer: For a head on a frozen network. None: that of the network, or of the stage.
        combine: What it does with several losses that arrive.
    """

    name: str
    of: str
    tap: Tap
    head: nn.Module | Bridge = field(default_factory=LinearHead)
    optimizer: Optimizer | None = None
    combine: Combine = field(default_factory=Sum)


Node = Network | Labels | Snapshot | Ensemble | Branch
