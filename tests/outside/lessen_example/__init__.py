"""What recipes may name after `use: [example]`."""

from .data import Rings
from .node import Noisy
from .objective import CentredCosine
from .operation import Ternary, TernaryPlan
from .scheme import NoisyTeacher

__all__ = ["CentredCosine", "Noisy", "NoisyTeacher", "Rings", "Ternary", "TernaryPlan"]
