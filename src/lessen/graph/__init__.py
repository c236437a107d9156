"""Who teaches whom: nodes, edges, gates, schedules, stages, and the checks before the first step."""

from lessen.graph.cache import Cache, Stored
from lessen.graph.combine import Combine, Sum
from lessen.graph.edge import Edge, edge_names
from lessen.graph.flow import Flow, validate
from lessen.graph.gate import Correct, CutOff, Linear, SetGate, SmallestLoss, SoftmaxOfLosses, Through
from lessen.graph.head import LinearHead
from lessen.graph.members import FeatureGate, LearnedGate, Mean, MeanOf, Weighted
from lessen.graph.nodes import (
    Branch,
    Ensemble,
    Gradient,
    Labels,
    LargestOutput,
    Network,
    Node,
    OnPolicy,
    OtherData,
    Role,
    Snapshot,
    Variant,
    Writing,
)
from lessen.graph.nodes.reads import From, Input, Read
from lessen.graph.penalty import ActivationPenalty, BatchMoments, ConfidencePenalty
from lessen.graph.remote import Remote
from lessen.graph.stage import Fit, Graph, Precision, Stage
from lessen.graph.teacher_file import ByIndex, TeacherFile
from lessen.graph.turns import Turns
from lessen.graph.way import InputNoise, Way, WithDropout, WithoutLayers
from lessen.graph.when import LastEpoch, LastStep, MovingAverage
from lessen.optim.average import Average
from lessen.optim.distillation_oriented import DistillationOriented
from lessen.optim.optimizer import SGD, Adam, AdamW
from lessen.optim.rules import LayerRates, NoDecay, ParameterRule, Rule
from lessen.optim.schedule import Constant, Cosine, LinearWarmup, Schedule, Steps, Window
from lessen.optim.torch_optimizer import TorchOptimizer
from lessen.optim.torch_schedule import Per, TorchSchedule
from lessen.sparsify.contract import Sparsifier, Sparsify
from lessen.sparsify.gradual import Gradual
from lessen.sparsify.group_lasso import GroupLasso
from lessen.sparsify.movement import Movement
from lessen.sparsify.straight_through import StraightThrough

__all__ = [
    "SGD",
    "ActivationPenalty",
    "Adam",
    "AdamW",
    "Average",
    "BatchMoments",
    "Branch",
    "ByIndex",
    "Cache",
    "Combine",
    "ConfidencePenalty",
    "Constant",
    "Correct",
    "Cosine",
    "CutOff",
    "DistillationOriented",
    "Edge",
    "Ensemble",
    "FeatureGate",
    "Fit",
    "Flow",
    "From",
    "Gradient",
    "Gradual",
    "Graph",
    "GroupLasso",
    "Input",
    "InputNoise",
    "Labels",
    "LargestOutput",
    "LastEpoch",
    "LastStep",
    "LayerRates",
    "LearnedGate",
    "Linear",
    "LinearHead",
    "LinearWarmup",
    "Mean",
    "MeanOf",
    "Movement",
    "MovingAverage",
    "Network",
    "NoDecay",
    "Node",
    "OnPolicy",
    "OtherData",
    "ParameterRule",
    "Per",
    "Precision",
    "Read",
    "Remote",
    "Role",
    "Rule",
    "Schedule",
    "SetGate",
    "SmallestLoss",
    "Snapshot",
    "SoftmaxOfLosses",
    "Sparsifier",
    "Sparsify",
    "Stage",
    "Steps",
    "Stored",
    "StraightThrough",
    "Sum",
    "TeacherFile",
    "Through",
    "TorchOptimizer",
    "TorchSchedule",
    "Turns",
    "Variant",
    "Way",
    "Weighted",
    "Window",
    "WithDropout",
    "WithoutLayers",
    "Writing",
    "edge_names",
    "validate",
]
