"""Direct features with state or random masks keep the laws of schemes: resumed, interleaved, and silent at weight 0."""

from typing import Any

import torch
from torch import nn

from lessen.core import ArrayExamples, Data
from lessen.graph import Fit
from lessen.knowledge import (
    AsNamed,
    AutoBridge,
    FusionBridge,
    HierarchicalContext,
    Hint,
    MaskedGeneration,
    NormalizedHint,
    NormAndDirection,
    OneForAll,
    OrthogonalBridge,
    Overhaul,
    OverLayers,
    SimilarityAttention,
    VariationalInformation,
)
from lessen.schemes import Offline, at, taps
from lessen.testing.schemes import SchemeLaws
from lessen.zoo import residual

FIT = Fit(batch=20, checkpoint_steps=3)
LAYERS = taps("layer2", "layer3")
GENERATED = at("layer3", MaskedGeneration(), bridge=AutoBridge())
REVIEW = at(LAYERS, OverLayers(objective=HierarchicalContext(), pairing=AsNamed(), bridge=None), bridge=FusionBridge())
SEMANTIC = at(LAYERS, OverLayers(objective=Hint(), pairing=SimilarityAttention(points=4, width=4)))


class TestVectors(SchemeLaws):
    schemes = (
        Offline(
            knowledge=(
                at("norm", Overhaul(), bridge=AutoBridge()),
                at("layer1", VariationalInformation(), bridge=AutoBridge()),
                at("layer1", NormalizedHint(), bridge=OrthogonalBridge()),
                at("layer2", NormAndDirection(), bridge=AutoBridge()),
                at(("layer1", ""), OneForAll(), bridge=AutoBridge()),
            ),
            epochs=2,
            fit=FIT,
        ),
    )


class TestMaps(SchemeLaws):
    schemes = (Offline(knowledge=(GENERATED, REVIEW, SEMANTIC), epochs=2, fit=FIT),)
    # Every layer of one is compared with every layer of the other: equal networks still differ between layers.
    test_a_teacher_equal_to_the_student_has_nothing_to_teach = None  # type: ignore[assignment]

    def cast(self) -> dict[str, Any]:
        return {"teacher": network(3), "student": network(2)}

    def data(self) -> Data:
        drawn = torch.Generator().manual_seed(0)
        parts = [torch.randn(count, 1, 4, 4, generator=drawn) for count in (80, 20, 20)]
        splits = [ArrayExamples(x, (x[:, 0, 0, 0] > 0).long()) for x in parts]
        return Data(train=splits[0], validation=splits[1], test=splits[2], classes=("no", "yes"), name="corners")


def network(width: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return residual(width=width, depth=8, classes=2)
