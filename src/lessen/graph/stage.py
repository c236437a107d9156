"""A graph tells which nodes teach which; a stage tells for how long, and how the learning nodes are trained."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field
from torch import nn

from lessen.core.data import Data
from lessen.core.errors import SettingError
from lessen.core.ranges import Count
from lessen.core.settings import added, named_fields, settings
from lessen.graph.edge import Edge
from lessen.graph.gate import SetGate
from lessen.graph.nodes.node import Node
from lessen.graph.turns import Turns
from lessen.optim.average import Average
from lessen.optim.optimizer import SGD, Optimizer
from lessen.optim.schedule import Cosine, Schedule
from lessen.optim.torch_optimizer import no_torch_optimizer
from lessen.sparsify.contract import Sparsify


class Precision(enum.Enum):
    """The precision in which networks are computed. Weights keep their precision."""

    FULL = "no"
    FLOAT16 = "fp16"
    BFLOAT16 = "bf16"


@settings
class Fit:
    """How the learning nodes of a stage are trained, and what is kept.

    The defaults are for a network that has been made smaller and is taught again: with the norm of its gradient bounded
    and a warm-up, plain networks stay where larger losses would throw them out (`benchmarks/defaults`).

    Args:
        batch: Examples of one optimizer step, over all processes and all parts of an accumulation. Of each pass
            over the data the last, incomplete batch is left out; every pass has its own order.
        accumulate: In how many parts a batch is computed, one after another, to save memory.
        optimizer: For every learning node that has none of its own.
        schedule: Of the learning rate, for every learning node that has none of its own.
        clip: The largest norm of the gradient of one node; None: any.
        precision: In which precision networks and objectives are computed.
        channels_last: Whether images lie in memory pixel by pixel (N, H, W, C) while the stage runs; convolutional
            networks often train faster so, other networks are not touched by it.
        average: An average of each learning network over the steps, which takes its place wherever the network is
            looked at: on the validation split, as the best state, and at the end of the stage. None: none.
        validate_every: Epochs between two validations.
        validate_steps: Steps between two validations, in place of epochs; the stage ends with one as well.
        keep_best: Whether each learning network ends with its best state on the validation split.
        patience: The number of validations without improvement of any network that end the stage, or None.
        restarts: How often a stage whose loss is no longer a finite number goes back to its best state on the
            validation split, and on from there with a tenth of the learning rate; after that, it is an error.
        checkpoint_steps: Steps between two checkpoints; None: one at the end of every pass over the data.
        keep_checkpoints: How many checkpoints of the stage stay, the newest ones; with 1, only what is needed to
            resume. `engine.kept_checkpoints` reads them.
        sparsify: How the weights of every learning network that has no `sparsify` of its own become sparse during
            training.
        sync_batchnorm: With several processes, normalise over the whole batch instead of each process's part.
    """

    batch: Count = 128
    accumulate: Count = 1
    optimizer: Annotated[Optimizer, BeforeValidator(no_torch_optimizer)] = SGD()
    schedule: Schedule = Cosine(warmup=0.1)
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    precision: Precision = Precision.FULL
    channels_last: bool = False
    average: Average | None = None
    validate_every: Count = 1
    validate_steps: Count | None = None
    keep_best: bool = True
    patience: Count | None = None
    restarts: Annotated[int, Field(ge=0)] = 1
    checkpoint_steps: Count | None = None
    keep_checkpoints: Count = 1
    sparsify: Sparsify | None = None
    sync_batchnorm: bool = False

    elsewhere: ClassVar[Mapping[str, str]] = {
        name: f"it belongs to the optimizer: write Fit(optimizer=SGD({own}=...))."
        for name, own in {
            "rate": "rate", "lr": "rate", "learning_rate": "rate", "momentum": "momentum", "weight_decay": "decay",
            "decay": "decay",
        }.items()
    } | {
        "epochs": "it belongs to the scheme: write offline(..., epochs=...).",
        "batch_size": "did you mean 'batch'?",
    }  # fmt: skip


@named_fields
class Graph:
    """Nodes, and edges between them.

    Args:
        nodes: The nodes that teach and learn.
        edges: Who teaches whom.
        gates: Set gates, by the name that edges call them: each sees the losses of all edges that name it. None: none.
    """

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    gates: Mapping[str, SetGate] | None = added()

    def __post_init__(self) -> None:
        if self.gates is not None and not isinstance(self.gates, Mapping):
            raise SettingError(f"Graph: gates: got {self.gates!r:.80}, but set gates by name were expected.")


@named_fields
class Stage:
    """A graph and how long it runs: exactly one of `epochs` and `steps`.

    Args:
        name: For logs.
        graph: Who teaches whom.
        epochs: Passes over the training data, or None.
        steps: Optimizer steps, or None.
        fit: How the learning nodes are trained.
        data: What it learns from and is judged on. None: the data of the run.
        turns: Which learning nodes move at which step. None: all, at every step.
    """

    name: str
    graph: Graph
    epochs: int | None = None
    steps: int | None = None
    fit: Fit = field(default_factory=Fit)
    turns: Turns | None = added()
    data: Data | None = added()


def sparsified(stage: Stage) -> dict[str, tuple[Sparsify, nn.Module]]:
    """How each learning network becomes sparse, and the network, by the name of its node; a module once."""
    found: dict[str, tuple[Sparsify, nn.Module]] = {}
    for node in stage.graph.nodes:
        network = node.network
        if network is not None and node.can_learn():
            how = node.sparsify or stage.fit.sparsify
            if how is not None and all(network is not module for _, module in found.values()):
                found[node.name] = (how, network)
    return found
