"""The laws that every method keeps, as base classes for tests: of ours, and of yours. Needs pytest."""

from lessen.testing.networks import EXAMPLES, Example
from lessen.testing.objectives import End, ObjectiveCase, ObjectiveLaws, learned
from lessen.testing.operations import OperationLaws
from lessen.testing.schemes import SchemeLaws

__all__ = ["EXAMPLES", "End", "Example", "ObjectiveCase", "ObjectiveLaws", "OperationLaws", "SchemeLaws", "learned"]
