"""The one loop: run stages, keep checkpoints, use several processes, cache what does not change."""

from lessen.engine.history import History
from lessen.engine.run import Course, run
from lessen.engine.stopping import Stopped
from lessen.engine.track import MLflow, TensorBoard, Tracker
from lessen.engine.written import written_by

__all__ = ["Course", "History", "MLflow", "Stopped", "TensorBoard", "Tracker", "run", "written_by"]
