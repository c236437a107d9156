"""The kinds of nodes, one file for each: settings, what computes it, checks, drawing."""

from lessen.graph.nodes.branch import Branch
from lessen.graph.nodes.ensemble import Ensemble
from lessen.graph.nodes.gradient import Gradient, LargestOutput
from lessen.graph.nodes.labels import Labels
from lessen.graph.nodes.network import Network
from lessen.graph.nodes.node import WHOLE, Node, find
from lessen.graph.nodes.on_policy import OnPolicy, Writing
from lessen.graph.nodes.other_data import OtherData
from lessen.graph.nodes.role import Role
from lessen.graph.nodes.snapshot import Snapshot
from lessen.graph.nodes.unit import Making, Now, Recorded, Unit
from lessen.graph.nodes.variant import Variant

__all__ = [
    "WHOLE",
    "Branch",
    "Ensemble",
    "Gradient",
    "Labels",
    "LargestOutput",
    "Making",
    "Network",
    "Node",
    "Now",
    "OnPolicy",
    "OtherData",
    "Recorded",
    "Role",
    "Snapshot",
    "Unit",
    "Variant",
    "Writing",
    "find",
]
