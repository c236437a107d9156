"""One page that explains a run, readable offline: the file contains everything it needs."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from lessen.core.errors import RunError
from lessen.core.files import write_text
from lessen.report import history, loading, sections, tiles
from lessen.report.entries import entries
from lessen.report.html import Html, join, tag
from lessen.report.mood import judge_mood
from lessen.report.outcome import trained
from lessen.report.plots import Plots
from lessen.report.run import Run, read_run
from lessen.report.verdict import judge

TABLES, FIGURES = "tables.js", ("plotly/plotly-basic.min.js", "page.js")
"""The scripts of every page and of those with figures: plotly's basic bundle (MIT) and what calls it."""


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder, from the files in it and nothing else.

    Returns:
        The path of the page.

    Raises:
        RunError: there is no such folder, it is not a run, or a file in it is damaged.
    """
    run = read_run(folder)
    path = run.folder / "report.html"
    try:
        page = render(run)
    except Exception as error:  # fields of records and plans are what the run says they are
        raise RunError(
            f"The files in {run.folder} contain something that lessen does not write ({type(error).__name__}: "
            f"{error}). They were edited, or written by another version."
        ) from error
    write_text(path, page)
    return path


def render(run: Run) -> str:
    """The page of a run as HTML."""
    if not run.records and run.recipe is None:
        return _training_alone(run)
    found = entries(run.records)
    verdict = judge(run.records)
    mood = judge_mood(verdict, run.records)
    teacher = next((entry for entry in found if entry.step == 0 and entry.file is None), None)
    plots = Plots()
    body = tag(
        "main",
        tag(
            "header",
            tag("p", "A run of lessen", class_="run"),
            tag("h1", run.name),
            tag("p", mood.words, class_=f"mood {mood.kind}", role="status"),
            tag("p", verdict.sentence, class_="verdict"),
            tiles.tiles(verdict, teacher, mood.kind),
            tiles.warnings(verdict),
        ),
        _section("load", "How to load the result", loading.loading(run, verdict, found)),
        _section("before", "Before and after", sections.before_and_after(verdict, found)),
        _section("steps", "Every step", sections.every_step(found, plots)),
        _section("training", "Training", history.training(run, plots)),
        _section("graph", "Who taught whom", history.transfer(run)),
        _section("layers", "What was done to each layer", history.layers(run)),
        _section("verified", "What was verified", sections.verified(found)),
        _section("measured", "How it was measured", history.measuring(run)),
        _section("recipe", "The recipe", history.recipe(run)),
    )
    footer = tag("footer", "Written by lessen from the files in the run's folder. Nothing is loaded from elsewhere.")
    return _document(run.name, join(body, footer), plots)


def _training_alone(run: Run) -> str:
    """The page of stages that were run by themselves: nothing was made smaller, and nothing measured at the end."""
    plots = Plots()
    body = tag(
        "main",
        tag(
            "header",
            tag("p", "A training of lessen", class_="run"),
            tag("h1", run.name),
            tag("p", trained(run.log), class_="verdict"),
            (tag("p", str(row.get("says", "")), class_="no") for row in run.log if row.get("kind") == "warning"),
        ),
        _section("training", "Training", history.training(run, plots)),
        _section("graph", "Who taught whom", history.transfer(run)),
    )
    footer = tag("footer", "Written by lessen from the files in the run's folder. Nothing is loaded from elsewhere.")
    return _document(run.name, join(body, footer), plots)


def _section(name: str, title: str, content: Html) -> Html:
    return tag("section", tag("h2", title, id=name), content, aria_labelledby=name)


def _document(title: str, body: Html, plots: Plots) -> str:
    here = files("lessen.report")
    style = (here / "style.css").read_text(encoding="utf-8")
    names = (TABLES, *(FIGURES if plots.figures else ()))
    scripts = [(here / name).read_text(encoding="utf-8") for name in names]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · lessen"),
        tag("style", Html(style)),
    )
    drawn = join(plots.data() if plots.figures else None, (tag("script", Html(script)) for script in scripts))
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", body, drawn), lang="en") + "\n"


def _policy(scripts: list[str]) -> str:
    """Nothing is fetched, and nothing runs but these very scripts, whatever a name in the run may hold."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"
