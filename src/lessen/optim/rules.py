"""Rules by path: parameters of one network that learn at rates, or decay by amounts, of their own.

Layer-wise rates: Clark et al., ELECTRA, ICLR 2020, arXiv:2003.10555; Bao et al., BEiT, ICLR 2022, arXiv:2106.08254.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator
from torch import nn

from lessen.core.errors import SettingError, did_you_mean
from lessen.core.settings import settings
from lessen.surgery.decay import OwnDecay

NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Own:
    """What one parameter has of its own.

    Args:
        rate_factor: What its learning rate is multiplied by; None: nothing is said of it.
        decay: Its weight decay; None: nothing is said of it.
    """

    rate_factor: float | None = None
    decay: float | None = None


@runtime_checkable
class ParameterRule(Protocol):
    """A settings object that gives some parameters a rate or a decay of their own.

    Of several rules, the last one that says something of a parameter's rate counts, and the last one that says
    something of its decay.
    """

    def own(self, parameters: Mapping[str, nn.Parameter], /) -> Mapping[str, Own]:
        """What each of some parameters, in the order of the network, has of its own; the others are left out.

        Raises:
            SettingError: the rule does not fit these parameters.
        """


@settings
class Rule:
    """Parameters by path, with a rate or a decay of their own.

    Args:
        paths: Paths of parameters ("head.weight") or of modules, with all that is in them ("head"), or patterns as
            "layer1.*" and "*.bias", in which `*` stands for anything. What learns with a network has its own names, as
            "bridge:*". Each must match something.
        rate_factor: What the learning rate is multiplied by; 0: they do not move. None: as other rules say.
        decay: The weight decay. None: as other rules say.
    """

    paths: str | tuple[str, ...]
    rate_factor: NotNegative | None = None
    decay: NotNegative | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rate_factor is None and self.decay is None:
            raise ValueError("it says nothing: give rate_factor, decay or both")
        return self

    def own(self, parameters: Mapping[str, nn.Parameter], /) -> Mapping[str, Own]:
        """See `ParameterRule`."""
        paths = (self.paths,) if isinstance(self.paths, str) else self.paths
        found = [_matching(path, parameters, f"Rule(paths={path!r})") for path in paths]
        return dict.fromkeys((name for names in found for name in names), Own(self.rate_factor, self.decay))


@settings
class NoDecay:
    """No weight decay for biases and for the weights of normalisations: all parameters with fewer than two axes."""

    def own(self, parameters: Mapping[str, nn.Parameter], /) -> Mapping[str, Own]:
        """See `ParameterRule`."""
        flat = [name for name, value in parameters.items() if value.ndim < 2 or _plain(name).endswith("bias")]
        return dict.fromkeys(flat, Own(decay=0.0))


@settings
class LayerRates:
    """Lower layers learn more slowly: each layer by `factor` more slowly than the one above it.

    Layers are the modules that are numbered ("blocks.0", "encoder.layer.11", "layer1"), of several such series the one
    with the most parameters. What comes before them in the network (embeddings) is one layer below them; what comes
    after them (the last norm, the head, bridges) learns at the full rate.

    Args:
        factor: From a layer to the one below it.
        layers: A path or pattern for each layer, from the lowest to the highest, as of `Rule.paths`, in place of the
            numbered ones; the highest, and what none matches, learns at the full rate.
    """

    factor: Annotated[float, Field(gt=0, le=1)] = 0.75
    layers: tuple[str, ...] = ()

    def own(self, parameters: Mapping[str, nn.Parameter], /) -> Mapping[str, Own]:
        """See `ParameterRule`."""
        depths = self._named(parameters) if self.layers else _numbered(list(parameters))
        top = len(self.layers) - 1 if self.layers else max(depths.values()) + 1
        return {name: Own(rate_factor=self.factor ** (top - depth)) for name, depth in depths.items()}

    def _named(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
        found = [_matching(path, parameters, f"LayerRates(layers={path!r})") for path in self.layers]
        return {name: depth for depth, names in reversed(list(enumerate(found))) for name in names}


def groups(
    parameters: Mapping[str, nn.Parameter], rules: Sequence[ParameterRule] = (), *, rate: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters as groups of a torch optimizer: those with a rate or a decay of their own apart from the others.

    Args:
        parameters: By name.
        rules: What some have of their own. The decay of an `OwnDecay` stays.
        rate: The learning rate of the others.

    Raises:
        SettingError: a rule matches nothing; the text names what is close.
    """
    said: dict[str, Own] = {}
    for rule in rules:
        for name, own in rule.own(parameters).items():
            before = said.get(name, Own())
            factor = before.rate_factor if own.rate_factor is None else own.rate_factor
            said[name] = Own(factor, before.decay if own.decay is None else own.decay)
    members: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        own = said.get(name, Own())
        decay = parameter.decay if isinstance(parameter, OwnDecay) else own.decay
        factor = 1.0 if own.rate_factor is None else own.rate_factor
        members.setdefault((decay is not None, decay or 0.0, factor), []).append(parameter)
    made = []
    for (has_decay, decay, factor), group in sorted(members.items(), key=lambda item: item[0]):
        more = {"weight_decay": decay} if has_decay else {}
        made.append({"params": group, **more, **({"lr": rate * factor} if factor != 1 else {})})
    return made


_FORM = re.compile(r"parametrizations\.([^.]+)\.original\d*$")


def _plain(name: str) -> str:
    """The name of a parameter as it was before it got a form (a mask, few bits).

    >>> _plain("head.parametrizations.weight.original")
    'head.weight'
    """
    return _FORM.sub(r"\1", name)


def _matching(path: str, names: Iterable[str], what: str) -> list[str]:
    """The parameters that a path means."""
    found = [
        name
        for name in names
        if any(its == path or its.startswith(f"{path}.") or fnmatchcase(its, path) for its in (name, _plain(name)))
    ]
    if not found:
        raise SettingError(f"{what} matches no parameter: {_close(path, names)}")
    return found


def _close(path: str, names: Iterable[str]) -> str:
    """What the path may have meant: parameters, modules, and patterns of all that is in a module."""
    names = [_plain(name) for name in names]
    parts = [name.split(".") for name in names]
    modules = list(dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part))))
    if path.endswith(".*"):
        return did_you_mean(path, [*(f"{module}.*" for module in modules), *names])
    return did_you_mean(path, [*modules, *names])


_NUMBER = re.compile(r"^(.*?)(\d+)$")


def _numbered(names: list[str]) -> dict[str, int]:
    """How deep parameters lie, by the series of numbered modules with the most of them; 0 is before its first."""
    series: dict[str, dict[str, int]] = {}
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts[:-1]):
            if ":" not in parts[0] and (found := _NUMBER.match(part)):
                series.setdefault(".".join([*parts[:place], found[1]]), {})[name] = int(found[2])
    series = {stem: found for stem, found in series.items() if len(set(found.values())) > 1}
    if not series:
        raise SettingError(
            "LayerRates finds no numbered layers in this network. Name them from the lowest to the highest: "
            f"LayerRates(layers=({', '.join(repr(n) for n in dict.fromkeys(n.split('.')[0] for n in names))}))."
        )
    chosen = max(series.values(), key=len)
    order = {number: depth for depth, number in enumerate(sorted(set(chosen.values())), start=1)}
    first = next(place for place, name in enumerate(names) if name in chosen)
    below = {name: 0 for name in names[:first] if name not in chosen}
    return below | {name: order[number] for name, number in chosen.items()}
