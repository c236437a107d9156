"""Networks: small ones of our own, one architecture a file, and a door to those of others."""

from lessen.zoo.build import NETWORKS, SOURCES, Logits, build, is_own
from lessen.zoo.check import check_classes
from lessen.zoo.language_model import LanguageModel, language_model
from lessen.zoo.lenet import lenet5
from lessen.zoo.perceptron import mlp
from lessen.zoo.residual import ResidualNetwork, residual
from lessen.zoo.spec import Build, builds_in
from lessen.zoo.trained import teacher, teachers
from lessen.zoo.transformer import Transformer, transformer
from lessen.zoo.weights import load_tensors, load_weights, read_weights

__all__ = [
    "NETWORKS",
    "SOURCES",
    "Build",
    "LanguageModel",
    "Logits",
    "ResidualNetwork",
    "Transformer",
    "build",
    "builds_in",
    "check_classes",
    "is_own",
    "language_model",
    "lenet5",
    "load_tensors",
    "load_weights",
    "mlp",
    "read_weights",
    "residual",
    "teacher",
    "teachers",
    "transformer",
]
