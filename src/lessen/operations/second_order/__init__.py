"""Pruning that knows the inputs of each layer, and moves the weights that stay."""

from lessen.operations.second_order.alps import Alps
from lessen.operations.second_order.exact_obs import ExactObs
from lessen.operations.second_order.operation import PruneByReconstruction
from lessen.operations.second_order.plan import Reconstructed
from lessen.operations.second_order.smallest import Smallest
from lessen.operations.second_order.sparse_gpt import SparseGpt
from lessen.operations.second_order.wanda import Wanda

__all__ = ["Alps", "ExactObs", "PruneByReconstruction", "Reconstructed", "Smallest", "SparseGpt", "Wanda"]
