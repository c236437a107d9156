"""The laws that every method keeps, as base classes for tests: of ours, and of yours. Needs pytest."""

from lessen.testing.objectives import End, ObjectiveCase, ObjectiveLaws

__all__ = ["End", "ObjectiveCase", "ObjectiveLaws"]
