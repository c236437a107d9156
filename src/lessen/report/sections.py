"""The parts of the page about the result: before and after, every step, what was verified."""

from __future__ import annotations

from collections.abc import Sequence

from lessen.core.record import Record
from lessen.report.entries import Entry
from lessen.report.figures import trade_off
from lessen.report.html import Child, Html, join, table, tag
from lessen.report.metrics import CLOSENESS, headline, of_task, word
from lessen.report.numbers import NOTHING, digits, times
from lessen.report.parts import cell, how, nothing
from lessen.report.plots import Plots
from lessen.report.verdict import Verdict, reason

COST = {
    "parameters": "parameters",
    "nonzero_parameters": "parameters that are not zero",
    "multiply_adds": "multiply-adds (a count, not a speed)",
    "peak_memory": "peak memory of a forward pass",
}
"""What a network takes, and what it is called in the first table."""

MOST_ROWS = 14
"""Figures of quality in the first table; a task with a figure for each class has more."""


def _compared(found: Sequence[Entry]) -> dict[str, str]:
    """The figures of the first table and what they are called there."""
    quality = {name: word(name) for name in of_task(found)[:MOST_ROWS]}
    return {"bytes": "size on disk", "latency": "time", **quality, **COST}


OF_THE_NETWORK = {"parameters", "nonzero_parameters", "multiply_adds", "peak_memory"}
"""Of these a file has none of its own; those of the network it was made of are shown."""

EMULATED = "PyTorch emulates int8, which is slower; the files show the real gain."


def before_and_after(verdict: Verdict, found: Sequence[Entry]) -> Html:
    """The teacher and what is shipped, figure by figure."""
    before, after = verdict.before, verdict.after
    if before is None or after is None:
        return nothing("There are no measurements to compare yet.")
    networks = {entry.step: entry for entry in found if entry.file is None}
    rows: list[list[Child]] = []
    for figure, title in _compared(found).items():
        was, now = (entry.get(figure) or _of_network(networks, entry, figure) for entry in (before, after))
        if was is not None or now is not None:
            paired = after.get(f"{figure}_change")
            change = _change(was, now) if paired is None or paired.unit != "points" else cell(paired)
            rows.append([_condition(title, now or was), cell(was), cell(now), change])
    said = f"Before: {before.name}. After: {after.name}. The 95 % interval, if there is one, is below each value."
    return table(said, ["", "before", "after", "change"], rows, numbers=(1, 2, 3))


def every_step(found: Sequence[Entry], plots: Plots) -> Html:
    """Size and time against quality, and the same as a table."""
    if not found:
        return nothing("Nothing has been measured yet.")
    quality = headline(found) or "accuracy"
    name = word(quality)
    networks = [entry for entry in found if entry.file is None]
    key = tag("ul", (tag("li", tag("b", str(e.step)), " ", _title(e)) for e in networks), class_="key")
    closeness = [other for other in CLOSENESS if other != quality and any(entry.get(other) for entry in found)]
    rows: list[list[Child]] = [
        [
            _title(entry),
            str(entry.step),
            *(cell(entry.get(figure)) for figure in ("bytes", "latency", quality, *closeness)),
        ]
        for entry in found
    ]
    head = ["what", "step", "size", "time", name, *map(word, closeness)]
    return join(
        tag(
            "div",
            plots.place(f"Size against {name}", trade_off(found, "bytes", quality)),
            plots.place(f"Time against {name}", trade_off(found, "latency", quality)),
            class_="figures",
        ),
        key,
        tag("p", EMULATED, class_="note") if any(entry.integer for entry in found) else None,
        table("The network after each step, and the files exported from it.", head, rows, numbers=range(2, len(head))),
    )


def verified(found: Sequence[Entry]) -> Html:
    """Every file: does it say what PyTorch says, does it compute in integers, and is it faster?"""
    files = [entry for entry in found if entry.file is not None]
    if not files:
        return nothing("No file was written in this run, so there was nothing to verify.")
    names = sorted(
        {str(record.settings["reference"]) for entry in files if (record := entry.get("speedup")) is not None}
    )
    columns = ("agreement_with_pytorch", "integer_share", "bytes", "latency")
    rows: list[list[Child]] = []
    for entry in files:
        against = "the reference" if entry.file in names else cell(entry.get("speedup"), "ratio")
        figures = (cell(entry.get(name)) for name in columns)
        rows.append([_file(entry), _verdict_of(entry), _difference(entry), *figures, against])
    head = ["file", "verified", "largest difference", "agreement with PyTorch", "integer kernels"]
    head += ["size", "time", "times faster"]
    said = "Each file is compared with the network in PyTorch on held-out examples"
    said += f"; speed with {' or '.join(names)}, of the same runtime, in one interleaved run." if names else "."
    return table(said, head, rows, numbers=range(2, 8))


def _condition(title: str, record: Record | None) -> Html:
    if record is None:
        return join(title)
    said = ", ".join(how(record))
    if record.settings.get("split"):
        said = f"{record.settings['split']} split"
    if record.figure in OF_THE_NETWORK:
        said = ", ".join(["in PyTorch", *how(record)])
    return join(title, tag("span", said, class_="spread") if said else None)


def _of_network(networks: dict[int, Entry], entry: Entry, figure: str) -> Record | None:
    """What only PyTorch can tell of a file, and what the teacher's own file says as the teacher does."""
    network = networks.get(entry.step)
    if network is None or not (figure in OF_THE_NETWORK or (entry.step == 0 and figure not in {"bytes", "latency"})):
        return None
    return network.get(figure)


def _change(was: Record | None, now: Record | None) -> str:
    if was is None or now is None or was.value is None or now.value is None:
        return ""
    if now.value == was.value:
        return "same"
    if now.unit == "%":
        return f"{now.value - was.value:+.2f} points".replace("-", "−")
    if not was.value or not now.value:
        return ""
    if now.unit == "B" or now.figure in OF_THE_NETWORK:
        return "same" if (said := times(was.value, now.value)) == "as large" else said
    if now.figure == "latency":
        faster = was.value >= now.value
        ratio = was.value / now.value if faster else now.value / was.value
        return f"{digits(ratio)} times {'faster' if faster else 'slower'}"
    ratio = now.value / was.value
    return "same" if abs(ratio - 1) < 5e-4 else f"{100 * (ratio - 1):+.3g} %".replace("-", "−")


def _title(entry: Entry) -> str:
    return entry.name.removeprefix(f"{entry.step} ")


def _file(entry: Entry) -> Html:
    return join(tag("code", entry.name), tag("span", f"{entry.runtime}, after step {entry.step}", class_="spread"))


def _difference(entry: Entry) -> Html:
    mean = entry.value("mean_difference")
    small = None if mean is None else tag("span", f"mean {digits(mean)}", class_="spread")
    largest = entry.value("max_difference")
    return Html(NOTHING) if largest is None else join(digits(largest), small)


def _verdict_of(entry: Entry) -> Html:
    word, kind = {None: ("not asked", ""), True: ("yes", "yes"), False: ("no", "no")}[entry.verified]
    said = join(tag("span", word, class_=kind or None), f", {entry.recommended}" if entry.recommended else None)
    return join(said, tag("span", reason(entry), class_="note") if entry.get("verified") else None)
