"""Sparse training: how the weights of a network become zero while it learns."""

from lessen.sparsify.contract import Sparsifier, Sparsify
from lessen.sparsify.gradual import Gradual
from lessen.sparsify.group_lasso import GroupLasso
from lessen.sparsify.movement import Movement
from lessen.sparsify.straight_through import StraightThrough

__all__ = ["Gradual", "GroupLasso", "Movement", "Sparsifier", "Sparsify", "StraightThrough"]
