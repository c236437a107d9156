"""Flow of solution procedure: how features change between two layers, not what they are.

Yim et al., A gift from knowledge distillation: fast optimization, network minimization and transfer learning, CVPR
2017, section 3.

Shapes: N examples, C and D channels of the first and second layer, P positions (H * W of a map, or tokens).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.channels import by_channel
from lessen.functional.pairs import full_precision
from lessen.knowledge.axes.distances import Distance, SquaredDistance
from lessen.knowledge.layers.several import several


def flow_matrix(first: Tensor, second: Tensor, *, largest: bool = False) -> Tensor:
    """The mean over positions of the product of each channel of the first with each of the second: shape (N, C, D).

    Args:
        first: Maps or tokens.
        second: Maps or tokens; of two maps, the larger is brought to the size of the smaller.
        largest: Bring it there by the largest of each cell, rather than the mean.

    >>> import torch
    >>> flow_matrix(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2))
    tensor([[[1., 1., 1.],
             [1., 1., 1.]]])
    """
    if first.ndim == second.ndim == 4:
        size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
        pool = F.adaptive_max_pool2d if largest else F.adaptive_avg_pool2d
        first, second = (x if tuple(x.shape[2:]) == size else pool(x, size) for x in (first, second))
    first_NCP, second_NDP = by_channel(first), by_channel(second)
    with full_precision(first_NCP):
        return first_NCP @ second_NDP.transpose(1, 2) / first_NCP.shape[2]


@settings
class SolutionFlow:
    """Match the matrix of products between the channels of two layers, as `at(taps("layer1", "layer2"), ...)`.

    Both layers need as many channels in the student as in the teacher; the size of their maps is free.

    Args:
        distance: How two matrices are compared. `SquaredDistance()` is the mean over their entries.
        largest: If the two maps of one network differ in size, reduce the larger by max pooling, as in the paper;
            otherwise by average pooling.
    """

    distance: Distance = SquaredDistance()
    largest: bool = False

    card: ClassVar[Card] = Card(
        row="knowledge / between layers",
        paper="CVPR 2017 (Yim et al.; FSP)",
        says="The student's features change between two layers as the teacher's do.",
        costs="Nothing in the shipped model; a matrix product of the channels of two layers per example and step.",
        fails_when="The networks are of different families: published results fall below the plain student. In "
        "float16, products of activations beyond 200 overflow; use float32 taps then.",
        differs="The mean over the matrix, as in most released code, where the paper sums: the paper's weight must be "
        "multiplied by the number of entries. Trained together with other edges; the paper trains it first, "
        "which is two stages.",
    )

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        pairs = several(student, teacher, what="SolutionFlow", least=2, most=2, positions=True)
        matrices = [flow_matrix(first, second, largest=self.largest) for first, second in pairs]
        return self.distance(*matrices).to(student[0].dtype)
