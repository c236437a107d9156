"""Recipes: YAML files that map one to one onto settings objects, and the catalogue of what they may name."""

from lessen.recipe.catalogue import about, catalogue, methods
from lessen.recipe.pages import pages, read_evidence, write_pages
from lessen.recipe.reader import plain_value
from lessen.recipe.recipe import Recipe, as_data, read_recipe, schema, shipped, write_recipe
from lessen.recipe.runs import check_imports, load, pack, read_run, resume
from lessen.recipe.sweeping import Sweep, is_sweep, resume_sweep, settings_of, sweep
from lessen.zoo import Build

__all__ = [
    "Build",
    "Recipe",
    "Sweep",
    "about",
    "as_data",
    "catalogue",
    "check_imports",
    "is_sweep",
    "load",
    "methods",
    "pack",
    "pages",
    "plain_value",
    "read_evidence",
    "read_recipe",
    "read_run",
    "resume",
    "resume_sweep",
    "schema",
    "settings_of",
    "shipped",
    "sweep",
    "write_pages",
    "write_recipe",
]
