"""Calls of public functions: an argument that does not fit is an error in words, not a `TypeError` of Python."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lessen.core.errors import SettingError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R], /) -> Callable[P, R]:
    """A function that says in words which argument is unknown or missing.

    >>> @public
    ... def compress(network, *, run=None):
    ...     return run
    >>> compress(1, runn="runs/mine")
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: compress has no argument 'runn': did you mean 'run'?
    """

    @functools.wraps(function)
    def called(*args: P.args, **named: P.kwargs) -> R:
        try:
            return function(*args, **named)
        except TypeError as error:
            trace = error.__traceback__
            if trace is not None and trace.tb_next is None:  # it was not raised inside the function
                raise SettingError(misfit(function, function.__name__, args, named)) from error
            raise

    return called


def misfit(function: Callable[..., object], name: str, args: tuple[object, ...], named: dict[str, object]) -> str:
    """What is wrong with the arguments of a call that Python has refused.

    Args:
        function: What was called.
        name: What to call it.
        args: What was given by position.
        named: What was given by name.
    """
    parameters = {key: value for key, value in inspect.signature(function).parameters.items() if key != "self"}
    free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for key in named:
        if key not in parameters and not free:
            return f"{name} has no argument {key!r}: {did_you_mean(key, parameters)}"
    by_place = [
        key
        for key, one in parameters.items()
        if one.kind in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    ]
    twice = next((key for key in by_place[: len(args)] if key in named), None)
    if twice is not None:
        return f"{name}: {twice} was given by position and by name; give it once."
    if len(args) > len(by_place):
        rest = [key for key in parameters if key not in by_place]
        others = f"Give the others by name: {', '.join(f'{key}=' for key in rest)}." if rest else "It has no others."
        return (
            f"{name} takes {len(by_place)} arguments by position ({', '.join(by_place) or 'none'}), but {len(args)} "
            f"were given. {others}"
        )
    given = {*by_place[: len(args)], *named}
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    missing = [
        key
        for key, one in parameters.items()
        if one.default is inspect.Parameter.empty and one.kind not in kinds and key not in given
    ]
    return f"{name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
