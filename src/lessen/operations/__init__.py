"""Operations: each turns a network into a smaller one with the same inputs and outputs."""

from lessen.operations.allocation import Global, Uniform
from lessen.operations.prune_weights import PrunedWeights, PruneWeights
from lessen.operations.scores import Magnitude, Taylor

__all__ = [
    "Global",
    "Magnitude",
    "PruneWeights",
    "PrunedWeights",
    "Taylor",
    "Uniform",
]
