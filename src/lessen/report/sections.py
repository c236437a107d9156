"""The parts of the page about the result: tiles, before and after, every step, what was verified, how to load it."""

from __future__ import annotations

from collections.abc import Sequence

from lessen.core.record import Record
from lessen.report.entries import Entry
from lessen.report.figures import trade_off
from lessen.report.html import Child, Html, join, table, tag
from lessen.report.numbers import NOTHING, digits, human, interval
from lessen.report.plots import Plots
from lessen.report.run import Run
from lessen.report.verdict import Verdict, accuracy_change, reason, speedup

COMPARED = {
    "bytes": "size on disk",
    "latency": "time",
    "accuracy": "accuracy",
    "mean_squared_error": "mean squared error",
    "nll": "negative log-likelihood",
    "calibration_error": "calibration error",
    "agreement": "agreement with the teacher",
    "kl_to_teacher": "divergence from the teacher",
    "parameters": "parameters",
    "nonzero_parameters": "parameters that are not zero",
    "multiply_adds": "multiply-adds (a count, not a speed)",
    "peak_memory": "peak memory of a forward pass",
}
"""The figures of the first table and what they are called there."""

EMULATED = "In PyTorch int8 is emulated, which takes longer; what it gains is seen in the files."


def tiles(verdict: Verdict, teacher: Entry | None) -> Html | None:
    """The three figures that matter, large: size, time, accuracy."""
    before, after = verdict.before, verdict.after
    if after is None:
        return None
    return tag(
        "dl", _size_tile(before, after), _time_tile(before, after), _accuracy_tile(after, teacher), class_="tiles"
    )


def warnings(verdict: Verdict) -> Html | None:
    """What a reader must know before using the result."""
    if not verdict.warnings:
        return None
    items = tag("ul", (tag("li", text) for text in verdict.warnings))
    return tag("aside", tag("h2", "Before you use it"), items, class_="warnings", aria_label="Warnings")


def before_and_after(verdict: Verdict, found: Sequence[Entry]) -> Html:
    """The teacher and what is shipped, figure by figure."""
    before, after = verdict.before, verdict.after
    if before is None or after is None:
        return nothing("There is nothing to compare yet.")
    networks = {entry.step: entry for entry in found if entry.file is None}
    rows: list[list[Child]] = []
    for figure, title in COMPARED.items():
        was, now = (entry.get(figure) or _of_network(networks, entry, figure) for entry in (before, after))
        if was is not None or now is not None:
            paired = after.get("accuracy_change") if figure == "accuracy" else None
            change = _change(was, now) if paired is None else cell(paired)
            rows.append([_condition(title, now or was), cell(was), cell(now), change])
    said = f"Before: {before.name}. After: {after.name}. Below a figure stands its 95 % interval, where it has one."
    return table(said, ["", "before", "after", "change"], rows, numbers=(1, 2, 3))


