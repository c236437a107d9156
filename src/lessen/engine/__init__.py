"""The one loop: run stages, keep checkpoints, use several processes, cache what does not change."""

from lessen.engine.history import History
from lessen.engine.run import Course, run
from lessen.engine.stopping import Stopped
from lessen.engine.track import MLflow, TensorBoard, Tracked, Tracker, Tracking
from lessen.engine.written import written_by

__all__ = [
    "Course",
    "History",
    "MLflow",
    "Stopped",
    "TensorBoard",
    "Tracked",
    "Tracker",
    "Tracking",
    "run",
    "written_by",
]
