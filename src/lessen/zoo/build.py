"""One door for networks: ours, the reader's own, and those of timm, torchvision and transformers."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lessen.core.errors import LessenError, NetworkError, WeightsError, did_you_mean, need
from lessen.core.files import check_regular, read_json
from lessen.core.others import current_folder
from lessen.core.seeds import seeded
from lessen.zoo.language_model import language_model
from lessen.zoo.lenet import lenet5
from lessen.zoo.perceptron import mlp
from lessen.zoo.residual import residual
from lessen.zoo.transformer import transformer
from lessen.zoo.weights import load_weights

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    factory.__name__: factory for factory in (language_model, lenet5, mlp, residual, transformer)
}
"""Our own, by the name of the function that makes them."""

_FORMS = "'zoo:NAME', 'trained:NAME', 'timm:NAME', 'torchvision:NAME', 'transformers:NAME' or 'module:factory'"


def build(name: str, /, *, weights: str | Path | None = None, seed: int = 0, **arguments: Any) -> nn.Module:
    """A network by name. Nothing is downloaded: weights come from a file.

    Args:
        name: "zoo:residual", "trained:fashion_mnist" (see `teachers`), "timm:mobilenetv3_small_100",
            "torchvision:resnet18", "transformers:bert" (or the folder of a transformers configuration), or
            "package.module:factory" for a function or class of the reader's own.
        weights: A safetensors file, or a checkpoint of tensors and plain values; None leaves the weights as drawn.
        seed: For drawing the initial weights.
        arguments: What the factory is called with, as `width=32`.

    Raises:
        NetworkError: there is no such network, or it cannot be built from these arguments.
        WeightsError: the file cannot be read, is of another network, or would have to be executed.
        MissingExtraError: the package the network comes from is not installed.

    >>> type(build("zoo:residual", width=4, depth=8)).__name__
    'ResidualNetwork'
    >>> build("zoo:residul")
    Traceback (most recent call last):
    ...
    lessen.core.errors.NetworkError: There is no network 'residul' in zoo: did you mean 'residual'?
    """
    kind, colon, rest = name.partition(":")
    if not colon or not rest:
        hint = f" Name the function in it, as {name}:make." if name.endswith(".py") else ""
        raise NetworkError(f"{name!r} does not tell where the network comes from.{hint} Give {_FORMS}.")
    if weights is not None:
        check_regular(_expanded(weights), error=WeightsError, expected="a .safetensors file or of a checkpoint")
    with seeded(seed, "network", name):
        network = _MAKERS.get(kind, _own)(name if kind not in _MAKERS else rest, arguments)
    if weights is not None:
        load_weights(network.network if isinstance(network, Logits) else network, weights)
    return network


def is_own(name: str) -> bool:
    """Whether a name is `module:factory`, so that building the network runs a module of somebody's own.

    >>> is_own("zoo:residual"), is_own("my_networks:small")
    (False, True)
    """
    return name.partition(":")[0] not in _MAKERS


class Logits(nn.Module):
    """A network of transformers whose answer is its `logits` alone.

    Args:
        network: Returns an object with `logits`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named).logits


