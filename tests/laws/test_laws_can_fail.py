"""Each law is seen to fail on a method that breaks it, and to hold on one that does not."""

import copy
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Card, Context, settings
from lessen.core.errors import ShapeError
from lessen.functional import jensen_shannon
from lessen.functional.shapes import require_same
from lessen.testing import EXAMPLES, End, Example, ObjectiveCase, ObjectiveLaws, OperationLaws

CARD = Card(row="tests / planted", paper="none", says="Breaks one law.", costs="None.", fails_when="Always.")
WRONG = ((torch.zeros(3, 4), torch.zeros(3, 5)),)


def broken(suite: ObjectiveLaws | OperationLaws, law: str, **arguments: Any) -> bool:
    """Whether a law of a suite fails."""
    method = getattr(suite, law)
    try:
        method(**arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError, pytest.fail.Exception):
        return True
    return False


def laws(suite: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(suite, inspect.isfunction) if name.startswith("test_")]


# Objectives


@settings
class Honest:
    """The mean squared difference: keeps every law."""

    card: ClassVar[Card] = CARD

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="Honest")
        return (student - teacher).square().mean(1)


@settings
class Averages(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher).mean()


@settings
class Overflows(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student.exp(), teacher.exp())


@settings
class NotZero(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher) + 0.1


@settings
class Negative(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return -super().__call__(student, teacher)


@settings
class Neighbours(Honest):
    """Compares with the next example, as a popular form of correlation congruence does."""

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student - student.roll(1, 0), teacher - teacher.roll(1, 0))


@settings
class ByPosition(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher) * (1 + torch.arange(len(student)))


@settings
class Relational(Honest):
    """Says that it needs the batch, and does not."""

    relational: ClassVar[bool] = True


@settings
class Detaches(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher.detach())


@settings
class Weighs(Honest):
    """Holds a weight constant that depends on the student."""

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher) * student.detach().square().mean(1)


@settings
class WeighsThrough(Honest):
    """The same weight, with its gradient."""

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher) * student.square().mean(1)


