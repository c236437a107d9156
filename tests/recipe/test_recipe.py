"""Whole recipes: those that are shipped, their way to a file and back, and the schema that editors use."""

import functools
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import lessen
from lessen.core import Operation, encode
from lessen.core.documents import Loader
from lessen.core.errors import RecipeError
from lessen.core.hints import slots
from lessen.recipe import Recipe, as_data, methods, read_recipe, schema, shipped, write_recipe
from lessen.schemes import Scheme

ROOT = Path(lessen.__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


made_schema = functools.cache(schema)


def check(recipe: Path) -> None:
    data = yaml.load(recipe.read_text(), Loader)
    jsonschema.Draft202012Validator(made_schema()).validate(data)


def test_there_are_recipes_and_the_demo_is_one() -> None:
    assert {"digits"} <= {path.stem for path in RECIPES}
    assert shipped("digits").read_text() == (ROOT / "recipes" / "digits.yaml").read_text()
    with pytest.raises(RecipeError, match="'nothing'"):
        shipped("nothing")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_read_written_and_checked(path: Path, tmp_path: Path) -> None:
    check(path)
    made = read_recipe(path)
    assert all(isinstance(step, Operation | Scheme) for step in made.steps)
    write_recipe(made, tmp_path / "whole.yaml")
    assert read_recipe(tmp_path / "whole.yaml") == made
    check(tmp_path / "whole.yaml")
    assert as_data(made)["steps"] == [encode(step) for step in made.steps]
    assert set(yaml.safe_load((tmp_path / "whole.yaml").read_text())) == set(slots(Recipe))


@pytest.mark.parametrize(
    "text",
    [
        "sede: 1",
        "seed: -1",
        "seed: one",
        "steps: [Fit]",
        "steps: [{PruneChannels: {kep: 0.5}}]",
        "steps: [{PruneChannels: {keep: 2}}]",
        "steps: [{Offline: {knowledge: [{At: {objective: ForwardKL}}]}}]",
        "data: {Digits: {augment: Digits}}",
        "network: {}",
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(text: str, tmp_path: Path) -> None:
    good = yaml.safe_load("network: {build: 'zoo:mlp'}\ndata: Digits\nsteps: [PruneChannels]")
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(good))
    check(path)
    read_recipe(path)
    path.write_text(yaml.safe_dump({**good, **yaml.safe_load(text)}))
    with pytest.raises(jsonschema.ValidationError):
        check(path)
    with pytest.raises(RecipeError, match=r"r\.yaml, line \d"):
        read_recipe(path)


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert committed == made_schema(), "run: lessen schema --out docs/recipe.schema.json"
    jsonschema.Draft202012Validator.check_schema(committed)


def test_every_method_says_what_it_must() -> None:
    assert len(methods()) > 20
    for name, cls in methods().items():
        card = cls.card
        for part in (card.row, card.paper, card.says, card.costs, card.fails_when):
            assert part.strip(), name
        assert " / " in card.row, name


def test_networks_of_a_recipe_are_drawn_from_its_seed(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = (
        "network: {build: 'zoo:mlp'}\nstudent: {build: 'zoo:mlp', arguments: {hidden: [8]}}\ndata: Digits\nsteps: []\n"
    )
    path.write_text(text)
    network, student = read_recipe(path).networks()
    again, _ = read_recipe(path).networks()
    path.write_text(text + "seed: 1\n")
    other, _ = read_recipe(path).networks()
    weights = [n.head.weight for n in (network, again, other)]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()
    assert student.head.in_features == 8
