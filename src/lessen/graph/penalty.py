"""Penalties: objectives that look at the target alone. Their edge has no source, and the teacher's side is None.

Confidence penalty: Pereyra et al., Regularizing neural networks by penalizing confident output distributions, ICLR 2017
workshop, arXiv:1701.06548, sections 3 and 3.1 (the hinge). Moments of batch norms: Yin et al., Dreaming to distill,
CVPR 2020, arXiv:1912.08795, equation 4.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core.card import Card
from lessen.core.settings import settings


@settings
class ActivationPenalty:
    """The mean absolute value of the activations: it makes them sparse.

    >>> import torch
    >>> ActivationPenalty()(torch.tensor([[1.0, -3.0], [0.0, 0.0]]), None)
    tensor([2., 0.])
    """

    alone: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="graph / penalties",
        paper="Glorot, Bordes & Bengio, AISTATS 2011, section 3.3",
        says="Few activations differ from zero.",
        costs="Nothing in the shipped model; one pass over the activations a step.",
        fails_when="The next layer undoes it: a batch norm that follows scales small activations up again.",
    )

    def __call__(self, value: Tensor, source: None = None, /) -> Tensor:
        del source
        return value.abs().flatten(1).mean(1)


@settings
class ConfidencePenalty:
    """The negative entropy (nats) of the softmax of the logits: it penalises overconfident outputs.

    Args:
        enough: The entropy, in nats, at and above which there is no penalty (the hinge of section 3.1). None: always
            penalise.

    >>> import torch
    >>> ConfidencePenalty()(torch.zeros(1, 4), None)
    tensor([-1.3863])
    """

    enough: Annotated[float, Field(ge=0)] | None = None

    alone: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="graph / penalties",
        paper="arXiv:1701.06548",
        says="Keeps the entropy of the outputs high.",
        costs="Nothing in the shipped model; one softmax a step.",
        fails_when="The teacher's targets are soft already: the entropy then comes from them.",
    )

    def __call__(self, logits_NC: Tensor, source: None = None, /) -> Tensor:
        del source
        logs_NC = logits_NC.log_softmax(1)
        entropy_N = -(logs_NC.exp() * logs_NC).flatten(1).sum(1)
        return -entropy_N if self.enough is None else (self.enough - entropy_N).clamp_min(0)


@settings
class BatchMoments:
    """How far the moments of a batch are from the running ones of a batch norm, at `Tap("norm", side="state")`.

    The distance between the means plus the distance between the variances, summed over the taps.

    >>> import torch
    >>> BatchMoments()((torch.tensor([[[3.0, 4.0], [1.0, 1.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])), None)
    tensor([5.])
    """

    alone: ClassVar[bool] = True
    relational: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="graph / penalties",
        paper="arXiv:1912.08795",
        says="Generated inputs give the network's inner layers the means and variances that its training data gave.",
        costs="Nothing in the shipped model; two moments for each batch norm that is tapped a step.",
        fails_when="The network has no batch norm with running statistics, or the batch is small.",
    )

    def __call__(self, value: tuple[Any, ...], source: None = None, /) -> Tensor:
        del source
        pairs = value if isinstance(value[0], tuple) else (value,)
        distances = [torch.linalg.vector_norm(batch - running, dim=2).sum(1) for batch, running in pairs]
        return torch.stack(distances).sum(0)
