"""What an object is, told as JSON data that another process would tell alike: classes, settings, code, contents.

No memory address and nothing that depends on the process is in it, so a run can be resumed, and a cache read, by a
program that was started again. Two objects that are told alike behave alike as far as their settings and own code say;
what a library function does, or a remote teacher answers, is not looked at.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import re
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lessen.core.content import bytes_of, examples_digest
from lessen.core.examples import Examples

_DEEPEST = 24


def identify(value: object, *, moving: Collection[nn.Module] = ()) -> Any:
    """What `value` is, as JSON data.

    Dataclasses are told by all their fields, other objects by all their attributes, functions by their name, their
    byte code, their defaults and what they use of the code around them, tensors and examples by their contents. A
    module is told by its class, its weights and the plain settings of each of its parts; tensors that are no weights,
    None and empty containers are left out there, for they are what a module remembers of its last call.

    Args:
        value: Anything.
        moving: Modules whose weights are left out, since they move or come from somewhere else.

    >>> identify(functools.partial(round, ndigits=2)) == identify(functools.partial(round, ndigits=3))
    False
    """
    return _Teller({id(held) for module in moving for held in module.state_dict(keep_vars=True).values()}).tell(
        value, ""
    )


def identity(value: object, *, moving: Collection[nn.Module] = ()) -> str:
    """One number for what `identify` tells: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identify(value, moving=moving), sort_keys=True).encode()).hexdigest()


def differences(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """Where two such tellings differ: the path, and both values where they are short.

    >>> list(differences({"a": [1, 2]}, {"a": [1, 3]}))
    ['a.1: 2 and 3']
    """
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(key for key in two if key not in one)]:
            here = f"{path}.{key}" if path else str(key)
            yield from differences(one.get(key), two.get(key), here)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for number, (mine, other) in enumerate(zip(one, two, strict=True)):
            yield from differences(mine, other, f"{path}.{number}" if path else str(number))
    elif _without_module(one) != _without_module(two):
        yield f"{path}: {_short(one)} and {_short(two)}"


def _without_module(value: Any) -> Any:
    """The name of something of lessen without its module, which earlier versions told as well.

    >>> _without_module("lessen.graph.optimizer.SGD")
    'lessen.SGD'
    """
    return _OWN.sub("lessen.", value) if isinstance(value, str) else value


_OWN = re.compile(r"^lessen\.(?:[a-z_0-9]+\.)+(?=\w+(?:\.|$))")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


