"""Factor transfer: the teacher's features are first paraphrased, then the paraphrase is taught.

Kim, Park & Kwak, Paraphrasing complex network: network compression via factor transfer, NeurIPS 2018,
arXiv:1802.04977, section 3.

Shapes: N examples, C channels of the teacher, S of the student, F of a factor, H x W positions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, TaskFacts, settings
from lessen.core.errors import ShapeError
from lessen.functional.channels import unit
from lessen.functional.distances import mean_squared
from lessen.functional.shapes import mismatch, wide
from lessen.knowledge.axes.distances import AbsoluteDistance, Distance
from lessen.knowledge.features.prepared import Prepared

_ADVICE = "Put bridge=ResolutionBridge() on the edge if grids differ, or tap feature maps."


def coder(channels: int, factors: int) -> nn.Sequential:
    """Three 3 x 3 convolutions with batch norm and leaky rectifiers, from `channels` to `factors` on the same grid."""
    return _layers(nn.Conv2d, (channels, channels, factors, factors))


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's maps; its middle layer gives the factor.

    Args:
        channels: Of the teacher's maps.
        factors: Channels in the middle.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = coder(channels, factors)
        self.decoder = _layers(nn.ConvTranspose2d, (factors, factors, channels, channels))

    def forward(self, teacher_NCHW: Tensor) -> Tensor:
        """The maps again, as far as the factors hold them."""
        made: Tensor = self.decoder(self.encoder(teacher_NCHW))
        return made


def factor_distance(student: Tensor, teacher: Tensor, *, distance: Distance) -> Tensor:
    """The distance between two factors, each flattened to a vector of length 1: shape (N,)."""
    return distance(unit(student.flatten(1), 1), unit(teacher.flatten(1), 1))


@settings
class FactorTransfer:
    """Match a compressed version (paraphrase) of the teacher's feature map, which an autoencoder learns first.

    A translator maps the student's features, with any number of channels, to the same form. In the first part of the
    stage the loss is the autoencoder's reconstruction error, and the student does not learn from this edge. The
    autoencoder is frozen after that.

    Args:
        share: Number of channels of the paraphrase, as a share of the teacher's channels.
        prepare: The share of the stage in which the paraphraser learns.
        distance: How two paraphrases of length 1 are compared. `AbsoluteDistance()` is the mean over their entries.
    """

    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    prepare: Annotated[float, Field(ge=0, lt=1)] = 0.2
    distance: Distance = AbsoluteDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / indirect features",
        paper="arXiv:1802.04977 (FT)",
        says="The student's translated features match the factors that the autoencoder extracts from the teacher's.",
        costs="Six convolutions for the teacher's map and three for the student's while training, nothing in the "
        "shipped model.",
        fails_when="The paraphraser has not learned: its factors are then noise. The student learns nothing from this "
        "edge in the first part of the stage, so leave enough time for the rest.",
        differs="The paraphraser learns in the first part of the same stage (`prepare`), by the target's optimizer and "
        "on the batches the student sees; the paper trains it beforehand. The loss is the mean of absolute "
        "differences, as in the authors' code; the paper sums them. Some code averages channels instead of "
        "paraphrasing them, which is attention transfer.",
    )

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        del task
        shapes = (student_shape, teacher_shape)
        if not all(len(shape) == 4 and all(isinstance(size, int) for size in shape) for shape in shapes) or (
            student_shape[2:] != teacher_shape[2:]
        ):
            raise ShapeError(
                "FactorTransfer needs maps (N, C, H, W) on the same grid, but the student has "
                f"{tuple(student_shape)} and the teacher {tuple(teacher_shape)}. {_ADVICE}"
            )
        return FactorTransferModule(self, student_shape[1], teacher_shape[1])


class FactorTransferModule(Prepared):
    """`FactorTransfer` for given channels.

    Args:
        settings: Of the objective.
        student: The student's channels.
        teacher: The teacher's.
    """

    card: ClassVar[Card] = FactorTransfer.card
    estimator: Paraphraser

    def __init__(self, settings: FactorTransfer, student: int, teacher: int) -> None:
        factors = max(1, round(settings.share * teacher))
        super().__init__(Paraphraser(teacher, factors), prepare=settings.prepare)
        self.translator = coder(student, factors)
        self.distance = settings.distance
        self.channels = (student, teacher)

    def preparation(self, teacher: Tensor) -> Tensor:
        """The mean squared error of the reconstruction."""
        again = wide(self.estimator(wide(teacher)))
        return mean_squared(again, wide(teacher)).to(teacher.dtype)

    def comparison(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance between translated student and paraphrased teacher."""
        fit = student.ndim == teacher.ndim == 4 and student.shape[::2] == teacher.shape[::2]
        if not fit or (student.shape[1], teacher.shape[1], student.shape[3]) != (*self.channels, teacher.shape[3]):
            raise mismatch(
                student,
                teacher,
                what="FactorTransfer",
                expected=f"maps of {self.channels[0]} and {self.channels[1]} channels on the same grid",
                advice=_ADVICE,
            )
        factors = wide(self.translator(wide(student))), wide(self.estimator.encoder(wide(teacher)))
        return factor_distance(*factors, distance=self.distance).to(student.dtype)


def _layers(kind: type[nn.Conv2d | nn.ConvTranspose2d], widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [kind(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
