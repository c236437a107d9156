"""The laws of operations on every way to quantize; those of the plain way stand with the other operations."""

from pathlib import Path

from torch import nn

from lessen.deploy.export import export_onnx
from lessen.operations import Quantize
from lessen.operations.quantize import AdaRound, Brecq, LearnedClip, LearnedStepAndOffset
from lessen.testing import Example, OperationLaws
from lessen.testing.networks import Convolutions


class QuantizeLaws(OperationLaws):
    """On one network, wide enough for its weights to outweigh the names of the pairs in the file."""

    networks = {"convolutions": Example(lambda: Convolutions(width=48), (3, 8, 8))}
    export_error = 0.05

    @classmethod
    def save(cls, model: nn.Module, network: Example, path: Path) -> None:
        """What is small is the file that runs."""
        export_onnx(model, network.inputs(), path)


class TestLearnedClips(QuantizeLaws):
    settings = (Quantize(weight_bits=8, learned=LearnedClip()),)


class TestAdaRound(QuantizeLaws):
    settings = (Quantize(weight_bits=4, rounding=AdaRound(steps=20)),)


class TestBrecqWithLearnedSteps(QuantizeLaws):
    settings = (Quantize(weight_bits=4, rounding=Brecq(steps=10), learned=LearnedStepAndOffset()),)


del QuantizeLaws, OperationLaws
