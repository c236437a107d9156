"""Pruning of single weights: the ones that matter least become zero and stay zero."""

from lessen.operations.prune_weights.candidates import Weights, candidates, check_share, fitting
from lessen.operations.prune_weights.connection_sensitivity import ConnectionSensitivity
from lessen.operations.prune_weights.controls import Chance, Shuffled
from lessen.operations.prune_weights.gradient_flow import GradientFlow
from lessen.operations.prune_weights.operation import PruneWeights
from lessen.operations.prune_weights.plan import PrunedWeights, masks_of
from lessen.operations.prune_weights.scoring import NetworkScore
from lessen.operations.prune_weights.synaptic_flow import SynapticFlow

__all__ = [
    "Chance",
    "ConnectionSensitivity",
    "GradientFlow",
    "NetworkScore",
    "PruneWeights",
    "PrunedWeights",
    "Shuffled",
    "SynapticFlow",
    "Weights",
    "candidates",
    "check_share",
    "fitting",
    "masks_of",
]