def every_step(found: Sequence[Entry], plots: Plots) -> Html:
    """Size and time against quality, and the same as a table."""
    if not found:
        return nothing("Nothing has been measured yet.")
    quality = "accuracy" if any(entry.get("accuracy") for entry in found) else "mean_squared_error"
    word = quality.replace("_", " ")
    networks = [entry for entry in found if entry.file is None]
    key = tag("ul", (tag("li", tag("b", str(e.step)), " ", _title(e)) for e in networks), class_="key")
    rows: list[list[Child]] = [
        [
            str(entry.step),
            _title(entry),
            *(cell(entry.get(name)) for name in ("bytes", "latency", quality, "agreement")),
        ]
        for entry in found
    ]
    head = ["step", "what", "size", "time", word, "agreement with the teacher"]
    return join(
        tag(
            "div",
            plots.place(f"Size against {word}", trade_off(found, "bytes", quality)),
            plots.place(f"Time against {word}", trade_off(found, "latency", quality)),
            class_="figures",
        ),
        key,
        tag("p", EMULATED, class_="note") if any(entry.integer for entry in found) else None,
        table("The network after each step, and the files made of it.", head, rows, numbers=(2, 3, 4, 5)),
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


def loading(run: Run, verdict: Verdict, found: Sequence[Entry]) -> Html:
    """Code that loads what the run left behind, to be copied."""
    folder = run.folder.as_posix()
    parts = [tag("h3", "In PyTorch"), _code(_in_pytorch(folder))]
    shipped = verdict.after if verdict.after is not None and verdict.after.file else None
    chosen = [shipped] if shipped is not None else [entry for entry in found if entry.file and entry.verified][:1]
    if not any(entry.file and entry.file.endswith(".onnx") for entry in chosen):
        chosen += [entry for entry in found if entry.verified and (entry.file or "").endswith(".onnx")][-1:]
    for entry in chosen:
        code = _snippet(f"{folder}/{entry.file}")
        if code:
            named = ", the fastest that passed verification" if entry is shipped else ""
            parts += [tag("h3", f"{entry.runtime}: {entry.file}{named}"), _code(code)]
    if not chosen:
        parts.append(nothing("No verified file can be loaded elsewhere."))
    return join(parts)


def nothing(text: str) -> Html:
    """A sentence where a part of the run is missing."""
    return tag("p", text, class_="none")


def cell(record: Record | None, unit: str | None = None) -> Html:
    """A value with its interval below it."""
    if record is None:
        return Html(NOTHING)
    unit = record.unit if unit is None else unit
    spread = interval(record, unit)
    return join(human(record.value, unit), tag("span", spread, class_="spread") if spread else None)


def _tile(title: str, big: str, spread: str, small: str) -> Html:
    return tag(
        "div",
        tag("dt", title),
        tag("dd", big, tag("span", f"95 %: {spread}", class_="spread") if spread else None, class_="big"),
        tag("dd", small, class_="from"),
        class_="tile",
    )


def _size_tile(before: Entry | None, after: Entry) -> Html:
    was, now = None if before is None else before.value("bytes"), after.value("bytes")
    if not was or not now:
        return _tile("Size on disk", human(now, "B"), "", "nothing to compare with")
    big = f"{digits(was / now)} × smaller" if was >= now else f"{digits(now / was)} × larger"
    return _tile("Size on disk", big, "", f"{human(was, 'B')} → {human(now, 'B')}")


def _time_tile(before: Entry | None, after: Entry) -> Html:
    ratio, latency = speedup(after, before), after.get("latency")
    was = None if before is None else before.value("latency")
    now = None if latency is None else latency.value
    small = f"{human(was, 'ms')} → {human(now, 'ms')}" if was else human(now, "ms")
    if latency is not None:
        small += "".join(f", {text}" for text in _how(latency))
    if ratio is None or not ratio.value:
        return _tile("Time", human(now, "ms"), "", small)
    if ratio.value >= 1:
        return _tile("Time", f"{digits(ratio.value)} × faster", interval(ratio, "ratio"), small)
    turned = Record(subject="", figure="", value=1 / ratio.value, unit="1",
                    low=1 / ratio.high if ratio.high else None, high=1 / ratio.low if ratio.low else None)  # fmt: skip
    return _tile("Time", f"{digits(1 / ratio.value)} × slower", interval(turned, "ratio"), small)


def _accuracy_tile(after: Entry, teacher: Entry | None) -> Html:
    change = accuracy_change(after, teacher)
    for figure, title in (("accuracy", "Accuracy"), ("mean_squared_error", "Mean squared error")):
        now = after.get(figure)
        if now is not None:
            was = None if teacher is None else teacher.get(figure)
            small = human(now.value, now.unit) if was is None else (
                f"{human(was.value, was.unit)} → {human(now.value, now.unit)}"
            )  # fmt: skip
            if now.settings.get("split"):
                small += f", {now.settings['split']} split"
            if figure == "accuracy" and change is not None and change.value is not None:
                return _tile(title, f"{change.value:+.2f} points".replace("-", "−"), interval(change), small)
            return _tile(title, human(now.value, now.unit), interval(now), small)
    return _tile("Accuracy", NOTHING, "", "not measured")


def _how(record: Record) -> list[str]:
    settings = record.settings
    parts = [f"batch of {settings['batch']}"] if settings.get("batch") else []
    if settings.get("threads"):
        parts.append(f"{settings['threads']} thread{'s' if settings['threads'] != 1 else ''}")
    return parts


def _condition(title: str, record: Record | None) -> Html:
    how = "" if record is None else ", ".join(_how(record))
    if record is not None and record.settings.get("split"):
        how = f"{record.settings['split']} split"
    if record is not None and record.figure in {"parameters", "nonzero_parameters", "multiply_adds", "peak_memory"}:
        how = ", ".join(["in PyTorch", *_how(record)])
    return join(title, tag("span", how, class_="spread") if how else None)


def _of_network(networks: dict[int, Entry], entry: Entry, figure: str) -> Record | None:
    """What only PyTorch can tell (parameters, say) a file takes from the network that it was made of."""
    network = networks.get(entry.step)
    if network is None or figure in {"bytes", "latency"}:
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
    ratio = now.value / was.value
    return "same" if abs(ratio - 1) < 5e-4 else f"× {digits(ratio)}"


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
    said = join(tag("span", word, class_=kind or None), ", fastest" if entry.value("fastest") else None)
    return join(said, tag("span", reason(entry), class_="note") if entry.get("verified") else None)


def _code(text: str) -> Html:
    return tag("pre", tag("code", text), tabindex="0")


def _in_pytorch(folder: str) -> str:
    return (
        "import lessen\n\n# fresh: the network, built as the one that went in; its weights do not matter\n"
        f"network = lessen.load({folder!r}, fresh)"
    )


def _snippet(path: str) -> str | None:
    given = "# inputs: a NumPy array with examples along axis 0, as the network takes them\n"
    if path.endswith(".onnx"):
        return (f"import onnxruntime\n\nsession = onnxruntime.InferenceSession({path!r})\n{given}"
                "(outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})")  # fmt: skip
    if path.endswith(".xml"):
        return (f"import openvino\n\nnetwork = openvino.compile_model({path!r}, 'CPU')\n{given}"
                "outputs = network(inputs)[0]")  # fmt: skip
    if path.endswith(".pt2"):
        return f"import torch\n\nnetwork = torch.export.load({path!r}).module()\noutputs = network(inputs)"
    return None
