"""Pure tensor functions: the mathematics, without settings, networks or state."""

from lessen.functional.distances import cosine, euclidean, mean_absolute, mean_huber, mean_squared
from lessen.functional.divergences import forward_kl, jensen_shannon, reverse_kl, total_variation

__all__ = [
    "cosine",
    "euclidean",
    "forward_kl",
    "jensen_shannon",
    "mean_absolute",
    "mean_huber",
    "mean_squared",
    "reverse_kl",
    "total_variation",
]
