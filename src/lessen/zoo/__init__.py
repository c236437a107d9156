"""Networks: small ones of our own, one architecture a file, and a door to those of others."""

from lessen.zoo.lenet import lenet5
from lessen.zoo.perceptron import mlp
from lessen.zoo.residual import ResidualNetwork, residual
from lessen.zoo.transformer import Transformer, transformer

__all__ = ["ResidualNetwork", "Transformer", "lenet5", "mlp", "residual", "transformer"]
