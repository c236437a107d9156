"""Whole numbers instead of floating point: observe ranges, put a grid on every edge, compute as the runtime will."""

from lessen.operations.quantize.network import is_quantized
from lessen.operations.quantize.observers import MinMax, Percentile, SquaredError
from lessen.operations.quantize.operation import Quantize, Quantized

__all__ = ["MinMax", "Percentile", "Quantize", "Quantized", "SquaredError", "is_quantized"]
