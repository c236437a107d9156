"""Weights in a few bits, activations as they are: ways to round, and the operation that uses them."""

from lessen.operations.weight_only.awq import Awq
from lessen.operations.weight_only.gptq import Gptq
from lessen.operations.weight_only.hqq import Hqq
from lessen.operations.weight_only.nearest import Nearest
from lessen.operations.weight_only.operation import QuantizeWeights
from lessen.operations.weight_only.plan import QuantizedWeights

__all__ = ["Awq", "Gptq", "Hqq", "Nearest", "QuantizeWeights", "QuantizedWeights"]
