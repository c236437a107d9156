"""Forms are asked; nobody outside their folders looks for the class of one. The sources are read."""

import ast
from pathlib import Path

import lessen
from lessen.operations.quantize.grids import Grid
from lessen.surgery.forms.base import Form, Holder


def asks_for_a_class(source: str) -> list[str]:
    """The forms, holders and grids that a source looks for with `isinstance` or `type(...) is`."""
    kinds = {each.__name__ for base in (Form, Holder, Grid) for each in (base, *below(base))} | {"WeightGrid"}
    asked: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"isinstance", "issubclass"}
        ):
            asked += node.args[1:]
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Call) and ast.unparse(node.left.func) == "type":
            asked += node.comparators
    names = [each.id if isinstance(each, ast.Name) else each.attr for part in asked for each in ast.walk(part)
             if isinstance(each, ast.Name | ast.Attribute)]  # fmt: skip
    return [name for name in names if name in kinds]


def below(kind: type) -> list[type]:
    return [each for child in kind.__subclasses__() for each in (child, *below(child))]


def test_forms_are_asked_and_not_looked_for() -> None:
    root = Path(lessen.__file__).parent
    found = {}
    for file in root.rglob("*.py"):
        where = file.relative_to(root).as_posix()
        if not where.startswith(("surgery/forms/", "deploy/forms/")):
            found[where] = asks_for_a_class(file.read_text(encoding="utf-8"))
    assert {where: names for where, names in found.items() if names} == {}


def test_a_look_for_a_form_would_be_seen() -> None:
    assert asks_for_a_class("isinstance(form, Mask | mask.Codes)") == ["Mask", "Codes"]
    assert asks_for_a_class("type(form) is Short") == ["Short"]
    assert asks_for_a_class("isinstance(module, nn.Linear)") == []
