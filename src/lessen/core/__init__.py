"""What everything else stands on: contracts, data, records, settings, files, seeds, errors."""

from lessen.core.card import Card
from lessen.core.contracts import Bridge, Context, Objective, Operation, Plan
from lessen.core.data import ArrayExamples, Batch, Data, DatasetExamples, Examples, Inputs, SubsetExamples, View
from lessen.core.errors import LessenError
from lessen.core.record import Record
from lessen.core.settings import decode, encode, settings
from lessen.core.where import Where, matches, select

__all__ = [
    "ArrayExamples",
    "Batch",
    "Bridge",
    "Card",
    "Context",
    "Data",
    "DatasetExamples",
    "Examples",
    "Inputs",
    "LessenError",
    "Objective",
    "Operation",
    "Plan",
    "Record",
    "SubsetExamples",
    "View",
    "Where",
    "decode",
    "encode",
    "matches",
    "select",
    "settings",
]
