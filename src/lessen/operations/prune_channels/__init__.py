"""Structured pruning: channels, heads and widths are taken out of the network, everywhere at once."""

from lessen.operations.prune_channels.masked import masked
from lessen.operations.prune_channels.operation import PruneChannels
from lessen.operations.prune_channels.plan import PrunedChannels

__all__ = ["PruneChannels", "PrunedChannels", "masked"]
