"""An exit of its own from the middle of a network as a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import nn

from lessen.core.contracts import Bridge
from lessen.core.errors import ShapeError, TapError
from lessen.core.seeds import seeded
from lessen.core.settings import named_fields
from lessen.graph.combine import Combine, Sum
from lessen.graph.head import LinearHead
from lessen.graph.nodes.node import WHOLE, Node, find, is_network
from lessen.graph.nodes.unit import Making, Now, Recorded, Unit
from lessen.optim.optimizer import Optimizer
from lessen.surgery.taps import Tap, tensor_of


@named_fields
class Branch(Node):
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

    has_head: ClassVar[bool] = True

    @property
    def parts(self) -> Sequence[nn.Module]:
        return [part for part in (self.head, self.combine) if isinstance(part, nn.Module)]

    @property
    def made_of(self) -> Sequence[str]:
        return (self.of,)

    @property
    def learns_with(self) -> Sequence[str]:
        return (self.of,)

    def can_learn(self) -> bool:
        return True

    def moved_by(self, nodes: Mapping[str, Node]) -> str:
        return self.of if is_network(nodes[self.of]) and nodes[self.of].can_learn() else self.name

    def check(self, nodes: Mapping[str, Node]) -> None:
        find(self.of, nodes, f"the node {self.name!r}", is_network, "a network")

    def taps_in(self, name: str) -> Sequence[Tap]:
        if name != self.of:
            return ()
        return [self.tap] if isinstance(self.head, nn.Module) else [self.tap, WHOLE]

    def unit(self, making: Making) -> Unit:
        return BranchUnit(self, making.taps)

    def drawn(self, short: Any) -> dict[str, Any]:
        return {"of": [self.of], "tap": str(self.tap), "head": short(self.head)}


class BranchUnit(Recorded):
    """A head on a tap of a network."""

    kind = "head"
    learns = True

    def __init__(self, node: Branch, taps: list[Tap]) -> None:
        self.name = node.name
        self.of = node.of
        self.tap = node.tap
        self.head = node.head
        self.combine = node.combine
        self.taps = taps

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        value = tensor_of(now.values[self.of][self.tap])
        head = self.head
        if not isinstance(head, nn.Module):
            with seeded(seed, "head", self.name):
                head = head.build(value.shape, now.values[self.of][WHOLE].shape).eval()
        self.module = head.to(device)
        try:
            self.record([tap for tap in self.taps if tap != WHOLE], lambda: self.compute(now))
        except TapError:
            raise
        except Exception as error:
            shape = tuple(value.shape)
            raise ShapeError(
                f"The head of the branch {self.name!r} does not fit its tap {str(self.tap)!r} of "
                f"{self.of!r}, which gives "
                f"shape {shape}: {error}"
            ) from error

    def compute(self, now: Now) -> None:
        value = tensor_of(now.values[self.of][self.tap])
        now.values[self.name] = self.recorded(lambda: self.module(value), lambda output: {WHOLE: tensor_of(output)})
