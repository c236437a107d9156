"""Text on a terminal: what a file or a folder is called there does not steer it."""

from __future__ import annotations

import unicodedata

import typer

_TURNED = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that turn the direction of what is written around them."""


def visible(text: str) -> str:
    r"""A text with control characters, and marks that turn the direction of writing, as escapes.

    A terminal takes some of them for commands: to erase what it shows, to rename its window, to answer as if typed.

    >>> visible("two\nlines, and \x1b[2J")
    'two\nlines, and \\x1b[2J'
    """
    return "".join(
        sign.encode("unicode_escape").decode()
        if sign not in "\n\t" and (unicodedata.category(sign) == "Cc" or sign in _TURNED)
        else sign
        for sign in text
    )


def say(text: str) -> None:
    """Print a text, with nothing in it that steers a terminal."""
    typer.echo(visible(text))
