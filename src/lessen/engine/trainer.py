"""Short trainings inside operations: a loss, some parameters, no graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lessen.core.errors import DivergedError, PlanError
from lessen.core.seeds import derive
from lessen.core.settings import settings
from lessen.core.training import ShortTraining
from lessen.engine.advice import SLOWER
from lessen.engine.home import Alone
from lessen.engine.moving import choose_kernels, move, rates_of
from lessen.graph.nodes.unit import seed_draws
from lessen.graph.stage import Precision


@settings
class EngineTrainer:
    """Trains for operations, with the backward pass and the optimizer step of all other training.

    Each process trains for itself. In a pipeline on several processes, operations run in the main one, which writes
    the network for the others.

    Args:
        precision: Of the forward pass. Parameters keep theirs.
    """

    precision: Precision = Precision.FULL

    def train(self, training: ShortTraining) -> None:
        """Change the parameters in place. Gradients that they had are dropped.

        Raises:
            DivergedError: the loss of a step is not finite.
            PlanError: no parameter learns, or the loss depends on none.
            SettingError: the device cannot compute in the precision.
        """
        subject, parameters = training.subject, list(training.parameters.values())
        if not any(parameter.requires_grad for parameter in parameters):
            raise PlanError(f"Training {subject}: nothing learns. Set requires_grad on at least one parameter.")
        home = Alone(training.device, self.precision)
        optimizer = training.optimizer.build(training.parameters)
        choose_kernels(optimizer, home.device)
        first = rates_of(optimizer)
        for parameter in parameters:
            parameter.grad = None
        for step in range(training.steps):
            factor = training.schedule(step / training.steps)
            with torch.enable_grad(), _drawing(derive(training.seed, step), home.device), home.autocast():
                loss = training.loss(step)
            if not loss.requires_grad:
                raise PlanError(f"Training {subject}: the loss does not depend on any parameter that learns.")
            if not bool(loss.isfinite()):
                raise DivergedError(
                    f"Training {subject}, step {step}: the loss is not a finite number.",
                    f"Try a lower rate ({training.optimizer.rate * SLOWER:.2g}, now {training.optimizer.rate:.2g}), or "
                    "look for NaN in the calibration examples.",
                )
            home.backward(loss)
            move(home.scaler, optimizer, parameters, rates=first, factor=factor)
            if home.scaler is not None:
                home.scaler.update()


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """A block that draws from torch's global generators under its own seed, and gives them back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        seed_draws(seed, device)
        yield
