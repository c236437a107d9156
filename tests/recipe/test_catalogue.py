"""A class is found by the type of the field that it is for: one name may mean two classes."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jsonschema
import pytest

from lessen.core import decode, encode, settings
from lessen.core.errors import RecipeError, SettingError
from lessen.core.hints import by_name, fitting, inside, slots
from lessen.core.settings import made_classes
from lessen.recipe.catalogue import catalogue
from lessen.recipe.reader import Reader
from lessen.recipe.schema import schema_of


@runtime_checkable
class Gate(Protocol):
    def open(self, losses: Any) -> Any: ...


@runtime_checkable
class Layer(Protocol):
    def build(self, width: int) -> Any: ...


def linear_gate() -> type:
    @settings
    class Linear:
        """A gate."""

        slope: float = 1.0

        def open(self, losses: Any) -> Any:
            return losses

    return Linear


def linear_layer(module: str) -> type:
    @settings
    class Linear:
        """A layer."""

        width: int = 3

        def build(self, width: int) -> Any:
            return width

    Linear.__module__ = module
    return Linear


LinearGate, LinearLayer, OtherLayer = linear_gate(), linear_layer("house.layers"), linear_layer("street.layers")


@settings
class House:
    """Has both.

    Args:
        gate: One.
        layers: Several.
        named: By name.
        best: A pair.
    """

    gate: Gate | None = None
    layers: tuple[Layer, ...] = ()
    named: dict[str, Layer] = field(default_factory=dict)
    best: tuple[Gate, Layer] | None = None


KNOWN = by_name([House, LinearGate, LinearLayer])
TEXT = """
gate: {Linear: {slope: 2}}
layers: [Linear, {Linear: {width: 5}}]
named: {first: {Linear: {width: 7}}}
best: [{Linear: {slope: 3}}, Linear]
"""
MADE = House(
    gate=LinearGate(slope=2),
    layers=(LinearLayer(), LinearLayer(width=5)),
    named={"first": LinearLayer(width=7)},
    best=(LinearGate(slope=3), LinearLayer()),
)


def test_a_recipe_means_the_class_that_fits() -> None:
    assert Reader(TEXT, Path("house.yaml"), KNOWN).read(House) == MADE


def test_data_is_decoded_to_the_class_that_fits() -> None:
    assert decode(encode(MADE), KNOWN) == MADE


def test_a_text_in_python_means_the_class_that_fits() -> None:
    assert House(gate="linear").gate == LinearGate()
    assert House(layers=["linear"]).layers in {(LinearLayer(),), (OtherLayer(),)}


def test_the_schema_tells_them_apart() -> None:
    schema = schema_of(House, KNOWN)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    assert check.is_valid({"gate": {"Linear": {"slope": 2}}, "layers": ["Linear", {"Linear": {"width": 5}}]})
    assert not check.is_valid({"gate": {"Linear": {"width": 2}}})
    assert not check.is_valid({"layers": [{"Linear": {"slope": 2}}]})


def test_two_in_one_place_are_told_apart_by_their_package() -> None:
    known = by_name([House, LinearLayer, OtherLayer])
    with pytest.raises(RecipeError, match=r"line 1: there are several Linear: write house\.layers\.Linear or street"):
        Reader("layers: [Linear]", Path("house.yaml"), known).read(House)
    made = Reader("layers: [street.layers.Linear]", Path("house.yaml"), known).read(House)
    assert type(made.layers[0]) is OtherLayer
    with pytest.raises(SettingError, match=r"There is no 'Linear': known are '(house|street)\.layers\.Linear'"):
        decode({"House": {"layers": [{"Linear": {}}]}}, known)
    check = jsonschema.Draft202012Validator(schema_of(House, known))
    assert check.is_valid({"layers": [{"street.layers.Linear": {}}]})
    assert not check.is_valid({"layers": ["Linear"]})


def test_no_two_classes_of_lessen_bear_one_name_in_one_place() -> None:
    """What `encode` writes, with a plain name, is read back everywhere."""
    places = 0
    for cls in catalogue().values():
        for slot in slots(cls).values():
            fits = inside(slot.hint, catalogue())
            places += bool(fits)
            assert all("." not in name for name in fits), (cls, slot.name)
    assert places > 100


def test_the_order_of_definition_means_nothing() -> None:
    assert {LinearGate, LinearLayer, OtherLayer} <= set(made_classes())
    assert set(fitting(Layer, by_name([LinearLayer, LinearGate]))) == {"Linear"}
    assert fitting(Layer, by_name([LinearLayer, LinearGate])) == fitting(Layer, by_name([LinearGate, LinearLayer]))
