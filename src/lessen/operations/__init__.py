"""Operations: each turns a network into a smaller one with the same inputs and outputs."""

from lessen.operations.channel_scores.activation_width import ActivationWidth
from lessen.operations.channel_scores.batch_norm_scale import BatchNormScale
from lessen.operations.channel_scores.fisher import Fisher
from lessen.operations.channel_scores.geometric_median import GeometricMedian
from lessen.operations.half import BFloat16, Float16, Half, Halved
from lessen.operations.low_rank.factorization import Channel, Spatial
from lessen.operations.low_rank.operation import Factorized, LowRank
from lessen.operations.parts.allocation import ErdosRenyi, Global, LayerAdaptive, Uniform
from lessen.operations.parts.isomorphic import Isomorphic
from lessen.operations.parts.layer_bits import LayerBits
from lessen.operations.parts.pattern import NM, Anywhere, PerRow
from lessen.operations.parts.scores import Magnitude, Taylor
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
from lessen.operations.quantize import (
    AdaRound,
    Brecq,
    Entropy,
    FisherError,
    LearnedClip,
    LearnedStep,
    LearnedStepAndOffset,
    MeanMagnitude,
    MinMax,
    Mixed,
    OutputDivergence,
    Percentile,
    QDrop,
    Quantize,
    Quantized,
    QuantizedDynamically,
    QuantizeDynamic,
    SquaredError,
)
from lessen.operations.reinitialize import Reinitialize, Reinitialized
from lessen.operations.remove_blocks import RemoveBlocks, RemovedBlocks
from lessen.operations.rescale.equalize import Equalize
from lessen.operations.rescale.rescale import Rescaled
from lessen.operations.rescale.smooth import Smooth
from lessen.operations.search.knapsack import Knapsack
from lessen.operations.second_order import (
    Alps,
    ExactObs,
    PruneByReconstruction,
    Reconstructed,
    Smallest,
    SparseGpt,
    Wanda,
)
from lessen.operations.weight_only import Awq, Gptq, Hqq, Nearest, QuantizedWeights, QuantizeWeights

__all__ = [
    "NM",
    "ActivationWidth",
    "AdaRound",
    "Alps",
    "Anywhere",
    "Awq",
    "BFloat16",
    "BatchNormScale",
    "Brecq",
    "Chance",
    "Channel",
    "ConnectionSensitivity",
    "Entropy",
    "Equalize",
    "ErdosRenyi",
    "ExactObs",
    "Factorized",
    "Fisher",
    "FisherError",
    "Float16",
    "GeometricMedian",
    "Global",
    "Gptq",
    "GradientFlow",
    "Half",
    "Halved",
    "Hqq",
    "Isomorphic",
    "Knapsack",
    "LayerAdaptive",
    "LayerBits",
    "LearnedClip",
    "LearnedStep",
    "LearnedStepAndOffset",
    "LowRank",
    "Magnitude",
    "MeanMagnitude",
    "MinMax",
    "Mixed",
    "Nearest",
    "OutputDivergence",
    "PerRow",
    "Percentile",
    "PruneByReconstruction",
    "PruneChannels",
    "PruneWeights",
    "PrunedChannels",
    "PrunedWeights",
    "QDrop",
    "Quantize",
    "QuantizeDynamic",
    "QuantizeWeights",
    "Quantized",
    "QuantizedDynamically",
    "QuantizedWeights",
    "Reconstructed",
    "Reinitialize",
    "Reinitialized",
    "RemoveBlocks",
    "RemovedBlocks",
    "Rescaled",
    "Shuffled",
    "Smallest",
    "Smooth",
    "SparseGpt",
    "Spatial",
    "SquaredError",
    "SynapticFlow",
    "Taylor",
    "Uniform",
    "Wanda",
]
