"""The one loop: run stages, keep checkpoints, use several processes, cache what does not change."""

from lessen.core.training import supply
from lessen.engine.history import History
from lessen.engine.kept import Kept, kept_checkpoints
from lessen.engine.run import Course, run
from lessen.engine.step_done import StepDone
from lessen.engine.stopping import Stopped
from lessen.engine.track import MLflow, TensorBoard, Tracked, Tracker, Tracking
from lessen.engine.trainer import EngineTrainer
from lessen.engine.written import written_by

__all__ = [
    "Course",
    "EngineTrainer",
    "History",
    "Kept",
    "MLflow",
    "StepDone",
    "Stopped",
    "TensorBoard",
    "Tracked",
    "Tracker",
    "Tracking",
    "kept_checkpoints",
    "run",
    "written_by",
]

supply(EngineTrainer())