def _zoo(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    if name not in NETWORKS:
        raise NetworkError(f"There is no network {name!r} in zoo: {did_you_mean(name, NETWORKS)}")
    return _network(f"zoo:{name}", NETWORKS[name], arguments)


def _trained(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    from lessen.zoo.trained import teacher

    return _network(f"trained:{name}", lambda: teacher(name), arguments)


def _timm(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    timm = need("timm", "zoo")
    if not timm.is_model(name):
        raise NetworkError(f"There is no network {name!r} in timm: {did_you_mean(name, timm.list_models())}")
    _no_weights(f"timm:{name}", arguments, "pretrained", "checkpoint")
    return _network(f"timm:{name}", partial(timm.create_model, name), arguments)


def _torchvision(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    models = need("torchvision.models", "zoo")
    if name not in models.list_models():
        raise NetworkError(f"There is no network {name!r} in torchvision: {did_you_mean(name, models.list_models())}")
    _no_weights(f"torchvision:{name}", arguments, "pretrained", "weights")
    # Some take the weights of their backbone from the network unless they are told not to.
    backbone = {key: None for key in inspect.signature(models.get_model_builder(name)).parameters if "weights" in key}
    return _network(f"torchvision:{name}", partial(models.get_model, name, **backbone), arguments)


def _no_weights(name: str, arguments: Mapping[str, Any], *prefixes: str) -> None:
    for key, value in arguments.items():
        if key.startswith(prefixes) and value:
            raise NetworkError(f"{name}: lessen does not download. Give weights=FILE in place of {key}={value!r}.")


def _transformers(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    transformers = need("transformers", "zoo")
    folder = _expanded(name)
    for key in ("trust_remote_code", "local_files_only", "code_revision"):
        if key in arguments:
            raise NetworkError(
                f"transformers:{name}: lessen does not accept {key}=, because nothing is fetched or executed."
            )
    _no_kernels(f"transformers:{name}", arguments)
    if folder.exists():
        written = folder if folder.is_file() else folder / "config.json"
        _no_kernels(str(written), read_json(written, error=NetworkError))
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **arguments
            )
        except Exception as error:  # whatever a damaged configuration leads to
            raise NetworkError(f"{folder} is not a configuration of transformers ({_first(error)}).") from error
    else:
        known = sorted(transformers.CONFIG_MAPPING)
        if name not in known:
            raise NetworkError(
                f"There is no network {name!r} in transformers, and no such folder: {did_you_mean(name, known)} "
                "lessen does not download: give a model type, or the folder of a configuration."
            )
        config = _call(f"transformers:{name}", partial(transformers.AutoConfig.for_model, name), arguments)
    kind = transformers.AutoModelForImageClassification
    if type(config) not in kind._model_mapping:
        kind = transformers.AutoModelForSequenceClassification
    try:
        with _offline():
            return Logits(kind.from_config(config, trust_remote_code=False))
    except Exception as error:  # whatever a strange configuration leads to
        raise NetworkError(
            f"transformers has no classifier of type {config.model_type!r} ({_first(error)})."
        ) from error


def _no_kernels(source: str, settings: Any) -> None:
    """Refuse settings, at any depth, that name kernels: transformers takes them from the hub, and they are code."""
    waiting = [settings]
    while waiting:
        here = waiting.pop()
        for key, value in here.items() if isinstance(here, Mapping) else ():
            if str(key).strip("_").startswith(_KERNELS) and value not in (None, "eager", "sdpa"):
                raise NetworkError(
                    f"{source}: lessen does not accept {key}={value!r}, because nothing is fetched or executed."
                )
        waiting += here.values() if isinstance(here, Mapping) else here if isinstance(here, list | tuple) else ()


_KERNELS = ("attn_implementation", "experts_implementation")


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched from the hub in a block: configurations can name backbones that lie there."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _own(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    # The modules that it imports, now or when it is called, may lie in the same folder.
    with current_folder():
        return _imported(name, arguments)


def _module(place: str) -> str:
    """The name of a module; `./folder/mynet.py` is `folder.mynet`.

    Raises:
        NetworkError: it is a file that is not below the current folder.
    """
    if not place.endswith(".py") and "/" not in place and os.sep not in place:
        return place
    path = _expanded(place if place.endswith(".py") else f"{place}.py")
    here = Path.cwd()
    full = Path(os.path.normpath(here / path))
    if not full.is_file():
        raise NetworkError(f"There is no file {path} to take a network from. Give {_FORMS}.")
    if not full.is_relative_to(here):
        raise NetworkError(
            f"{path} is not below the current folder, {here}. Go to {full.parent}, and name {full.stem}."
        )
    parts = full.relative_to(here).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        raise NetworkError(f"{path} cannot be imported: {'.'.join(parts)} is no name of a module. Rename it.")
    return ".".join(parts)


def _imported(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    place, _, rest = name.rpartition(":")
    place, rest = _module(place), rest.strip().removesuffix("()")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
            raise NetworkError(
                f"{place} cannot be imported, because it imports {error.name}, which is missing."
            ) from error
        raise NetworkError(
            f"There is no module {place!r} to take {rest!r} from: {did_you_mean(place, _MAKERS)} "
            f"A network is {_FORMS}; a module of your own must be importable from the current folder."
        ) from error
    except Exception as error:  # it is somebody's code
        raise NetworkError(f"Module {place!r} cannot be imported: {type(error).__name__}: {_first(error)}") from error
    for part in rest.split("."):
        if not hasattr(found, part):
            names = [known for known in dir(found) if not known.startswith("_")]
            raise NetworkError(f"Module {place!r} has no {rest!r}: {did_you_mean(part, names)}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise NetworkError(
            f"{name} is a {type(found).__name__}, but a function or class that makes a network was expected."
        )
    return _network(name, found, arguments)


def _network(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    made = _call(name, factory, arguments)
    if not isinstance(made, nn.Module):
        raise NetworkError(
            f"{name} returned an object of type {type(made).__name__}, but a torch.nn.Module was expected."
        )
    return made


def _call(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a factory, and turn what goes wrong with the arguments into one sentence."""
    _fits(name, factory, arguments)
    try:
        return factory(**arguments)
    except LessenError:
        raise
    except Exception as error:  # it is somebody's code
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise NetworkError(f"{name} cannot be built from ({given}): {_first(error)}") from error


def _fits(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise NetworkError(f"{name} has no argument {key!r}: {did_you_mean(key, parameters)}")


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise NetworkError(f"{str(path)!r} begins with the home directory of a user that does not exist.") from error


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_MAKERS: Mapping[str, Callable[[str, Mapping[str, Any]], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "trained": _trained,
    "transformers": _transformers,
    "zoo": _zoo,
}

SOURCES = tuple(_MAKERS)
"""What a name can begin with; anything else is a module."""
