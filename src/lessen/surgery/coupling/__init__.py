"""Coupled axes: what goes when a channel goes."""

from lessen.surgery.coupling.analyse import Traced, analyse, coupling_of, traced
from lessen.surgery.coupling.formula import Formula, groups_of, is_formula, keep_mask, kept_indices, owners, size
from lessen.surgery.coupling.groups import Coupling, Group, Member, Number, multiply_adds, parameter_count

__all__ = [
    "Coupling",
    "Formula",
    "Group",
    "Member",
    "Number",
    "Traced",
    "analyse",
    "coupling_of",
    "groups_of",
    "is_formula",
    "keep_mask",
    "kept_indices",
    "multiply_adds",
    "owners",
    "parameter_count",
    "size",
    "traced",
]
