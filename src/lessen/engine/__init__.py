"""The one loop: run stages, keep checkpoints, use several processes, cache what does not change."""

from lessen.engine.history import History
from lessen.engine.run import run

__all__ = ["History", "run"]
