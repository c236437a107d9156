"""The parts of the page about how it came about: training, who taught whom, layers, measuring, the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lessen.report.drawing import draw_graph, moved
from lessen.report.figures import training_curves, validation_curves
from lessen.report.html import Child, Html, join, table, tag
from lessen.report.numbers import digits
from lessen.report.parts import nothing
from lessen.report.plots import Plots
from lessen.report.run import Run

OPEN_ROWS = 40
"""A table of layers that is longer starts folded."""


METHOD = (
    "Sizes are those of files on disk. Times are medians of repeats that are interleaved with the reference, in "
    "shuffled order, each after an untimed call that warms the caches, short calls in blocks of several; calls that "
    "had to wait for a core do not count, and on a busy machine there are no times. Their intervals hold the spread of "
    "the repeats and what a file moves by when it is loaded again; ratios are paired within a round. Accuracies have "
    "Wilson intervals; changes of accuracy are paired on the same examples."
)


def training(run: Run, plots: Plots) -> Html:
    """The loss of every edge and the validation of every node, stage by stage."""
    stages = list(dict.fromkeys(int(row.get("stage", 0)) for row in run.log))
    if not stages:
        return nothing("There was no training in this run.")
    parts = []
    for stage in stages:
        curves = (("Loss of every edge", training_curves), ("Validation", validation_curves))
        drawn = (plots.place(f"{title}, {_stage(run, stage)}", make(run.log, stage)) for title, make in curves)
        parts.append(tag("div", tag("h3", _stage(run, stage, whole=True)), tag("div", drawn, class_="figures"),
                         class_="stage"))  # fmt: skip
    return join(parts)


def transfer(run: Run) -> Html:
    """The transfer graph of every stage, drawn, with its edges as a table."""
    if not run.graphs:
        return nothing("There was no distillation in this run.")
    parts = []
    for number, graph in enumerate(run.graphs):
        title = _stage(run, graph.get("stage", number), whole=True)
        picture = draw_graph(graph, title=f"Transfer graph, {title}", name=f"graph-{number}")
        parts.append(tag("div", tag("h3", title), picture, _edges(graph, title), class_="stage"))
    return join(parts)


def layers(run: Run) -> Html:
    """What every operation did to every layer."""
    if not run.layers and not run.plans:
        return nothing("No operation was applied in this run: the layers are those of the original network.")
    parts = []
    for entry in run.layers:
        rows = [row for row in entry.get("rows", []) if isinstance(row, Mapping)]
        title = f"Step {entry.get('step', '?')}: {entry.get('operation', 'operation')}"
        cells: list[list[Child]] = [
            [tag("code", str(row.get("module", ""))), *(str(row.get(key, "")) for key in ("edit", "before", "after"))]
            for row in rows
        ]
        body = table("What the plan changed, and what it did not change.", ["layer", "edit", "before", "after"], cells)
        parts.append(tag("details", tag("summary", f"{title} ({len(rows)} rows)"), body, open=len(rows) <= OPEN_ROWS))
    if not run.layers:
        names = ", ".join(name for plan in run.plans for name in plan if name != "from")
        parts.append(nothing(f"The plans are in plan.json ({names}); what they did to each layer was not recorded."))
    return join(parts)


def measuring(run: Run) -> Html:
    """The machine, the versions and the settings behind the figures."""
    if not run.records:
        return nothing("Nothing has been measured yet.")
    facts: dict[str, dict[str, None]] = {}

    def add(title: str, value: object) -> None:
        if value not in (None, "", [], {}):
            facts.setdefault(title, {})[str(value)] = None

    for record in run.records:
        machine, settings = record.machine, record.settings
        add("processor", machine.get("processor"))
        add("instructions", ", ".join(machine.get("instructions", [])))
        add("cores", machine.get("cores"))
        add("system", machine.get("system"))
        add("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()))
        if record.figure in {"latency", "speedup"}:
            add("threads", settings.get("threads"))
            add("batch sizes", settings.get("batch"))
            add("timed repeats", settings.get("repeats"))
        if settings.get("split"):
            what = "verified on" if settings.get("against") else "quality on"
            count = f", {settings['examples']} examples" if settings.get("examples") else ""
            add(what, f"{settings['split']} split{count}")
    times = sorted(record.at.replace("T", " ").removesuffix("+00:00") + " UTC" for record in run.records)
    add("measured", times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}")
    items = (join(tag("dt", title), tag("dd", "; ".join(values))) for title, values in facts.items())
    mixed = len(facts.get("processor", {})) > 1
    return join(
        tag("p", METHOD),
        tag("p", "The measurements come from several machines; their times cannot be compared.", class_="no")
        if mixed
        else None,
        tag("dl", items, class_="facts"),
    )


def recipe(run: Run) -> Html:
    """The recipe, word for word."""
    if run.recipe is None:
        return nothing("This run has no recipe.")
    lines = run.recipe.rstrip()
    shown = tag("pre", tag("code", lines), tabindex="0")
    return tag("details", tag("summary", f"recipe.yaml ({lines.count(chr(10)) + 1} lines)"), shown)


def _stage(run: Run, stage: Any, *, whole: bool = False) -> str:
    """What a stage is called, with the step of the pipeline it belongs to where that is known."""
    row = next((row for row in (*run.graphs, *run.log) if row.get("stage") == stage), {})
    name = str(row.get("name") or "stage")
    number = stage + 1 if isinstance(stage, int) else stage
    if not whole:
        return f"stage {number}"
    step = row.get("pipeline_step")
    return f"Stage {number}: {name}" + ("" if step is None else " of the teacher" if step == 0 else f" (step {step})")


def _edges(graph: Mapping[str, Any], title: str) -> Html:
    rows: list[list[Child]] = []
    for edge in graph.get("edges", []):
        taps = [str(edge.get(key) or "output") for key in ("source_tap", "target_tap")]
        weight = edge.get("weight")
        source = "" if edge.get("source", "") is None else f"{edge.get('source')} "
        rows.append([
            tag("span", f"{source}→ {edge.get('target')}" + (f" (moves {moves})" if (moves := moved(edge)) else ""),
                class_="keep"),
            tag("code", str(edge.get("objective"))),
            taps[1] if taps[0] == taps[1] or not source else " → ".join(taps),
            "" if weight is None else digits(float(weight)),
            *(str(edge.get(key) or "none") for key in ("schedule", "gate", "bridge")),
        ])  # fmt: skip
    head = ["edge", "objective", "taps", "weight", "schedule", "gate", "bridge"]
    return table(f"Edges of {title[:1].lower()}{title[1:]}", head, rows, numbers=(3,))
