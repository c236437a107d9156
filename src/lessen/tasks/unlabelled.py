"""No task on labels: networks are judged by how close they stay to the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lessen.core.errors import DataError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows


@settings
class Unlabelled:
    """Data without labels, or whose labels are not used: only the teacher teaches and judges.

    Args:
        meaning: What outputs are: how two networks are compared on them.
        class_axis: The axis with the classes, if `meaning` is CLASSES.
    """

    meaning: Meaning = Meaning.NUMBERS
    class_axis: int = 1

    name: ClassVar[str] = "none"

    @property
    def metrics(self) -> Sequence[Metric]:
        """None."""
        return ()

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Nothing is compared with labels."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Refused.

        Raises:
            DataError: always.
        """
        raise DataError("The task is 'none', so there is no loss on labels. Use labels=0, or name the task.")

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """Nothing."""
        return {}