class _Teller:
    """One walk over an object and all it holds; `moving` are the identities of tensors that are told by shape alone."""

    def __init__(self, moving: set[int]) -> None:
        self._moving = moving
        self._open: set[int] = set()
        self._modules: dict[int, str] = {}

    def tell(self, value: Any, path: str) -> Any:
        """What a value is; `path` is where in the whole it was found."""
        if value is None or (isinstance(value, bool | int | str) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else f"float {value}"
        if id(value) in self._open or len(self._open) > _DEEPEST:
            return {"again": _name(type(value))}
        self._open.add(id(value))
        try:
            return self._tell(value, path)
        finally:
            self._open.discard(id(value))

    def _tell(self, value: Any, path: str) -> Any:
        if isinstance(value, enum.Enum):
            return f"{_name(type(value))}.{value.name}"
        if isinstance(value, Path | complex | torch.dtype | torch.device | torch.Size | np.dtype | range | slice):
            return str(value)
        if isinstance(value, bytes | bytearray):
            return hashlib.sha256(value).hexdigest()
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value), path)
        if isinstance(value, nn.Module):
            return self._module(value, path)
        if isinstance(value, Mapping):
            pairs = [(self._key(key, path), self.tell(item, f"{path}.{key}")) for key, item in value.items()]
            return dict(sorted(pairs, key=lambda pair: pair[0]))
        if isinstance(value, list | tuple):
            return [self.tell(item, f"{path}.{number}") for number, item in enumerate(value)]
        if isinstance(value, Set):
            return sorted((self.tell(item, path) for item in value), key=lambda told: json.dumps(told, sort_keys=True))
        if isinstance(value, types.BuiltinFunctionType) and not isinstance(value.__self__, types.ModuleType | None):
            return {"method": _name(value), "of": self.tell(value.__self__, path)}
        if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            return _name(value)
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            return self._function(value, path)
        if isinstance(value, Examples):
            return {"examples": len(value), "content": examples_digest(value)}
        return self._object(value, path)

    def _key(self, key: Any, path: str) -> str:
        return key if isinstance(key, str) else json.dumps(self.tell(key, path), sort_keys=True)

    def _tensor(self, value: Tensor) -> list[Any]:
        about = [list(value.shape), str(value.dtype)]
        return about if value.is_meta else [*about, hashlib.sha256(bytes_of(value).data).hexdigest()]

    def _array(self, value: np.ndarray[Any, Any], path: str) -> list[Any]:
        if value.dtype.hasobject:
            return [list(value.shape), self.tell(value.tolist(), path)]
        return [list(value.shape), str(value.dtype), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]

    def _function(self, value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, functools.partial):
            return {"partial": [self.tell(part, path) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, types.MethodType):
            return {"method": self.tell(value.__func__, path), "of": self.tell(value.__self__, path)}
        held = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__, "around": _around(value)}
        held["attributes"] = {name: item for name, item in vars(value).items() if name != "card"}
        told = {name: self.tell(item, f"{path}.{name}") for name, item in held.items() if item}
        return {"function": _name(value), "code": _code(value.__code__), **told}

    def _module(self, value: nn.Module, path: str) -> Any:
        if id(value) in self._modules:
            return {"same as": self._modules[id(value)]}
        self._modules[id(value)] = path
        weights: dict[str, Any] = {}
        for name, held in value.state_dict(keep_vars=True).items():
            if isinstance(held, Tensor) and id(held) in self._moving:
                weights[name] = [list(held.shape), str(held.dtype), "learns" if held.requires_grad else "stays"]
            else:
                weights[name] = self.tell(held, f"{path}.{name}")
        parts = {name: self._plain(part, f"{path}.{name}") for name, part in value.named_modules()}
        return {
            "class": _name(type(value)),
            "weights": weights,
            "parts": {name: told for name, told in parts.items() if told},
        }

    def _plain(self, module: nn.Module, path: str) -> dict[str, Any]:
        """The settings of one module: what it holds apart from weights, parts and hooks, and its class."""
        held = {name: item for name, item in vars(module).items() if name not in _MACHINERY and not _remembered(item)}
        told = {name: self.tell(item, f"{path}.{name}") for name, item in sorted(held.items())}
        return {"class": _name(type(module)), **told}

    def _object(self, value: Any, path: str) -> Any:
        kind = type(value)
        if dataclasses.is_dataclass(value):
            held = {
                field.name: getattr(value, field.name) for field in dataclasses.fields(value) if _told(field, value)
            }
            told = {name: self.tell(item, f"{path}.{name}") for name, item in held.items()}
            return {"class": _name(kind), **told}
        held = dict(vars(value)) if hasattr(value, "__dict__") else {}
        held = {
            n: item for n, item in held.items() if not isinstance(getattr(kind, n, None), functools.cached_property)
        }
        slots = [name for cls in kind.__mro__ for name in _listed(cls.__dict__.get("__slots__", ()))]
        held |= {name: getattr(value, name) for name in slots if name[:2] != "__" and hasattr(value, name)}
        if kind.__module__.partition(".")[0] in sys.stdlib_module_names or not held:
            text = repr(value)
            return {"class": _name(kind), **({} if " at 0x" in text or len(text) > 200 else {"is": text})}
        told = {name: self.tell(item, f"{path}.{name}") for name, item in sorted(held.items())}
        return {"class": _name(kind), **told}


def _told(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field is told: not what is only for people, and not what was added later while it is None."""
    return field.metadata.get("told", True) and not (field.metadata.get("added") and getattr(value, field.name) is None)


_MACHINERY = frozenset(vars(nn.Module()))


def _remembered(value: Any) -> bool:
    """Whether a module may hold this of its last call: nothing, a tensor, or a container of tensors."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | Set):
        return all(map(_remembered, value))
    return value is None or isinstance(value, Tensor)


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _around(function: types.FunctionType) -> dict[str, Any]:
    """What a function uses of the code around it: closed-over values, its module's functions, and plain globals."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the name has no value yet
            found[name] = cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        plain = isinstance(value, bool | int | float | str | bytes | tuple | enum.Enum)
        if plain or (isinstance(value, types.FunctionType) and value.__module__ == function.__module__):
            found.setdefault(name, value)
    return found


def _code(code: types.CodeType) -> str:
    total = hashlib.sha256(code.co_code)
    total.update(repr((code.co_names, code.co_freevars, code.co_argcount, code.co_kwonlyargcount)).encode())
    for held in code.co_consts:
        if isinstance(held, types.CodeType):
            total.update(_code(held).encode())
        else:
            items = sorted(map(repr, held)) if isinstance(held, frozenset) else repr(held)
            total.update(f"{type(held).__name__} {items}".encode())
    return total.hexdigest()


def _name(value: Callable[..., Any] | type | types.ModuleType) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    module = getattr(value, "__module__", None) or "builtins"
    if module.partition(".")[0] == "lessen":
        module = "lessen"  # modules of lessen may be moved; what they hold stays the same
    return f"{module}.{getattr(value, '__qualname__', repr(type(value)))}"
