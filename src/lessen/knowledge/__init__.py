"""Knowledge: what one network can learn from another, as objectives; and the bridges between their shapes."""

from lessen.knowledge.attention_transfer import AttentionTransfer
from lessen.knowledge.bridges import (
    AttentionPoolBridge,
    AutoBridge,
    ChannelBridge,
    PoolBridge,
    ResolutionBridge,
    TokenBridge,
    WidthBridge,
    bridge_for,
)
from lessen.knowledge.correlation_congruence import CorrelationCongruence
from lessen.knowledge.distances import (
    AbsoluteDistance,
    CosineDistance,
    EuclideanDistance,
    HuberDistance,
    SquaredDistance,
)
from lessen.knowledge.divergences import (
    ForwardKL,
    Hellinger,
    JensenShannon,
    ProbabilityCorrelation,
    ProbabilityCosine,
    Renyi,
    ReverseKL,
    SkewedForwardKL,
    SkewedReverseKL,
    TotalVariation,
)
from lessen.knowledge.fusion_bridge import FusionBridge
from lessen.knowledge.geometric_graph import GeometricGraph
from lessen.knowledge.hint import Hint
from lessen.knowledge.labels import CrossEntropy, Regression
from lessen.knowledge.logit_matching import LogitCosine, LogitMatching
from lessen.knowledge.over_layers import OverLayers
from lessen.knowledge.pairings import AsNamed, AttentionOverLayers, EarthMover, EvenlySpaced, LastLayers
from lessen.knowledge.probabilistic_transfer import ProbabilisticTransfer
from lessen.knowledge.relational_angle import RelationalAngle
from lessen.knowledge.relational_distance import RelationalDistance
from lessen.knowledge.similarity_preserving import SimilarityPreserving
from lessen.knowledge.soft_targets import SoftTargets
from lessen.knowledge.top_classes import TopClasses
from lessen.knowledge.wasserstein import ClassesInGroups, ClassesOnALine, CostMatrix, EveryMistakeAlike, Wasserstein

__all__ = [
    "AbsoluteDistance",
    "AsNamed",
    "AttentionOverLayers",
    "AttentionPoolBridge",
    "AttentionTransfer",
    "AutoBridge",
    "ChannelBridge",
    "ClassesInGroups",
    "ClassesOnALine",
    "CorrelationCongruence",
    "CosineDistance",
    "CostMatrix",
    "CrossEntropy",
    "EarthMover",
    "EuclideanDistance",
    "EvenlySpaced",
    "EveryMistakeAlike",
    "ForwardKL",
    "FusionBridge",
    "GeometricGraph",
    "Hellinger",
    "Hint",
    "HuberDistance",
    "JensenShannon",
    "LastLayers",
    "LogitCosine",
    "LogitMatching",
    "OverLayers",
    "PoolBridge",
    "ProbabilisticTransfer",
    "ProbabilityCorrelation",
    "ProbabilityCosine",
    "Regression",
    "RelationalAngle",
    "RelationalDistance",
    "Renyi",
    "ResolutionBridge",
    "ReverseKL",
    "SimilarityPreserving",
    "SkewedForwardKL",
    "SkewedReverseKL",
    "SoftTargets",
    "SquaredDistance",
    "TokenBridge",
    "TopClasses",
    "TotalVariation",
    "Wasserstein",
    "WidthBridge",
    "bridge_for",
]
