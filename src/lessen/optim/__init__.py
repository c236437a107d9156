"""How weights move: optimizers, rules for some of them, schedules, averages over steps."""

from lessen.optim.average import Average
from lessen.optim.distillation_oriented import DistillationOriented
from lessen.optim.optimizer import SGD, Adam, AdamW, Optimizer
from lessen.optim.rules import LayerRates, NoDecay, ParameterRule, Rule
from lessen.optim.schedule import Constant, Cosine, LinearWarmup, Schedule, Steps, Window
from lessen.optim.torch_optimizer import TorchOptimizer
from lessen.optim.torch_schedule import Per, TorchSchedule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Average",
    "Constant",
    "Cosine",
    "DistillationOriented",
    "LayerRates",
    "LinearWarmup",
    "NoDecay",
    "Optimizer",
    "ParameterRule",
    "Per",
    "Rule",
    "Schedule",
    "Steps",
    "TorchOptimizer",
    "TorchSchedule",
    "Window",
]
