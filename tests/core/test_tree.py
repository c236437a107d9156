"""What a network returns, as named tensors."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core.errors import NetworkError
from lessen.core.tree import judged, part_of, parts

A, B = torch.zeros(2, 3), torch.ones(2, 4)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Found:
    boxes: Tensor
    loss: Tensor | None = None
    levels: Any = field(default_factory=list)


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As in transformers: a mapping that also has attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (A, [""]),
        ((A, B), ["0", "1"]),
        ([A, (B, [A])], ["0", "1.0", "1.1.0"]),
        ({"boxes": A, "none": None, "n": 3, "what": "text"}, ["boxes"]),
        (Pair(A, {"x": B}), ["left", "right.x"]),
        (Found(A, levels=[A, B]), ["boxes", "levels.0", "levels.1"]),
        (ModelOutput(logits=A, hidden_states=(A, B)), ["logits", "hidden_states.0", "hidden_states.1"]),
        (SimpleNamespace(logits=A, _own=B, net=nn.Linear(2, 2)), ["logits"]),
        (nn.Linear(2, 2), []),
        (None, []),
    ],
)
def test_parts_have_stable_names(value: Any, names: list[str]) -> None:
    assert list(parts(value)) == names


def test_the_one_that_counts() -> None:
    assert judged(A) is A
    assert judged({"boxes": B, "logits": A}) is A
    assert judged((None, A)) is A
    assert judged((A, B), "1") is B
    assert judged(A, "anything") is A  # a file that gives one tensor
    with pytest.raises(NetworkError, match=r"0 \(2, 3\), 1 \(2, 4\).*output='0'"):
        judged((A, B))
    with pytest.raises(NetworkError, match="without a tensor"):
        judged({"x": None})
    with pytest.raises(NetworkError, match="no output 'boxs': did you mean 'boxes'"):
        part_of({"boxes": A, "scores": B}, "boxs")
