"""Coupled axes: what goes when a channel goes."""

from lessen.surgery.coupling.analyse import Coupling, Group, Member, Number, analyse
from lessen.surgery.coupling.formula import Formula, keep_mask, kept_indices, owners, size

__all__ = ["Coupling", "Formula", "Group", "Member", "Number", "analyse", "keep_mask", "kept_indices", "owners", "size"]
