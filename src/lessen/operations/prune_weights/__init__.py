"""Pruning of single weights: the ones that matter least become zero and stay zero."""

from lessen.operations.prune_weights.candidates import Weights, candidates, check_share, fitting
from lessen.operations.prune_weights.operation import PruneWeights
from lessen.operations.prune_weights.plan import PrunedWeights, masks_of

__all__ = ["PruneWeights", "PrunedWeights", "Weights", "candidates", "check_share", "fitting", "masks_of"]
