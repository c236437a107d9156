"""YAML to settings objects: what is made, and where every mistake is said to be."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import pytest
from pydantic import Field, PositiveInt

from lessen.core import settings
from lessen.core.errors import RecipeError
from lessen.core.hints import fitting, slots
from lessen.recipe.reader import Reader
from lessen.recipe.schema import schema_of


@runtime_checkable
class Sauce(Protocol):
    def pour(self, amount: float, /) -> float: ...


@runtime_checkable
class Taste(Protocol):
    draws: int

    def __call__(self, sweet_N: Any, sour_N: Any, /) -> Any: ...


@settings
class Tomato:
    ripe: Annotated[float, Field(ge=0, le=1)] = 1.0

    def pour(self, amount: float, /) -> float:
        return amount


@settings
class Cream:
    fat: PositiveInt
    with_: tuple[Sauce, ...] = ()

    def pour(self, amount: float, /) -> float:
        return amount


@settings
class Salad:
    """Looks like a sauce, but pours otherwise."""

    def pour(self, amount: float, where: str, /) -> float:
        return amount


@settings
class Mild:
    draws: ClassVar[int] = 2

    def __call__(self, sweet_NC: Any, sour_NC: Any, /) -> Any:
        return sweet_NC


@settings
class Bitter:
    draws: int = 3

    def __call__(self, bitter: Any, sour: Any, /) -> Any:
        return bitter


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@settings
class Oven:
    heat: PositiveInt = 200


@settings
class Pizza:
    """A pizza.

    Args:
        sauce: What goes on first,
            and thickly.
    """

    sauce: Sauce
    oven: Oven = Oven()
    size: Size = Size.SMALL
    cut: Literal[4, 8] = 8
    extras: tuple[str, ...] = ()
    spot: tuple[int, float] = (0, 0.0)
    taste: Taste | None = None
    notes: Mapping[str, Any] = Field(default_factory=dict)
    box: Path | None = None


KNOWN = {cls.__name__: cls for cls in (Tomato, Cream, Salad, Mild, Bitter, Oven, Pizza)}


def read(text: str, file: str = "here/p.yaml") -> Any:
    return Reader(text, Path(file), KNOWN).read(Pizza)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("sauce: Tomato", {"sauce": Tomato()}),
        ("sauce: {Tomato: }", {"sauce": Tomato()}),
        ("sauce: tomato", {"sauce": Tomato()}),
        ("sauce: Tomato\noven: {oven: {heat: 250}}", {"sauce": Tomato(), "oven": Oven(heat=250)}),
        ("sauce: {to_mato: {ripe: 0.5}}", {"sauce": Tomato(ripe=0.5)}),
        ("sauce: {Tomato: {ripe: 5e-1}}", {"sauce": Tomato(ripe=0.5)}),
        (
            "sauce: {Cream: {fat: 30, with_: [Tomato, {Cream: {fat: 1}}]}}",
            {"sauce": Cream(fat=30, with_=(Tomato(), Cream(fat=1)))},
        ),
        ("sauce: Tomato\noven: {heat: 250}", {"sauce": Tomato(), "oven": Oven(heat=250)}),
        ("sauce: Tomato\noven: {Oven: {heat: 250}}", {"sauce": Tomato(), "oven": Oven(heat=250)}),
        ("sauce: Tomato\nsize: large\ncut: 4", {"sauce": Tomato(), "size": Size.LARGE, "cut": 4}),
        ("sauce: Tomato\nextras: [Tomato, olives]", {"sauce": Tomato(), "extras": ("Tomato", "olives")}),
        ("sauce: Tomato\nspot: [3, 1e2]", {"sauce": Tomato(), "spot": (3, 100.0)}),
        ("sauce: Tomato\ntaste: Mild", {"sauce": Tomato(), "taste": Mild()}),
        ("sauce: Tomato\ntaste: null", {"sauce": Tomato()}),
        (
            "sauce: Tomato\nnotes: {a: {b: [1, two]}, rate: 1e-3}",
            {"sauce": Tomato(), "notes": {"a": {"b": [1, "two"]}, "rate": 0.001}},
        ),
        ("sauce: &s Tomato\nnotes: {again: *s}", {"sauce": Tomato(), "notes": {"again": "Tomato"}}),
        ("sauce: Tomato\nbox: /a/b", {"sauce": Tomato(), "box": Path("/a/b")}),
        ("sauce: Tomato\nbox: b", {"sauce": Tomato(), "box": Path.cwd() / "here" / "b"}),
    ],
)
def test_what_is_made(text: str, made: dict[str, Any]) -> None:
    assert read(text) == Pizza(**made)


@pytest.mark.parametrize(
    ("text", "line", "match"),
    [
        ("suace: Tomato", 1, "Pizza has no setting 'suace': did you mean 'sauce'"),
        ("sauce: Tomato\noven:\n  heta: 3", 3, "Oven has no setting 'heta': did you mean 'heat'"),
        ("sauce:\n  Cream:\n    fat: 3\n    with_:\n    - Tomato\n    - Tomato: {rip: 1}", 6, "did you mean 'ripe'"),
        ("sauce: Tomatoe", 1, "there is no 'Tomatoe': did you mean 'Tomato'"),
        ("sauce:\n  Tomatoe: {}", 2, "there is no 'Tomatoe': did you mean 'Tomato'"),
        ("sauce: Oven", 1, "Oven cannot be used here. Expected one of: Tomato, Cream"),
        ("sauce: Salad", 1, "Salad cannot be used here"),
        ("sauce: Tomato\ntaste: Bitter", 2, "Bitter cannot be used here. Expected one of: Mild"),
        ("sauce: Tomato\n\noven: {heat: -3}", 3, "Oven: heat: got -3, but it should be greater than 0"),
        ("sauce: Tomato\noven:\n  heat: warm", 3, "heat: got 'warm'"),
        ("sauce: Tomato\nsize: medium", 2, "size: got 'medium'"),
        ("sauce: Tomato\ncut: 5", 2, "cut: got 5"),
        ("sauce: Cream", 1, "Cream: fat is missing"),
        ("sauce:\n  Cream: {}", 2, "Cream: fat is missing"),
        ("oven: {heat: 3}", 1, "Pizza: sauce is missing"),
        ("sauce: Tomato\nsauce: Tomato", 2, "is given twice; the first is in line 1"),
        ("sauce: [Tomato]", 1, "one of Tomato, Cream was expected"),
        ("sauce: 3", 1, "got '3', but one of Tomato, Cream was expected"),
        ("sauce: null", 1, "one of Tomato, Cream was expected"),
        ("sauce: {}", 1, "one of Tomato, Cream was expected"),
        ("sauce: {Tomato: {}, Cream: {}}", 1, "one of Tomato, Cream was expected"),
        ("sauce: Tomato\nspot: [1, 2, 3]", 2, "spot: got"),
        ("- Tomato", 1, "needs its settings as"),
        ("sauce: [", 1, "not YAML"),
        ("sauce: Tomato\nnotes: !!python/object/apply:os.system ['true']", 2, "python/object"),
        ("sauce: Tomato\nnotes: {x: !!python/name:os.system }", 2, "python/name"),
        ("sauce: Tomato\ncut: !!int four", 2, "does not match its tag"),
    ],
)
def test_every_mistake_has_a_line(text: str, line: int, match: str) -> None:
    with pytest.raises(RecipeError, match=f"^here/p.yaml, line {line}: ") as caught:
        read(text)
    assert match in str(caught.value)


def test_an_empty_file_says_what_was_expected() -> None:
    with pytest.raises(RecipeError, match="is empty, but sauce"):
        read("# nothing\n")


def test_an_alias_inside_itself_is_named() -> None:
    with pytest.raises(RecipeError, match="alias"):
        read("sauce: Tomato\nnotes: {a: &a [*a]}")


def test_structure_tells_what_fits() -> None:
    assert list(fitting(Sauce, KNOWN)) == ["Tomato", "Cream"]
    assert list(fitting(Taste, KNOWN)) == ["Mild"]
    assert list(fitting(Oven, KNOWN)) == ["Oven"]
    assert slots(Pizza)["notes"].default == {}
    assert slots(Pizza)["sauce"].required


def test_the_schema_says_the_same() -> None:
    made = schema_of(Pizza, KNOWN)
    assert made["required"] == ["sauce"]
    assert made["properties"]["sauce"]["description"] == "What goes on first, and thickly."
    assert made["properties"]["size"] == {"enum": ["small", "large"], "default": "small"}
    assert made["properties"]["spot"]["prefixItems"] == [{"type": "integer"}, {"type": "number"}]
    assert made["$defs"]["Tomato"]["properties"]["ripe"] == {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 1.0,
    }
    assert made["$defs"]["Oven"]["properties"]["heat"]["exclusiveMinimum"] == 0
    assert set(made["$defs"]) == {"Tomato", "Cream", "Mild", "Oven"}
    assert {"const": "Tomato"} in made["properties"]["sauce"]["anyOf"]
    assert {"const": "Cream"} not in made["properties"]["sauce"]["anyOf"]
