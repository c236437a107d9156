"""What a search has found out so far, for a search that is interrupted and begun again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Trials(Protocol):
    """Answers of a search, in the order in which they were asked for."""

    def recall(self, question: Any, answer: Callable[[], Any], /) -> Any:
        """The answer that an interrupted run got to this question, or a new one, which is stored.

        A search that is begun again asks the same questions in the same order, as long as it draws from its own seed
        and gets the same answers. From the first other question on, what was stored is dropped.

        Args:
            question: JSON data that tells this question from others.
            answer: Finds the answer, JSON data.
        """
