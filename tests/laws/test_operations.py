"""The laws of operations, on every operation of the catalogue."""

import inspect
from pathlib import Path

from torch import nn

from lessen import operations
from lessen.core import Operation
from lessen.deploy.export import export_onnx
from lessen.operations import (
    NM,
    Alps,
    ConnectionSensitivity,
    Equalize,
    Global,
    GradientFlow,
    Half,
    LayerAdaptive,
    LowRank,
    PerRow,
    PruneByReconstruction,
    PruneChannels,
    PruneWeights,
    Quantize,
    QuantizeDynamic,
    QuantizeWeights,
    Reinitialize,
    RemoveBlocks,
    Shuffled,
    Smooth,
    Spatial,
    SynapticFlow,
    Taylor,
)
from lessen.pipeline import pack
from lessen.testing import EXAMPLES, Example, OperationLaws
from lessen.testing.networks import Convolutions, Recurrent
from lessen.zoo import residual, transformer

FEW = {name: EXAMPLES[name] for name in ("convolutions", "perceptron")}


class TestPruneWeights(OperationLaws):
    settings = (PruneWeights(keep=0.8), PruneWeights(keep=0.3))


class TestPruneWeightsByTaylor(OperationLaws):
    networks = FEW
    settings = (PruneWeights(keep=0.5, score=Taylor(), allocation=Global()),)


class TestPruneWeightsInPatterns(OperationLaws):
    networks = {"perceptron": EXAMPLES["perceptron"]}
    settings = (PruneWeights(keep=0.75, pattern=NM(n=3, m=4)), PruneWeights(keep=0.4, pattern=PerRow()))


class TestPruneWeightsBeforeTraining(OperationLaws):
    networks = {"convolutions": EXAMPLES["convolutions"]}
    settings = (
        PruneWeights(keep=0.8, score=Shuffled(score=ConnectionSensitivity()), allocation=Global()),
        PruneWeights(keep=0.5, score=GradientFlow(), allocation=LayerAdaptive()),
        PruneWeights(keep=0.3, score=SynapticFlow(rounds=10), allocation=Global()),
    )


class TestPruneByReconstruction(OperationLaws):
    settings = (PruneByReconstruction(keep=0.8), PruneByReconstruction(keep=0.3, method=Alps(steps=30)))


class TestReinitialize(OperationLaws):
    networks = FEW
    settings = (Reinitialize(),)


class TestLowRank(OperationLaws):
    settings = (LowRank(rank=7), LowRank(rank=2))


class TestLowRankInSpace(OperationLaws):
    networks = FEW
    settings = (LowRank(ratio=0.6, scheme=Spatial()), LowRank(ratio=0.3, scheme=Spatial()))


class TestPruneChannels(OperationLaws):
    settings = (PruneChannels(keep=0.75), PruneChannels(keep=0.5))


class TestPruneChannelsByTaylor(OperationLaws):
    networks = FEW
    settings = (PruneChannels(parameters=0.6, score=Taylor(), allocation=Global()),)


class TestEqualize(OperationLaws):
    networks = {"convolutions": EXAMPLES["convolutions"]}
    settings = (Equalize(),)


class TestSmooth(OperationLaws):
    networks = {"transformer": Example(lambda: transformer(dim=16, depth=1, heads=2, image=8, patch=4), (1, 8, 8))}
    settings = (Smooth(),)

    def test_a_tighter_setting_never_writes_a_larger_file(self, network: Example, tmp_path: Path) -> None:
        """It makes nothing smaller, and adds the scales of its multiplications alone."""
        sizes, plan = [], Smooth().plan(network.build(), network.context())
        for operation in (Smooth.neutral(), Smooth(before=()), Smooth()):
            path = tmp_path / str(len(sizes))
            self.save(operation.plan(network.build(), network.context()).apply(network.build()), network, path)
            sizes.append(path.stat().st_size)
        assert sizes[1] <= sizes[0]
        numbers = sum(
            value.numel() for name, value in plan.apply(network.build()).state_dict().items() if "scale" in name
        )
        assert 0 < sizes[2] - sizes[0] <= 4 * numbers + 200 * len(plan.scaled)


class Packed:
    """The file whose size must not grow is the compressed one, which holds codes in their bits."""

    @classmethod
    def save(cls, model: nn.Module, network: Example, path: Path) -> None:
        """What is small is the compressed file."""
        del network
        pack(model, path)


class TestQuantizeWeights(Packed, OperationLaws):
    settings = (QuantizeWeights(bits=8, group=16), QuantizeWeights(bits=3, group=16))


class TestHalf(Packed, OperationLaws):
    settings = (Half(),)


class TestQuantizeDynamic(OperationLaws):
    networks = {"perceptron": EXAMPLES["perceptron"]}
    settings = (QuantizeDynamic(), QuantizeDynamic(weight_bits=4))


class TestPruneChannelsOfAGRU(OperationLaws):
    networks = {"recurrent": Example(lambda: Recurrent(nn.GRU), (2, 6))}
    settings = (PruneChannels(keep=0.75), PruneChannels(keep=0.25))


class TestQuantizeDynamicOfAnLSTM(OperationLaws):
    networks = {"recurrent": Example(Recurrent, (2, 6))}
    settings = (QuantizeDynamic(), QuantizeDynamic(weight_bits=4))
    export_error = 0.05  # the file rounds hidden states as well


class TestQuantize(OperationLaws):
    settings = (Quantize(), Quantize(weight_bits=4))
    # Wide enough for the weights to outweigh the names of the pairs in the file.
    networks = {"convolutions": Example(lambda: Convolutions(width=64), (3, 8, 8))}
    export_error = 0.05

    @classmethod
    def save(cls, model: nn.Module, network: Example, path: Path) -> None:
        """What is small is the file that runs."""
        export_onnx(model, network.inputs(), path)


class TestRemoveBlocks(OperationLaws):
    settings = (RemoveBlocks(keep=0.6), RemoveBlocks(keep=0.25))
    networks = {
        "residual": Example(lambda: residual(width=4, depth=14, channels=3), (3, 8, 8), 10),
        "encoder": Example(
            lambda: nn.Sequential(
                nn.Linear(6, 8),
                nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 3),
                nn.Flatten(),
                nn.Linear(56, 5),
            ),
            (7, 6),
        ),
    }


def test_every_operation_of_the_catalogue_is_under_the_laws() -> None:
    under = {
        type(setting)
        for suite in globals().values()
        if inspect.isclass(suite) and issubclass(suite, OperationLaws) and suite is not OperationLaws
        for setting in suite.settings
    }
    catalogue = [getattr(operations, name) for name in operations.__all__]
    assert {thing for thing in catalogue if inspect.isclass(thing) and isinstance(thing, Operation)} <= under
