"""Networks that return trees of tensors: every operation does to them what it does to those that return one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core.tree import parts
from lessen.testing.catalogue import LITTLE, Little, exported
from lessen.testing.networks import Example

OPERATIONS = exported()


@dataclass
class ModelOutput:
    """As transformers and detectors return."""

    logits: Tensor
    loss: Tensor | None = None
    others: tuple[Tensor, ...] = ()


class ReturnsDict(Little):
    def forward(self, x_NCHW: Tensor) -> Any:
        logits_NC = super().forward(x_NCHW)
        return {"twice": logits_NC * 2, "logits": logits_NC}


class ReturnsDataclass(Little):
    def forward(self, x_NCHW: Tensor) -> Any:
        logits_NC = super().forward(x_NCHW)
        return ModelOutput(logits=logits_NC, others=(logits_NC * 2,))


@pytest.mark.parametrize("kind", [ReturnsDict, ReturnsDataclass])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_to_a_tree_what_it_does_to_one_tensor(name: str, kind: Callable[[], nn.Module]) -> None:
    if name == "Mixed":
        pytest.skip("it adds up what all outputs lose, so it may choose otherwise")
    operation, example = OPERATIONS[name], Example(kind, LITTLE.shape, LITTLE.classes)
    wanted = operation.plan(LITTLE.build(), LITTLE.context()).apply(LITTLE.build()).eval()
    model = example.build()
    changed = operation.plan(model, example.context()).apply(model).eval()
    with torch.no_grad():
        came, left = model(example.inputs()), changed(example.inputs())
        expected = wanted(LITTLE.inputs())
    assert type(left) is type(came)
    found = parts(left)
    assert list(found) == list(parts(came))
    assert torch.equal(found["logits"], expected)
    assert torch.equal(next(value for key, value in found.items() if key != "logits"), expected * 2)


@pytest.mark.parametrize("kind", [ReturnsDict, ReturnsDataclass])
def test_widths_of_all_outputs_stay(kind: Callable[[], nn.Module]) -> None:
    """The features are an output here, so none of their channels may go."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x_NCHW: Tensor) -> Any:
            features = self.body(self.stem(x_NCHW).relu()).relu()
            found = (self.scores(features).mean((2, 3)), self.boxes(features).flatten(2))
            if kind is ReturnsDict:
                return {"logits": found[0], "boxes": found[1], "features": features}
            return ModelOutput(found[0], None, (found[1], features))

    example = Example(Detector, (2, 6, 6), 3)
    model = example.build()
    small = OPERATIONS["PruneChannels"].plan(model, example.context()).apply(model).eval()
    with torch.no_grad():
        before, after = parts(model(example.inputs())), parts(small(example.inputs()))
    assert {name: value.shape for name, value in after.items()} == {n: v.shape for n, v in before.items()}
    assert small.stem.out_channels < 8  # type: ignore[union-attr]
