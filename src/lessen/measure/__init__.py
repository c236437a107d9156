"""Measures of a network or a file: size, cost, time, quality, agreement with its teacher.

Every metric is one function on tensors or on a module that works alone; `measure` calls them all and returns records.

Metrics: `bytes` (B), `parameters`, `nonzero_parameters`, `multiply_adds`, `peak_memory` (B), `latency` (ms),
`throughput` (examples/s), `speedup`, `cpu_time` (ms), `accuracy` (%), `nll` (nat), `calibration_error` (%),
`agreement` (%), `accuracy_change` (points), `kl_to_teacher` (nat), `mean_squared_error`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from lessen.core.estimate import Estimate
from lessen.functional.intervals import bootstrap, mean_with_interval, median_with_interval, wilson
from lessen.measure.evaluate import Outputs, evaluate, evaluating
from lessen.measure.kept import KeptOutputs
from lessen.measure.latency import Speed, throughput, time_networks
from lessen.measure.measure import measure
from lessen.measure.memory import peak_memory
from lessen.measure.multiply_adds import count_multiply_adds, multiply_adds_by_operator
from lessen.measure.quality import quality
from lessen.measure.size import count_nonzero_parameters, count_parameters, file_bytes, state_bytes
from lessen.measure.timing import interleave, pinned_threads
from lessen.measure.timings import Timings
from lessen.tasks.calibration import calibration_error
from lessen.tasks.classification import accuracy, nll
from lessen.tasks.fidelity import accuracy_change, agreement, kl_to_teacher
from lessen.tasks.figures import Figure
from lessen.tasks.regression import mean_squared_error

__all__ = [
    "Estimate",
    "Figure",
    "KeptOutputs",
    "Outputs",
    "Speed",
    "Timings",
    "accuracy",
    "accuracy_change",
    "agreement",
    "bootstrap",
    "calibration_error",
    "count_multiply_adds",
    "count_nonzero_parameters",
    "count_parameters",
    "evaluate",
    "evaluating",
    "file_bytes",
    "interleave",
    "kl_to_teacher",
    "mean_squared_error",
    "mean_with_interval",
    "measure",
    "median_with_interval",
    "multiply_adds_by_operator",
    "nll",
    "peak_memory",
    "pinned_threads",
    "quality",
    "state_bytes",
    "throughput",
    "time_networks",
    "wilson",
]


class _Callable(ModuleType):
    """Importing this package puts it in the place of the function `lessen.measure`, so it must act as that."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