@settings
class Writes(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        with torch.no_grad():
            teacher.mul_(0.5)
        return super().__call__(student, teacher)


@settings
class Broadcasts(Honest):
    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return (student - teacher[:, :1]).square().mean(1)


@settings
class Hides(Honest):
    """A setting that is not in its name is lost in a file."""

    weight: float = 1.0

    def __repr__(self) -> str:
        return "Hides()"


class Draws(nn.Module):
    """A module whose copies compute something else."""

    card: ClassVar[Card] = CARD

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        require_same(student, teacher, what="Draws")
        return (student - teacher).square().mean(1) * torch.rand(())


@settings
class JumpsAtTheEnd(Honest):
    share: float = 0.5

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        logs = student.log_softmax(1), teacher.log_softmax(1)
        if self.share == 0.0:
            return jensen_shannon(*logs, share=0.0, normalize=True)
        return jensen_shannon(*logs, share=self.share)


@settings
class NotSmooth(Honest):
    """The length of the difference by hand: its gradient at zero is 0 / 0."""

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return super().__call__(student, teacher).sqrt()


def louder(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * student, 2 * teacher


def suite_of(objective: Any, **attributes: Any) -> ObjectiveLaws:
    class Suite(ObjectiveLaws):
        wrong = WRONG

        @classmethod
        def cases(cls) -> Iterable[ObjectiveCase]:
            yield ObjectiveCase(objective=objective, student=torch.randn(4, 5), teacher=torch.randn(4, 5))

    suite = Suite()
    for name, value in attributes.items():
        setattr(Suite, name, value)
    return suite


def fails(suite: ObjectiveLaws, law: str) -> bool:
    torch.manual_seed(0)
    wants = inspect.signature(getattr(suite, law)).parameters
    arguments: dict[str, Any] = {"case": next(iter(suite.cases()))} if "case" in wants else {}
    if "dtype" in wants:
        arguments["dtype"] = torch.float16
    return broken(suite, law, **arguments)


PLANTED = [
    (suite_of(Averages()), "test_one_finite_loss_for_each_example"),
    (suite_of(Overflows()), "test_half_precision_stays_finite"),
    (suite_of(NotSmooth()), "test_equal_taps_stay_finite"),
    (suite_of(NotZero()), "test_nothing_is_lost_at_equality_and_never_less"),
    (suite_of(Negative()), "test_nothing_is_lost_at_equality_and_never_less"),
    (suite_of(Neighbours()), "test_one_example_sees_another_only_if_relational"),
    (suite_of(Relational()), "test_one_example_sees_another_only_if_relational"),
    (suite_of(ByPosition()), "test_examples_may_come_in_any_order"),
    (suite_of(Detaches()), "test_gradients_are_right_on_both_sides"),
    (suite_of(Writes()), "test_taps_are_not_written_to"),
    (suite_of(Broadcasts()), "test_shapes_that_do_not_fit_are_named"),
    (suite_of(Hides(weight=2.0)), "test_it_survives_copying_and_files"),
    (suite_of(Draws()), "test_it_survives_copying_and_files"),
    (suite_of(Honest(), invariances=(louder,)), "test_what_must_not_matter_does_not"),
    (
        suite_of(JumpsAtTheEnd(), ends=(End(make=lambda value: JumpsAtTheEnd(share=value), end=0.0, inside=1e-5),)),
        "test_nothing_jumps_at_the_ends_of_settings",
    ),
    (suite_of(lambda student, teacher: student), "test_it_keeps_the_contract"),
]


@pytest.mark.parametrize(("suite", "law"), PLANTED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_objective_is_caught_by_the_law_about_it(suite: ObjectiveLaws, law: str) -> None:
    assert fails(suite, law)


def test_what_an_objective_holds_constant_must_be_declared_and_be_all_of_it() -> None:
    law = "test_gradients_are_right_on_both_sides"

    class Suite(ObjectiveLaws):
        held: Any = None
        objective: Any = Weighs()

        @classmethod
        def cases(cls) -> Iterable[ObjectiveCase]:
            sides = torch.randn(4, 5), torch.randn(4, 5)
            yield ObjectiveCase(objective=cls.objective, student=sides[0], teacher=sides[1], held=cls.held)

    def at(weight: Any) -> Any:
        return lambda student, teacher: lambda s, t: Honest()(s, t) * weight(student)

    assert fails(Suite(), law)
    Suite.held = staticmethod(at(lambda student: student.square().mean(1)))
    assert not fails(Suite(), law)
    Suite.held = staticmethod(at(lambda student: student.abs().mean(1)))
    assert fails(Suite(), law)
    # What is declared to be held is not: its gradient flows.
    Suite.objective = WeighsThrough()
    Suite.held = staticmethod(at(lambda student: student.square().mean(1)))
    assert fails(Suite(), law)


def test_an_honest_objective_passes_every_law() -> None:
    suite = suite_of(Honest())
    assert [law for law in laws(ObjectiveLaws) if fails(suite, law)] == []


def test_every_law_of_objectives_has_been_seen_to_fail() -> None:
    assert {law for _, law in PLANTED} == set(laws(ObjectiveLaws))


def test_the_error_must_name_both_shapes() -> None:
    class Suite(ObjectiveLaws):
        wrong = WRONG

        @classmethod
        def cases(cls) -> Iterable[ObjectiveCase]:
            def objective(student: Tensor, teacher: Tensor) -> Tensor:
                raise ShapeError("these shapes do not fit")

            yield ObjectiveCase(objective=objective, student=torch.randn(4, 5), teacher=torch.randn(4, 5))  # type: ignore[arg-type]

    assert broken(Suite(), "test_shapes_that_do_not_fit_are_named")


# Operations


@settings
class Scaled:
    """A plan: weights times a factor."""

    factor: float

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = copy.deepcopy(model)
        if values:
            with torch.no_grad():
                for weight in network.parameters():
                    weight.mul_(self.factor)
        return network

    def describe(self) -> list[dict[str, Any]]:
        return [{"module": "", "edit": "scale", "before": "1", "after": str(self.factor)}]


@settings
class Scale:
    """Scales every weight: keeps every law."""

    factor: float = 0.5
    card: ClassVar[Card] = CARD

    @classmethod
    def neutral(cls) -> Self:
        return cls(factor=1.0)

    def plan(self, model: nn.Module, context: Context) -> Any:
        return Scaled(factor=self.factor)


@settings
class NotAsDescribed(Scaled):
    def describe(self) -> list[dict[str, Any]]:
        return [{"module": "", "after": self.factor}]


@settings
class InPlace(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        model.train()
        return super().apply(model, values=values)


@settings
class SharesMemory(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        new = super().apply(model, values=values)
        first = next(iter(model.named_parameters()))
        dict(new.named_parameters())[first[0]].data = first[1].data
        return new


@settings
class Half(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = super().apply(model, values=values).bfloat16()
        network.register_forward_pre_hook(lambda _, args: (args[0].bfloat16(),))
        return network


@settings
class Unused(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = super().apply(model, values=values)
        network.register_parameter("unused", nn.Parameter(torch.zeros(3)))
        return network


@settings
class Larger(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = super().apply(model, values=values)
        network.register_buffer("ballast", torch.zeros(int(100 / self.factor)))
        return network


@settings
class GoesApart(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = super().apply(model, values=values)
        for parent in network.modules():
            for name, child in parent.named_children():
                setattr(parent, name, copy.deepcopy(child))
        return network


@settings
class ForgetsTheStructure(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = super().apply(model, values=values)
        if values:
            network.register_buffer("extra", torch.zeros(3))
        return network


class Otherwise(nn.Linear):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (1 if torch.compiler.is_exporting() else 0)


@settings
class ExportsOtherwise(Scaled):
    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = super().apply(model, values=values)
        for module in network.modules():
            if type(module) is nn.Linear:
                module.__class__ = Otherwise
        return network


def operation_of(plan: type) -> Any:
    @settings
    class Planted(Scale):
        @classmethod
        def neutral(cls) -> Self:
            return cls(factor=1.0)

        def plan(self, model: nn.Module, context: Context) -> Any:
            return plan(factor=self.factor)

    return Planted


@settings
class Unsteady(Scale):
    def plan(self, model: nn.Module, context: Context) -> Any:
        return Scaled(factor=float(torch.rand(())))


@settings
class NeverNeutral(Scale):
    @classmethod
    def neutral(cls) -> Self:
        return cls(factor=0.999)


def operations_suite(*tried: Any, plans: Iterable[type] = (Scaled,)) -> OperationLaws:
    class Suite(OperationLaws):
        settings = tried

        @classmethod
        def known(cls) -> dict[str, type]:
            return {each.__name__: each for each in [*plans, *map(type, tried)]}

    return Suite()


def planted(plan: type) -> OperationLaws:
    kind = operation_of(plan)
    return operations_suite(kind(factor=0.5), kind(factor=0.25), plans=(plan,))


def operation_fails(suite: OperationLaws, law: str, folder: Path, network: Example = EXAMPLES["shared"]) -> bool:
    wants = inspect.signature(getattr(suite, law)).parameters
    given = {"network": network, "operation": suite.settings[-1], "tmp_path": folder}
    return broken(suite, law, **{name: value for name, value in given.items() if name in wants})


PLANTED_OPERATIONS = [
    (planted(NotAsDescribed), "test_it_keeps_the_contract"),
    (operations_suite(NeverNeutral()), "test_neutral_keeps_the_outputs"),
    (operations_suite(Scale(factor=1.0)), "test_the_tightest_setting_changes_the_network"),
    (planted(InPlace), "test_the_network_that_came_in_is_unchanged"),
    (planted(SharesMemory), "test_the_network_that_came_in_is_unchanged"),
    (operations_suite(Unsteady()), "test_the_network_that_came_in_is_unchanged"),
    (operations_suite(Unsteady()), "test_the_same_seed_gives_the_same_network"),
    (planted(Half), "test_shapes_and_types_are_kept"),
    (planted(Unused), "test_every_remaining_parameter_gets_a_gradient"),
    (planted(Larger), "test_a_tighter_setting_never_writes_a_larger_file"),
    (planted(GoesApart), "test_what_was_shared_is_shared"),
    (planted(ForgetsTheStructure), "test_a_plan_is_data_that_is_replayed"),
    (planted(ExportsOtherwise), "test_the_exported_file_computes_the_same"),
]


@pytest.mark.parametrize(
    ("suite", "law"), PLANTED_OPERATIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_broken_operation_is_caught_by_the_law_about_it(suite: OperationLaws, law: str, tmp_path: Path) -> None:
    assert operation_fails(suite, law, tmp_path)


def test_an_honest_operation_passes_every_law(tmp_path: Path) -> None:
    suite = operations_suite(Scale(factor=0.5), Scale(factor=0.25))
    assert [law for law in laws(OperationLaws) if operation_fails(suite, law, tmp_path)] == []


def test_every_law_of_operations_has_been_seen_to_fail() -> None:
    assert {law for _, law in PLANTED_OPERATIONS} == set(laws(OperationLaws))
