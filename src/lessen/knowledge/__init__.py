"""Knowledge: what one network can learn from another, as objectives; and the bridges between their shapes."""

from lessen.knowledge.activation_boundary import ActivationBoundary
from lessen.knowledge.attention_relations import AttentionRelations, SelfRelations
from lessen.knowledge.attention_scores import AttentionScores
from lessen.knowledge.attention_transfer import AttentionTransfer
from lessen.knowledge.bottleneck import BottleneckBridge
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
from lessen.knowledge.channel_correlation import ChannelCorrelation
from lessen.knowledge.channel_distribution import ChannelDistribution
from lessen.knowledge.contrastive_representation import ContrastiveRepresentation
from lessen.knowledge.correlation_congruence import CorrelationCongruence
from lessen.knowledge.correlation_matching import CorrelationMatching
from lessen.knowledge.curriculum_temperature import CurriculumTemperature
from lessen.knowledge.decoupled import Decoupled
from lessen.knowledge.distances import (
    AbsoluteDistance,
    CosineDistance,
    EuclideanDistance,
    HuberDistance,
    LogSumDistance,
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
from lessen.knowledge.factor_transfer import FactorTransfer
from lessen.knowledge.fusion_bridge import FusionBridge
from lessen.knowledge.geometric_graph import GeometricGraph
from lessen.knowledge.hierarchical_context import HierarchicalContext
from lessen.knowledge.hint import Hint
from lessen.knowledge.holistic_knowledge import HolisticKnowledge
from lessen.knowledge.independent_targets import IndependentTargets, NumberTargets
from lessen.knowledge.instance_relationship_graph import InstanceRelationshipGraph
from lessen.knowledge.kernels import GaussianKernel, LinearKernel, PolynomialKernel
from lessen.knowledge.labels import CrossEntropy, Regression
from lessen.knowledge.logit_matching import LogitCosine, LogitMatching
from lessen.knowledge.masked_generation import MaskedGeneration
from lessen.knowledge.multi_head_graph import MultiHeadGraph
from lessen.knowledge.multi_level import MultiLevel
from lessen.knowledge.neuron_selectivity import NeuronSelectivity
from lessen.knowledge.norm_and_direction import NormAndDirection
from lessen.knowledge.normalized import Normalized
from lessen.knowledge.normalized_hint import NormalizedHint
from lessen.knowledge.normalizers import AsItIs, StandardizeChannels, StandardizePositions, UnitLength, Whiten
from lessen.knowledge.one_for_all import OneForAll
from lessen.knowledge.orthogonal import OrthogonalBridge
from lessen.knowledge.over_layers import OverLayers
from lessen.knowledge.over_tokens import OverTokens
from lessen.knowledge.overhaul import Overhaul
from lessen.knowledge.pairings import AsNamed, AttentionOverLayers, EarthMover, EvenlySpaced, LastLayers
from lessen.knowledge.probabilistic_transfer import ProbabilisticTransfer
from lessen.knowledge.refined_logits import RefinedLogits
from lessen.knowledge.relational_angle import RelationalAngle
from lessen.knowledge.relational_distance import RelationalDistance
from lessen.knowledge.similarity_attention import SimilarityAttention
from lessen.knowledge.similarity_preserving import SimilarityPreserving
from lessen.knowledge.singular_vectors import SingularVectors
from lessen.knowledge.soft_targets import SoftTargets
from lessen.knowledge.solution_flow import SolutionFlow
from lessen.knowledge.task_loss import TaskLoss
from lessen.knowledge.temperature import AnnealedTemperature
from lessen.knowledge.top_classes import TopClasses
from lessen.knowledge.transformed import Transformed
from lessen.knowledge.transformed_teacher import TransformedTeacher
from lessen.knowledge.transforms import StandardizeLogits, SwapLabel, TeacherPower, WithoutLabel
from lessen.knowledge.variational_information import VariationalInformation
from lessen.knowledge.wasserstein import ClassesInGroups, ClassesOnALine, CostMatrix, EveryMistakeAlike, Wasserstein
from lessen.knowledge.weighted_soft_labels import WeightedSoftLabels
from lessen.knowledge.zipf_labels import ZipfLabels

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
