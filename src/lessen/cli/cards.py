"""The catalogue on a terminal, from the cards of the methods."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lessen.core.card import Card
from lessen.core.errors import SettingError, did_you_mean
from lessen.core.hints import slots
from lessen.core.settings import encode
from lessen.recipe import about, catalogue, methods


def show_all(find: str | None, console: Console) -> None:
    """Every method in one line, grouped by its row; only those whose card holds a text, if one is given.

    Raises:
        SettingError: no card holds the text.
    """
    chosen = {name: cls for name, cls in methods().items() if find is None or _holds(name, card_of(cls), find)}
    if not chosen:
        rows = sorted({card_of(cls).row for cls in methods().values()})
        raise SettingError(f"No method card contains {find!r}. The rows are: {'; '.join(rows)}.")
    rows_of: dict[str, Mapping[str, Card]] = {}
    for name, cls in chosen.items():
        card = card_of(cls)
        rows_of[card.row] = {**rows_of.get(card.row, {}), name: card}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    for row in sorted(rows_of):
        table.add_row(Text(row, style="bold"), "")
        for name, card in rows_of[row].items():
            table.add_row(Text(f"  {name}"), Text(card.says))
    console.print(table)
    console.print(f"{len(chosen)} methods. `lessen methods NAME` shows the card and the settings of one.")


def show_one(name: str, console: Console) -> None:
    """The card of a method and its settings: name, default and meaning.

    Raises:
        SettingError: there is no such method.
    """
    known = {**catalogue(), **methods()}
    if name not in known:
        raise SettingError(f"There is no method {name!r}: {did_you_mean(name, known)}")
    cls = known[name]
    says, arguments = about(cls)
    console.print(Text(name, style="bold"), Text(f"  from {cls.__module__.rpartition('.')[0]}", style="dim"))
    console.print(Text(says), "")
    if name in methods():
        card = card_of(cls)
        for label in ("row", "paper", "says", "costs", "fails_when", "differs"):
            if text := getattr(card, label):
                console.print(Text(_aligned(label.replace("_", " "), text, console.width)))
    if name in catalogue():
        console.print("")
        for slot in slots(cls).values():
            default = "must be given" if slot.required else f"default {_short(slot.default)}"
            text = f"{arguments.get(slot.name, '')} ({default})".strip()
            console.print(Text(_aligned(slot.name, text, console.width)))


def card_of(cls: type) -> Card:
    """The card of a method."""
    card: Card = cls.card  # type: ignore[attr-defined]
    return card


def _short(value: object) -> str:
    coded = encode(value)
    if isinstance(coded, dict) and len(coded) == 1:
        ((name, fields),) = coded.items()
        return f"{name}({', '.join(f'{key}={item}' for key, item in fields.items())})"
    return repr(value) if isinstance(value, str) else str(coded)


def _holds(name: str, card: Card, find: str) -> bool:
    return find.lower() in f"{name} {card.row} {card.paper} {card.says}".lower()


def _aligned(label: str, text: str, width: int) -> str:
    return textwrap.fill(text, width=width, initial_indent=f"{label:<22}", subsequent_indent=" " * 22)
