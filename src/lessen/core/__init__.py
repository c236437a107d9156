"""The foundation of all other packages: contracts, data, records, settings, files, seeds, errors."""

from lessen.core.card import Card
from lessen.core.contracts import (
    Bridge,
    Clock,
    Context,
    LearnedObjective,
    Objective,
    ObjectiveInput,
    Operation,
    Plan,
    Times,
)
from lessen.core.data import ArrayExamples, Batch, Data, Examples, Inputs, SubsetExamples, TaskFacts, View
from lessen.core.errors import LessenError
from lessen.core.record import Record
from lessen.core.settings import decode, encode, settings, shared_settings
from lessen.core.where import Where, check_where, matches

__all__ = [
    "ArrayExamples",
    "Batch",
    "Bridge",
    "Card",
    "Clock",
    "Context",
    "Data",
    "Examples",
    "Inputs",
    "LearnedObjective",
    "LessenError",
    "Objective",
    "ObjectiveInput",
    "Operation",
    "Plan",
    "Record",
    "SubsetExamples",
    "TaskFacts",
    "Times",
    "View",
    "Where",
    "check_where",
    "decode",
    "encode",
    "matches",
    "settings",
    "shared_settings",
]
