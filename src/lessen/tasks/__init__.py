"""Tasks: what outputs and labels mean, the loss on labels, and the figures by which networks are judged.

`guess` says which task labels and outputs belong to; `named` makes one by its name. Any object with the members of
`lessen.core.task.Task` is a task.
"""

from lessen.core.task import Meaning, Metric, Rows, Task, joined, rank
from lessen.tasks.calibration import calibration_error
from lessen.tasks.classification import accuracy, nll
from lessen.tasks.dense import Dense
from lessen.tasks.fidelity import accuracy_change, agreement, kl_to_teacher
from lessen.tasks.figures import Figure, change_figure, closeness_figures, task_figures
from lessen.tasks.guess import NAMES, Guess, guess, named, sample_labels
from lessen.tasks.judged import Judged, judged
from lessen.tasks.language import Language
from lessen.tasks.multi_label import Binary, MultiLabel
from lessen.tasks.quantities import Quantities
from lessen.tasks.regression import mean_squared_error
from lessen.tasks.retrieval import Retrieval
from lessen.tasks.single_label import SingleLabel
from lessen.tasks.unlabelled import Unlabelled

__all__ = [
    "NAMES",
    "Binary",
    "Dense",
    "Figure",
    "Guess",
    "Judged",
    "Language",
    "Meaning",
    "Metric",
    "MultiLabel",
    "Quantities",
    "Retrieval",
    "Rows",
    "SingleLabel",
    "Task",
    "Unlabelled",
    "accuracy",
    "accuracy_change",
    "agreement",
    "calibration_error",
    "change_figure",
    "closeness_figures",
    "guess",
    "joined",
    "judged",
    "kl_to_teacher",
    "mean_squared_error",
    "named",
    "nll",
    "rank",
    "sample_labels",
    "task_figures",
]
