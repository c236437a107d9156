"""Pure tensor functions: the mathematics, without settings, networks or state."""

from lessen.functional.correlation import pearson
from lessen.functional.distances import cosine, euclidean, mean_absolute, mean_huber, mean_squared
from lessen.functional.divergences import (
    forward_kl,
    hellinger,
    jensen_shannon,
    probability_correlation,
    probability_cosine,
    renyi,
    reverse_kl,
    skewed_kl,
    total_variation,
)
from lessen.functional.top_classes import top_classes
from lessen.functional.transport import group_transport, line_transport, matrix_transport

__all__ = [
    "cosine",
    "euclidean",
    "forward_kl",
    "group_transport",
    "hellinger",
    "jensen_shannon",
    "line_transport",
    "matrix_transport",
    "mean_absolute",
    "mean_huber",
    "mean_squared",
    "pearson",
    "probability_correlation",
    "probability_cosine",
    "renyi",
    "reverse_kl",
    "skewed_kl",
    "top_classes",
    "total_variation",
]
