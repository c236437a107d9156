"""The figures' places on the page, and their data, which the page's script draws."""

from __future__ import annotations

import json

from lessen.report.figures import Figure
from lessen.report.html import Html, tag

SERIES = 8
"""How many colours there are; the names are in style.css."""
_SIGNS = {"circle": "●", "square": "■", "diamond": "◆"}


class Plots:
    """Collects the figures of one page while its parts are written."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def place(self, title: str, figure: Figure | None) -> Html:
        """A titled place for a figure; a sentence where there is none."""
        if figure is None:
            return tag("p", f"{title}: no data was recorded.", class_="none")
        number = len(self.figures)
        self.figures.append({"data": figure["data"], "layout": figure["layout"]})
        label = f"{title}. {figure['summary']}"
        plot = tag("div", class_="plot", data_figure=str(number), role="img", aria_label=label)
        return tag("figure", tag("figcaption", title), _legend(figure), plot)

    def data(self) -> Html:
        """All figures as JSON that cannot end the script element that contains it."""
        text = json.dumps(self.figures, allow_nan=False)
        for sign, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
            text = text.replace(sign, escaped)
        return tag("script", Html(text), type="application/json", id="figures")


def _legend(figure: Figure) -> Html:
    """The names of the traces, which break into as many lines as the page needs."""
    return tag("ul", (_entry(trace) for trace in figure["data"]), class_="legend")


def _entry(trace: Figure) -> Html:
    turn, place = divmod(trace["meta"]["colour"], SERIES)
    marker = _SIGNS[trace["marker"]["symbol"]] if trace["meta"].get("points") else "╍" if turn else "━"
    sign = tag("span", marker, style=f"color: var(--series-{place + 1})", aria_hidden="true")
    return tag("li", sign, trace["meta"]["name"])
