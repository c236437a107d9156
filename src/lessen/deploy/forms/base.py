"""The contract of twins: how a stored form is written to a file that runs.

While a network is traced, a form computes with an operator of PyTorch of its own (`torch.library.custom_op`). Its twin
translates that operator to one of our ONNX domain (`lessen.deploy.constants.own_operator`), which no optimiser can
fold, and replaces it at the end by few-bit tensors and the operators that widen them. A form that computes with
operators of PyTorch alone needs no twin: its file is right, but what a runtime's optimiser folds takes 32 bits.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from lessen.core.errors import ExportError

if TYPE_CHECKING:
    from lessen.deploy.constants import Constants, Stored


class Twin:
    """How one stored form is written. Subclasses override what they need; every part has a default.

    Attributes:
        order: When `store` is called: forms that make weights (1) before those that round what is stored for them (2).
            The grids of a network come first (0).
    """

    order: ClassVar[int] = 1

    def translations(self) -> dict[Any, Callable[..., Any]]:
        """How PyTorch's exporter writes the operators: from `torch.ops.space.name.default` to a function."""
        return {}

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        """The operators in PyTorch's own, so that a `torch.export` program runs where lessen is not installed."""
        return {}

    def operators(self) -> dict[str, Stored]:
        """The operators of our ONNX domain: how each computes its values, and the bits of a number in the file."""
        return {}

    def store(self, constants: Constants) -> None:
        """Replace the operators of our domain by what is stored, in place."""

    def for_openvino(self, openvino: Any, model: Any) -> None:
        """Store what ONNX cannot store so small, in place.

        Args:
            openvino: The package.
            model: An `openvino.Model`, as it was read from a file of ours.
        """


_registered: dict[type[Twin], Twin] = {}


def register(twin: Twin) -> None:
    """Let exports write a form from outside lessen. Registering a class again replaces its twin."""
    _registered[type(twin)] = twin


def twins() -> list[Twin]:
    """All twins, in the order in which they store."""
    return sorted([*_own(), *_registered.values()], key=lambda twin: twin.order)


def joined(tables: Iterable[dict[Any, Any]]) -> dict[Any, Any]:
    """Several tables as one.

    Raises:
        ExportError: two of them have the same operator.
    """
    found: dict[Any, Any] = {}
    for table in tables:
        if both := found.keys() & table.keys():
            raise ExportError(f"Two twins write the operator {next(iter(both))}. Give yours another name.")
        found |= table
    return found


@functools.cache
def _own() -> tuple[Twin, ...]:
    """Those of this package: the `TWIN` of each of its modules that has one."""
    package = importlib.import_module("lessen.deploy.forms")
    names = sorted(each.name for each in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return tuple(module.TWIN for module in modules if hasattr(module, "TWIN"))
