"""Knowledge: what one network can learn from another, as objectives; and the bridges between their shapes."""

from lessen.knowledge.axes.distances import (
    AbsoluteDistance,
    CosineDistance,
    EuclideanDistance,
    HuberDistance,
    LogSumDistance,
    SquaredDistance,
)
from lessen.knowledge.axes.divergences import (
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
from lessen.knowledge.axes.kernels import GaussianKernel, LinearKernel, PolynomialKernel
from lessen.knowledge.axes.normalizers import AsItIs, StandardizeChannels, StandardizePositions, UnitLength, Whiten
from lessen.knowledge.axes.pairings import AsNamed, AttentionOverLayers, EarthMover, EvenlySpaced, LastLayers
from lessen.knowledge.axes.similarity_attention import SimilarityAttention
from lessen.knowledge.axes.temperature import AnnealedTemperature
from lessen.knowledge.axes.top_classes import TopClasses
from lessen.knowledge.axes.transforms import StandardizeLogits, SwapLabel, TeacherPower, WithoutLabel
from lessen.knowledge.axes.wasserstein import (
    ClassesInGroups,
    ClassesOnALine,
    CostMatrix,
    EveryMistakeAlike,
    Wasserstein,
)
from lessen.knowledge.bridges.bottleneck import BottleneckBridge
from lessen.knowledge.bridges.bridges import (
    AttentionPoolBridge,
    AutoBridge,
    ChannelBridge,
    PoolBridge,
    ResolutionBridge,
    TokenBridge,
    WidthBridge,
    bridge_for,
)
from lessen.knowledge.bridges.fusion_bridge import FusionBridge
from lessen.knowledge.bridges.orthogonal import OrthogonalBridge
from lessen.knowledge.examples.contrastive_representation import ContrastiveRepresentation
from lessen.knowledge.examples.correlation_congruence import CorrelationCongruence
from lessen.knowledge.examples.geometric_graph import GeometricGraph
from lessen.knowledge.examples.holistic_knowledge import HolisticKnowledge
from lessen.knowledge.examples.instance_relationship_graph import InstanceRelationshipGraph
from lessen.knowledge.examples.probabilistic_transfer import ProbabilisticTransfer
from lessen.knowledge.examples.relational_angle import RelationalAngle
from lessen.knowledge.examples.relational_distance import RelationalDistance
from lessen.knowledge.examples.similarity_preserving import SimilarityPreserving
from lessen.knowledge.features.activation_boundary import ActivationBoundary
from lessen.knowledge.features.attention_transfer import AttentionTransfer
from lessen.knowledge.features.channel_correlation import ChannelCorrelation
from lessen.knowledge.features.channel_distribution import ChannelDistribution
from lessen.knowledge.features.factor_transfer import FactorTransfer
from lessen.knowledge.features.hierarchical_context import HierarchicalContext
from lessen.knowledge.features.hint import Hint
from lessen.knowledge.features.masked_generation import MaskedGeneration
from lessen.knowledge.features.neuron_selectivity import NeuronSelectivity
from lessen.knowledge.features.norm_and_direction import NormAndDirection
from lessen.knowledge.features.normalized_hint import NormalizedHint
from lessen.knowledge.features.one_for_all import OneForAll
from lessen.knowledge.features.overhaul import Overhaul
from lessen.knowledge.features.variational_information import VariationalInformation
from lessen.knowledge.labels.labels import CrossEntropy, Regression
from lessen.knowledge.labels.task_loss import TaskLoss
from lessen.knowledge.labels.zipf_labels import ZipfLabels
from lessen.knowledge.layers.attention_relations import AttentionRelations, SelfRelations
from lessen.knowledge.layers.attention_scores import AttentionScores
from lessen.knowledge.layers.multi_head_graph import MultiHeadGraph
from lessen.knowledge.layers.over_layers import OverLayers
from lessen.knowledge.layers.singular_vectors import SingularVectors
from lessen.knowledge.layers.solution_flow import SolutionFlow
from lessen.knowledge.logits.correlation_matching import CorrelationMatching
from lessen.knowledge.logits.curriculum_temperature import CurriculumTemperature
from lessen.knowledge.logits.decoupled import Decoupled
from lessen.knowledge.logits.independent_targets import IndependentTargets, NumberTargets
from lessen.knowledge.logits.logit_matching import LogitCosine, LogitMatching
from lessen.knowledge.logits.multi_level import MultiLevel
from lessen.knowledge.logits.normalized import Normalized
from lessen.knowledge.logits.refined_logits import RefinedLogits
from lessen.knowledge.logits.soft_targets import SoftTargets
from lessen.knowledge.logits.transformed import Transformed
from lessen.knowledge.logits.transformed_teacher import TransformedTeacher
from lessen.knowledge.logits.weighted_soft_labels import WeightedSoftLabels
from lessen.knowledge.sequences.over_tokens import OverTokens

__all__ = [
    "AbsoluteDistance",
    "ActivationBoundary",
    "AnnealedTemperature",
    "AsItIs",
    "AsNamed",
    "AttentionOverLayers",
    "AttentionPoolBridge",
    "AttentionRelations",
    "AttentionScores",
    "AttentionTransfer",
    "AutoBridge",
    "BottleneckBridge",
    "ChannelBridge",
    "ChannelCorrelation",
    "ChannelDistribution",
    "ClassesInGroups",
    "ClassesOnALine",
    "ContrastiveRepresentation",
    "CorrelationCongruence",
    "CorrelationMatching",
    "CosineDistance",
    "CostMatrix",
    "CrossEntropy",
    "CurriculumTemperature",
    "Decoupled",
    "EarthMover",
    "EuclideanDistance",
    "EvenlySpaced",
    "EveryMistakeAlike",
    "FactorTransfer",
    "ForwardKL",
    "FusionBridge",
    "GaussianKernel",
    "GeometricGraph",
    "Hellinger",
    "HierarchicalContext",
    "Hint",
    "HolisticKnowledge",
    "HuberDistance",
    "IndependentTargets",
    "InstanceRelationshipGraph",
    "JensenShannon",
    "LastLayers",
    "LinearKernel",
    "LogSumDistance",
    "LogitCosine",
    "LogitMatching",
    "MaskedGeneration",
    "MultiHeadGraph",
    "MultiLevel",
    "NeuronSelectivity",
    "NormAndDirection",
    "Normalized",
    "NormalizedHint",
    "NumberTargets",
    "OneForAll",
    "OrthogonalBridge",
    "OverLayers",
    "OverTokens",
    "Overhaul",
    "PolynomialKernel",
    "PoolBridge",
    "ProbabilisticTransfer",
    "ProbabilityCorrelation",
    "ProbabilityCosine",
    "RefinedLogits",
    "Regression",
    "RelationalAngle",
    "RelationalDistance",
    "Renyi",
    "ResolutionBridge",
    "ReverseKL",
    "SelfRelations",
    "SimilarityAttention",
    "SimilarityPreserving",
    "SingularVectors",
    "SkewedForwardKL",
    "SkewedReverseKL",
    "SoftTargets",
    "SolutionFlow",
    "SquaredDistance",
    "StandardizeChannels",
    "StandardizeLogits",
    "StandardizePositions",
    "SwapLabel",
    "TaskLoss",
    "TeacherPower",
    "TokenBridge",
    "TopClasses",
    "TotalVariation",
    "Transformed",
    "TransformedTeacher",
    "UnitLength",
    "VariationalInformation",
    "Wasserstein",
    "WeightedSoftLabels",
    "Whiten",
    "WidthBridge",
    "WithoutLabel",
    "ZipfLabels",
    "bridge_for",
]
