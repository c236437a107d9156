"""Code that loads what a run left behind, to be copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lessen.report.entries import Entry
from lessen.report.html import Html, join, tag
from lessen.report.parts import nothing
from lessen.report.run import Run
from lessen.report.verdict import Verdict

_EXACT = """# As the file was verified: without these, some processors round numbers more coarsely.
exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}"""


def loading(run: Run, verdict: Verdict, found: Sequence[Entry]) -> Html:
    """How to load the network in PyTorch, and the shipped file in its runtime."""
    folder = run.folder.as_posix()
    parts = [tag("h3", "In PyTorch"), _code(_in_pytorch(folder))]
    shipped = verdict.after if verdict.after is not None and verdict.after.file else None
    chosen = [shipped] if shipped is not None else [entry for entry in found if entry.file and entry.verified][:1]
    if not any(entry.file and entry.file.endswith(".onnx") for entry in chosen):
        chosen += [entry for entry in found if entry.verified and (entry.file or "").endswith(".onnx")][-1:]
    for entry in chosen:
        verified = entry.get("verified")
        names = [] if verified is None else list(verified.detail.get("inputs", {}))
        code = _snippet(f"{folder}/{entry.file}", names)
        if code:
            named = f", the {entry.recommended} that passed verification" if entry is shipped else ""
            parts += [tag("h3", f"{entry.runtime}: {entry.file}{named}"), _code(code)]
            if verified is not None and names:
                parts.append(tag("p", sizes_in_words(verified.detail)))
    if not chosen:
        parts.append(nothing("No verified file can be loaded elsewhere."))
    return join(parts)


def sizes_in_words(detail: Mapping[str, Any]) -> str:
    """Which sizes of inputs a file takes, in words.

    >>> sizes_in_words({"inputs": {"x": ["batch", 3, "height", 32]}, "limits": {"height": [4, None]}})
    'Inputs: x (batch, 3, height, 32). Named sizes may vary (height: at least 4); numbers are fixed.'
    """
    inputs = [f"{name} ({', '.join(map(str, axes))})" for name, axes in detail["inputs"].items()]
    limits = []
    for name, (low, high) in detail.get("limits", {}).items():
        ends = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
        limits.append(f"{name}: {' and '.join(end for end in ends if end)}")
    bounds = f" ({'; '.join(limits)})" if limits else ""
    free = f"Named sizes may vary{bounds}; numbers are fixed."
    why = f" {str(detail['fixed']).rstrip('.')}." if "fixed" in detail else ""
    return f"Inputs: {', '.join(inputs)}. {free}{why}"


def _code(text: str) -> Html:
    return tag("pre", tag("code", text), tabindex="0")


def _in_pytorch(folder: str) -> str:
    return (
        "import lessen\n\n# fresh: the network, built as the one that went in; its weights do not matter\n"
        f"network = lessen.load({folder!r}, fresh)"
    )


def _snippet(path: str, names: Sequence[str]) -> str | None:
    """The lines that run a file: any number of inputs, by name, and of outputs.

    Args:
        path: Of the file.
        names: Of its inputs, where they are known.
    """
    told, given = "# inputs: a NumPy array with examples along axis 0, as the network takes them\n", "inputs"
    if len(names) > 1:
        told = f"# {', '.join(names)}: NumPy arrays with examples along axis 0, as the network takes them\n"
        given = "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"
    if path.endswith(".onnx"):
        feed = given if len(names) > 1 else "{session.get_inputs()[0].name: inputs}"
        return (f"import onnxruntime\n\nsession = onnxruntime.InferenceSession({path!r})\n{told}"
                f"outputs = session.run(None, {feed})  # a list, one array for each output")  # fmt: skip
    if path.endswith(".xml"):
        return (f"import openvino\n\n{_EXACT}\nnetwork = openvino.compile_model({path!r}, 'CPU', exact)\n{told}"
                f"outputs = list(network({given}).values())  # one array for each output")  # fmt: skip
    if path.endswith(".pt2"):
        called = "outputs = network(inputs)  # called as the original is"
        return f"import torch\n\nnetwork = torch.export.load({path!r}).module()\n{called}"
    return None
