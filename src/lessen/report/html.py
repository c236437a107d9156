"""HTML whose text is escaped unless it is HTML already, so that a layer named `<script>` is only a strange name."""

from __future__ import annotations

import html
from collections.abc import Iterable

WIDE = "more columns: scroll sideways →"
"""What is said above a table of which a part is out of sight."""

_EMPTY = {"meta", "br", "col"}


class Html(str):
    """Text that is HTML already; everything else is escaped where it is put."""

    __slots__ = ()


Child = str | Html | None


def tag(name: str, *children: Child | Iterable[Child], **attributes: str | bool | None) -> Html:
    """An element. Attributes that are None or False are left out; `class_` is `class`, `aria_label` is `aria-label`.

    >>> tag("p", "1 < 2", tag("b", "!"), class_="note")
    '<p class="note">1 &lt; 2<b>!</b></p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child | Iterable[Child]) -> Html:
    """Children one after the other, escaped where they are not HTML."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            parts.append(child if isinstance(child, Html) else html.escape(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def table(caption: str, head: list[str], rows: Iterable[list[Child]], *, numbers: Iterable[int] = ()) -> Html:
    """A table in a container of its own that scrolls sideways; `numbers` are the columns set to the right."""
    right = set(numbers)

    def cell(name: str, place: int, content: Child) -> Html:
        scope = "col" if name == "th" else None
        return tag(name, content, class_="number" if place in right else None, scope=scope)

    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", (cell("th", place, text) for place, text in enumerate(head)))),
            tag("tbody", (tag("tr", (cell("td", place, text) for place, text in enumerate(row))) for row in rows)),
        ),
        class_="scroll",
        data_wide=WIDE,
        role="region",
        tabindex="0",
        aria_label=caption,
    )


def _attribute(key: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(value)}"'
