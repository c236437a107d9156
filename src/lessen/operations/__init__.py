"""Operations: each turns a network into a smaller one with the same inputs and outputs."""

from lessen.operations.allocation import ErdosRenyi, Global, LayerAdaptive, Uniform
from lessen.operations.factorization import Channel, Spatial
from lessen.operations.knapsack import Knapsack
from lessen.operations.low_rank import Factorized, LowRank
from lessen.operations.pattern import NM, Anywhere, PerRow
from lessen.operations.prune_channels import PruneChannels, PrunedChannels
from lessen.operations.prune_weights import (
    Chance,
    ConnectionSensitivity,
    GradientFlow,
    PrunedWeights,
    PruneWeights,
    Shuffled,
    SynapticFlow,
)
from lessen.operations.quantize import MinMax, Percentile, Quantize, Quantized, SquaredError
from lessen.operations.reinitialize import Reinitialize, Reinitialized
from lessen.operations.scores import Magnitude, Taylor
from lessen.operations.weight_only import Awq, Gptq, Hqq, Nearest, QuantizedWeights, QuantizeWeights

__all__ = [
    "NM",
    "Anywhere",
    "Awq",
    "Chance",
    "Channel",
    "ConnectionSensitivity",
    "ErdosRenyi",
    "Factorized",
    "Global",
    "Gptq",
    "GradientFlow",
    "Hqq",
    "Knapsack",
    "LayerAdaptive",
    "LowRank",
    "Magnitude",
    "MinMax",
    "Nearest",
    "PerRow",
    "Percentile",
    "PruneChannels",
    "PruneWeights",
    "PrunedChannels",
    "PrunedWeights",
    "Quantize",
    "QuantizeWeights",
    "Quantized",
    "QuantizedWeights",
    "Reinitialize",
    "Reinitialized",
    "Shuffled",
    "Spatial",
    "SquaredError",
    "SynapticFlow",
    "Taylor",
    "Uniform",
]
