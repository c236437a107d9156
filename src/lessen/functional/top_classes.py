"""Two distributions restricted to the teacher's most probable classes.

Shapes: N examples, C classes along axis 1, K kept, any further axes are positions: (N, C, ...) to (N, K or K + 1, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_classes(
    student_log_NC: Tensor, teacher_log_NC: Tensor, *, count: int, rest: bool = True
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the teacher's `count` most probable classes, for both.

    Args:
        student_log_NC: Log-probabilities.
        teacher_log_NC: Log-probabilities.
        count: How many classes are kept; all of them where there are not more.
        rest: Whether all others become one class more; if not, what is kept is made to sum to one.

    >>> student, teacher = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.1, 0.2, 0.7]]).log()
    >>> top_classes(student, teacher, count=1)[0].exp()
    tensor([[0.2000, 0.8000]])
    """
    if count >= student_log_NC.shape[1]:
        return student_log_NC, teacher_log_NC
    chosen_NK = teacher_log_NC.topk(count, dim=1).indices

    def restrict(log_NC: Tensor) -> Tensor:
        kept_NK = log_NC.gather(1, chosen_NK)
        if not rest:
            return kept_NK.log_softmax(1)
        others = log_NC.scatter(1, chosen_NK, -torch.inf).logsumexp(1, keepdim=True)
        return torch.cat([kept_NK, others], 1)

    return restrict(student_log_NC), restrict(teacher_log_NC)
