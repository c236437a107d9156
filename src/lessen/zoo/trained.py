"""Networks that come trained, each with the recipe that trains it."""

from __future__ import annotations

import json
from importlib.resources import as_file, files

from torch import nn

from lessen.core.errors import NetworkError, WeightsError, did_you_mean
from lessen.zoo.build import build
from lessen.zoo.weights import load_weights


def teachers() -> dict[str, str]:
    """The names of the trained networks that lie in `zoo/weights`, each with the path of the recipe that trains it."""
    folder = files("lessen.zoo").joinpath("weights")
    found = [file for file in folder.iterdir() if file.name.endswith(".json")] if folder.is_dir() else []
    return {file.name.removesuffix(".json"): str(json.loads(file.read_text())["recipe"]) for file in found}


def teacher(name: str) -> nn.Module:
    """A trained network, in eval mode.

    `weights/NAME.safetensors` holds its tensors and `weights/NAME.json` says how to build it:
    `{"build": "zoo:residual", "arguments": {...}, "recipe": "recipes/..."}`.

    Raises:
        NetworkError: there is no trained network of this name.
        WeightsError: its file is missing or damaged.
    """
    known = teachers()
    if name not in known:
        raise NetworkError(f"There is no trained network {name!r}: {did_you_mean(name, known)}")
    folder = files("lessen.zoo").joinpath("weights")
    about = json.loads(folder.joinpath(f"{name}.json").read_text())
    weights = folder.joinpath(f"{name}.safetensors")
    if not weights.is_file():
        raise WeightsError(f"{weights} is missing; install lessen again, or train it with {about['recipe']}.")
    with as_file(weights) as path:
        return load_weights(build(about["build"], **about["arguments"]), path).eval()
