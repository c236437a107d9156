"""Whole numbers instead of floating point: observe ranges, put a grid on every edge, compute as the runtime will."""

from lessen.operations.quantize.dynamic import QuantizedDynamically, QuantizeDynamic
from lessen.operations.quantize.learned import LearnedClip, LearnedStep, LearnedStepAndOffset
from lessen.operations.quantize.mixed import FisherError, Mixed, OutputDivergence
from lessen.operations.quantize.network import is_quantized
from lessen.operations.quantize.observers import Entropy, MeanMagnitude, MinMax, Percentile, SquaredError
from lessen.operations.quantize.operation import Quantize
from lessen.operations.quantize.plan import Quantized
from lessen.operations.quantize.rounding import AdaRound, Brecq, QDrop

__all__ = [
    "AdaRound",
    "Brecq",
    "Entropy",
    "FisherError",
    "LearnedClip",
    "LearnedStep",
    "LearnedStepAndOffset",
    "MeanMagnitude",
    "MinMax",
    "Mixed",
    "OutputDivergence",
    "Percentile",
    "QDrop",
    "Quantize",
    "QuantizeDynamic",
    "Quantized",
    "QuantizedDynamically",
    "SquaredError",
    "is_quantized",
]
