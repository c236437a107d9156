"""Every objective of the catalogue is under the laws, in whichever file of tests/knowledge its suite stands."""

import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import torch

from lessen import knowledge
from lessen.core import Card, LearnedObjective, Objective
from lessen.testing import ObjectiveCase, ObjectiveLaws

SUITES = Path(__file__).parents[1] / "knowledge"

# What stands in these rows is a setting of objectives, not one; whatever stands in any other row must be one.
AXES = ("bridges", "costs", "distances", "divergences", "kernels", "normalizers", "pairings", "transforms")


def objectives() -> set[type]:
    offered = {getattr(knowledge, name) for name in knowledge.__all__}
    with_card = {thing for thing in offered if isinstance(getattr(thing, "card", None), Card)}
    return {thing for thing in with_card if thing.card.row.split(" / ")[1] not in AXES}


def modules() -> Iterator[ModuleType]:
    for file in sorted(SUITES.rglob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"catalogue_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def suites() -> list[type[ObjectiveLaws]]:
    things = [thing for module in modules() for thing in vars(module).values() if inspect.isclass(thing)]
    # pytest runs what is called Test, and nothing else.
    return [t for t in things if issubclass(t, ObjectiveLaws) and t.__name__.startswith("Test")]


def under_the_laws(cases: Iterable[ObjectiveCase]) -> set[type]:
    return {type(case.objective if case.made_by is None else case.made_by) for case in cases}


def test_every_objective_of_the_catalogue_is_under_the_laws() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cases = [(suite, case) for suite in suites() for case in suite.cases()]
    missing = objectives() - under_the_laws(case for _, case in cases)
    assert not missing, f"no suite in tests/knowledge has a case of {sorted(thing.__name__ for thing in missing)}"
    # Planted: without its suite, an objective is missed.
    rest = under_the_laws(case for suite, case in cases if suite.__name__ != "TestSoftTargets")
    assert knowledge.LogitMatching in rest
    assert knowledge.AttentionTransfer in rest
    assert knowledge.Regression in objectives()


def test_every_objective_can_be_had_by_its_name_alone() -> None:
    for thing in objectives():
        assert isinstance(thing(), Objective | LearnedObjective), f"{thing.__name__} is neither kind of objective"
