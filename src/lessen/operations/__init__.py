"""Operations: each turns a network into a smaller one with the same inputs and outputs."""

from lessen.operations.allocation import Global, Uniform
from lessen.operations.scores import Magnitude, Taylor

__all__ = [
    "Global",
    "Magnitude",
    "Taylor",
    "Uniform",
]
