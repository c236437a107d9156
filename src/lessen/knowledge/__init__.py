"""Knowledge: what one network can learn from another, as objectives; and the bridges between their shapes."""

from lessen.knowledge.attention_transfer import AttentionTransfer
from lessen.knowledge.bridges import (
    AutoBridge,
    ChannelBridge,
    PoolBridge,
    ResolutionBridge,
    TokenBridge,
    WidthBridge,
    bridge_for,
)
from lessen.knowledge.distances import AbsoluteDistance, CosineDistance, EuclideanDistance, SquaredDistance
from lessen.knowledge.divergences import ForwardKL, JensenShannon, ReverseKL, TotalVariation
from lessen.knowledge.hint import Hint
from lessen.knowledge.labels import CrossEntropy, Regression
from lessen.knowledge.logit_matching import LogitCosine, LogitMatching
from lessen.knowledge.soft_targets import SoftTargets

__all__ = [
    "AbsoluteDistance",
    "AttentionTransfer",
    "AutoBridge",
    "ChannelBridge",
    "CosineDistance",
    "CrossEntropy",
    "EuclideanDistance",
    "ForwardKL",
    "Hint",
    "JensenShannon",
    "LogitCosine",
    "LogitMatching",
    "PoolBridge",
    "Regression",
    "ResolutionBridge",
    "ReverseKL",
    "SoftTargets",
    "SquaredDistance",
    "TokenBridge",
    "TotalVariation",
    "WidthBridge",
    "bridge_for",
]
