"""A recipe: the whole of a run as one settings object, read from a file that a person wrote."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import NonNegativeInt
from torch import nn

from lessen.core.contracts import Operation
from lessen.core.errors import RecipeError, SettingError
from lessen.core.files import read_text, write_text
from lessen.core.hints import settings_class, slots
from lessen.core.others import is_allowed, use
from lessen.core.seeds import derive
from lessen.core.settings import encode, settings
from lessen.data import Source
from lessen.deploy import Deploy
from lessen.engine import Tracker
from lessen.pipeline import Measuring, Targets
from lessen.recipe.catalogue import catalogue, known, words
from lessen.recipe.reader import Reader, plain_value
from lessen.recipe.schema import schema_of
from lessen.schemes import Scheme
from lessen.zoo import Build

LONGEST_FILE = 1 << 20
"""Bytes of a recipe; YAML is read at about 100 kB a second."""


@settings
class Recipe:
    """What is made smaller, with what data, in which steps, and what it must reach.

    Args:
        network: The network that is made smaller, and that teaches.
        data: What to learn from and to report on.
        steps: Operations and schemes, in order.
        train: Schemes that train the network first, where it comes without weights.
        student: Another network to start from; None starts from the network itself.
        targets: The budget; each is reported as met or missed.
        deploy: Which files are made, how they are verified and timed.
        measuring: How the network is measured after every step.
        seed: Of everything that is drawn.
        device: Where to train: "cpu", "cuda", "mps"; null: what accelerate finds.
        output: Which output of a network with several is compared with labels and teacher; null: `logits`, or the only
            one.
        task: What outputs and labels mean: "single_label", "multi_label", "binary", "dense", "regression", "language",
            "masked_language", "retrieval", "none"; null: guessed from labels and outputs.
        track: What gets parameters, logs and measurements as well, as [TensorBoard].
        use: Modules with methods from outside lessen, or names that installed packages give them (entry points of the
            group `lessen.methods`). To read the recipe executes them, so it must be allowed.
    """

    network: Build
    data: Source
    steps: tuple[Operation | Scheme, ...]
    train: tuple[Scheme, ...] = ()
    student: Build | None = None
    targets: Targets = Targets()
    deploy: Deploy = Deploy()
    measuring: Measuring = Measuring()
    seed: NonNegativeInt = 0
    device: str | None = None
    output: str | None = None
    task: str | None = None
    track: tuple[Tracker, ...] = ()
    use: tuple[str, ...] = ()

    def networks(self, *, weights: bool = True) -> tuple[nn.Module, nn.Module | None]:
        """The network and the student, if there is one.

        Args:
            weights: Whether to read the files with weights; a run that is resumed brings its own.
        """
        network = self.network.make(seed=derive(self.seed, "network"), weights=weights)
        if self.student is None:
            return network, None
        return network, self.student.make(seed=derive(self.seed, "student"), weights=weights)

    def arguments(self, *, weights: bool = True) -> dict[str, Any]:
        """What `lessen.compress` and `lessen.resume` are called with.

        Raises:
            LessenError: the data or a network cannot be had.
        """
        network, student = self.networks(weights=weights)
        plain = ("steps", "train", "targets", "deploy", "measuring", "seed", "device", "output", "task", "track")
        own = {name: getattr(self, name) for name in plain}
        return {"teacher": network, "student": student, "data": self.data.load(), **own}


def read_recipe(path: str | Path, *, allow_import: bool = False) -> Recipe:
    """The recipe in a YAML file.

    Args:
        path: The file.
        allow_import: Whether the modules that it names under `use` may be imported, which executes them.

    Raises:
        RecipeError: there is no such file, or a key, a class or a value in it is wrong; the text names the line. Or it
            uses a module that is not allowed.
    """
    path = Path(path)
    if path.suffix in {".py", ".ipynb"}:
        raise RecipeError(
            f"{path} is a Python program; run it with: python {path}. A recipe is a YAML file, as recipes/digits.yaml."
        )
    text = read_text(path, error=RecipeError, expected="a recipe, a YAML file", most=LONGEST_FILE)
    return parse_recipe(text, path, allow_import=allow_import)


def parse_recipe(text: str, source: Path, *, allow_import: bool) -> Recipe:
    """The recipe in a text.

    Args:
        text: The YAML.
        source: The file that it is from, or would be in.
        allow_import: As for `read_recipe`.

    Raises:
        RecipeError: as for `read_recipe`.
    """
    said = plain_value(text, str(source))
    names = said.get("use") if isinstance(said, Mapping) else None
    for name in [names] if isinstance(names, str) else names if isinstance(names, list) else []:
        if isinstance(name, str):
            _take(name, source, allow_import=allow_import)
    recipe: Recipe = Reader(text, source, known()).read(Recipe)
    return recipe


def _take(name: str, source: Path, *, allow_import: bool) -> None:
    """Import the module of others that a recipe uses, if that is allowed."""
    if is_allowed(name):
        return
    if not allow_import:
        raise RecipeError(
            f"{source} uses the methods of the module {name!r}, and to import it executes it. If you trust its author, "
            "allow it with --allow-import (in Python: allow_import=True, or lessen.use before)."
        )
    try:
        use(name)
    except SettingError as error:
        raise RecipeError(f"{source}: {error}") from error


def as_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, complete, with defaults filled in; `read_recipe` reads it back."""
    (fields,) = encode(recipe).values()
    return {name: _bare(value) if _is_plain(name) else value for name, value in fields.items()}


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe, complete, with defaults filled in."""
    write_text(Path(path), yaml.safe_dump(as_data(recipe), sort_keys=False, allow_unicode=True, width=120))


def schema() -> dict[str, Any]:
    """The JSON schema of recipes."""
    return schema_of(Recipe, {**catalogue(), **words()})


def _is_plain(name: str) -> bool:
    """Whether a field of a recipe can hold one class only, whose name then goes without saying."""
    from lessen.core.hints import leaves

    return any(settings_class(leaf) for leaf, _ in leaves(slots(Recipe)[name].hint))


def _bare(value: Any) -> Any:
    if isinstance(value, Mapping) and len(value) == 1:
        return next(iter(value.values()))
    return value


def shipped(name: str) -> Path:
    """The path of a recipe that comes with the installation.

    Raises:
        RecipeError: there is no such recipe.

    >>> shipped("digits").name
    'digits.yaml'
    """
    path = Path(str(files("lessen.recipe").joinpath("shipped", f"{name}.yaml")))
    if not path.is_file():
        raise RecipeError(f"No recipe {name!r} comes with the installation.")
    return path
