"""Operations: each turns a network into a smaller one with the same inputs and outputs."""

from lessen.operations.allocation import ErdosRenyi, Global, LayerAdaptive, Uniform
from lessen.operations.factorization import Channel, Spatial
from lessen.operations.low_rank import Factorized, LowRank
from lessen.operations.pattern import NM, Anywhere, PerRow
from lessen.operations.prune_channels import PruneChannels, PrunedChannels
from lessen.operations.prune_weights import PrunedWeights, PruneWeights
from lessen.operations.quantize import MinMax, Percentile, Quantize, Quantized, SquaredError
from lessen.operations.scores import Magnitude, Taylor

__all__ = [
    "NM",
    "Anywhere",
    "Channel",
    "ErdosRenyi",
    "Factorized",
    "Global",
    "LayerAdaptive",
    "LowRank",
    "Magnitude",
    "MinMax",
    "PerRow",
    "Percentile",
    "PruneChannels",
    "PruneWeights",
    "PrunedChannels",
    "PrunedWeights",
    "Quantize",
    "Quantized",
    "Spatial",
    "SquaredError",
    "Taylor",
    "Uniform",
]
