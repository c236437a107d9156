"""What `lessen measure` does: a name or a file in, records out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lessen.core.data import Data, Inputs
from lessen.core.errors import NetworkError, SettingError
from lessen.core.record import Record

RUNTIMES = {".onnx": "OnnxRuntime", ".xml": "OpenVino", ".pt2": "TorchProgram"}


def measured(
    model: str,
    data: str | None,
    *,
    weights: Path | None,
    pairs: Sequence[str],
    batches: tuple[int, ...],
    threads: int | None,
    task: str | None = None,
    output: str | None = None,
    allow_import: bool,
) -> list[Record]:
    """Every figure that can be had of a network or a file.

    Args:
        model: A network, as `zoo.build` takes it, or the path of a file.
        data: The data to measure quality on, as `data.load` takes it, or None.
        weights: A file of weights for a network, or None.
        pairs: Arguments of a network, as "width=32".
        batches: Batch sizes to time at.
        threads: How many; None for those of torch.
        task: What outputs and labels mean, by its name; None: guessed.
        output: Which output is judged, by its name; None: `logits`, or the only one.
        allow_import: Whether a `.pt2` program may be loaded, which can execute code that it holds.

    Raises:
        LessenError: there is no such network, file or data, or they do not fit together.
    """
    from lessen import measure
    from lessen.data import load
    from lessen.measure.size import parts_of
    from lessen.measure.task import with_task
    from lessen.zoo import build, check_classes

    if data is None and (task is not None or output is not None):
        raise SettingError("--task and --output say how outputs are judged, for which --data is needed.")
    arguments = dict(pair(text) for text in pairs)
    threads = threads if threads is not None else torch.get_num_threads()

    def told(runs: Any) -> Data | None:
        """The data, with the task and the output that were named."""
        found = None if data is None else replace(load(data), output=output)
        return found if found is None or task is None else with_task(found, runs, task=task)

    path = Path(model)
    if path.suffix in RUNTIMES or path.suffix == ".safetensors":
        if weights is not None or arguments:
            raise SettingError(f"{model} is a file; --weights and --set belong to a network, as zoo:residual.")
        if path.suffix == ".onnx":
            parts_of(path)  # before a runtime reads them
        program = _opened(path, threads, allow_import) if data is not None and path.suffix in RUNTIMES else None
        if program is None and (task is not None or output is not None):
            raise SettingError(f"{model} holds weights and no network, so --task and --output have no meaning.")
        runtime = RUNTIMES.get(path.suffix, "none")
        return measure(path, told(program), run=program, runtime=runtime, batch_sizes=batches, threads=threads)
    if path.exists():
        raise NetworkError(
            f"{model} cannot be measured; supported file extensions are {', '.join(RUNTIMES)}, .safetensors."
        )
    network = build(model, weights=weights, **arguments).eval()
    examples = told(network)
    if examples is not None:
        _check(examples, check_classes, network)
    return measure(network, examples, batch_sizes=batches, threads=threads, subject=model)


def show_records(records: Sequence[Record], console: Console) -> None:
    """One line a figure, with its interval and how it was measured."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("settings", overflow="fold")
    for record in records:
        unit = "" if record.unit == "1" else f" {record.unit}"
        interval = "" if record.low is None or record.high is None else f"{record.low:.4g} to {record.high:.4g}"
        value = "none" if record.value is None else _number(record.value) + unit
        said = ", ".join(f"{key}={item}" for key, item in record.settings.items())
        table.add_row(*map(Text, (record.figure.replace("_", " "), value, interval, said)))
    console.print(table)
    for reason in dict.fromkeys(record.detail.get("reason") for record in records if record.value is None):
        if reason is not None:
            console.print(Text(f"Not measured: {reason}."))


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


def _opened(path: Path, threads: int, allow_import: bool) -> Callable[[Inputs], Any]:
    from lessen import deploy

    if allow_import and path.suffix == ".pt2" and path.is_file():
        deploy.trust_pt2(path)
    runtime = getattr(deploy, RUNTIMES[path.suffix])
    program: Callable[[Inputs], Any] = runtime().load(path, threads=threads)
    return program


def _check(task: Data, check: Callable[..., None], network: Any) -> None:
    task.check()
    check(network, task)


def pair(text: str) -> tuple[str, Any]:
    """An argument of a network as a person writes it: name=value.

    Raises:
        SettingError: it is not of that form.
        RecipeError: the value is not YAML.

    >>> pair("width=32")
    ('width', 32)
    """
    name, equals, value = text.partition("=")
    if name in {"weights", "seed"}:
        raise SettingError(f"--set {name} is no argument of a network. Weights are given with --weights.")
    if not equals or not name.isidentifier():
        raise SettingError(f"--set {text!r} is no argument of a network; expected name=value, as width=32.")
    from lessen.recipe import plain_value

    return name, plain_value(value, f"--set {name}")
