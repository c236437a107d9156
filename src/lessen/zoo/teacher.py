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
    found = {}
    for file in files("lessen.zoo").joinpath("weights").iterdir() if _has_weights() else ():
        if file.name.endswith(".json"):
            found[file.name.removesuffix(".json")] = str(json.loads(file.read_text())["recipe"])
    return dict(sorted(found.items()))


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


def _has_weights() -> bool:
    return files("lessen.zoo").joinpath("weights").is_dir()
