"""Low rank: two thin layers in the place of one."""

from lessen.operations.low_rank.factorization import Channel, Spatial
from lessen.operations.low_rank.operation import Factorized, LowRank

__all__ = ["Channel", "Factorized", "LowRank", "Spatial"]
