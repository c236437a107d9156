"""Sixteen people, each with a network and data of their own: a few lines of lessen against a loop by hand.

    python benchmarks/people/run.py [NAME ...] [--seeds 0]     results/NAME.json
    python benchmarks/people/run.py --table                    the table of README.md

A story has a network that was trained by a plain loop, the data in the form that its owner has it in, and the lines
that its owner writes (`stories.py`, at most twelve). Quality is computed here, from the outputs of the network in
PyTorch and of the file in plain onnxruntime, by functions that do not use lessen. It is compared with a loop written by
hand: the same smaller network, trained with Adam at the best of four rates, chosen on the validation split.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import inspect
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from stories import STORIES, Setup, Story
from torch import Tensor

from lessen.core.machine import machine, versions
from lessen.data import load
from lessen.measure.task import with_task
from lessen.operations import PruneChannels
from lessen.pipeline.steps import context_for

RESULTS = Path(__file__).parent / "results"
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def rows(inputs: Any, index: Any) -> Any:
    """Some examples of inputs of any form."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    if isinstance(inputs, dict):
        return {name: value[index] for name, value in inputs.items()}
    if hasattr(inputs, "rows"):  # of several sizes
        return inputs.rows(index)
    return tuple(value[index] for value in inputs)


def call(network: Any, inputs: Any) -> Any:
    """A network on inputs of any form."""
    if isinstance(inputs, dict):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def main_output(returned: Any, name: str | None) -> Tensor:
    """The output that is judged."""
    if isinstance(returned, Tensor):
        return returned
    if name is None:
        return returned.logits if hasattr(returned, "logits") else returned["logits"]
    return returned[name] if isinstance(returned, dict) else getattr(returned, name)


def in_pytorch(network: torch.nn.Module, setup: Setup, part: tuple[Any, Tensor]) -> float:
    """The quality of a network on a split."""
    network.eval()
    with torch.no_grad():
        outputs = [
            main_output(call(network, rows(part[0], slice(i, i + 64))), setup.output)
            for i in range(0, len(part[1]), 64)
        ]
    return setup.score(torch.cat(outputs), part[1])


def in_onnxruntime(file: Path, setup: Setup, part: tuple[Any, Tensor], size: int = 16) -> float:
    """The quality of a file on a split, with nothing but onnxruntime; the last batch is smaller than the others."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    wanted = [each.name for each in session.get_outputs()]
    place = wanted.index(setup.output) if setup.output in wanted else 0
    outputs = []
    for i in range(0, len(part[1]), size):
        some = rows(part[0], slice(i, i + size))
        if isinstance(some, dict):
            feed = {name: some[name].numpy() for name in names}
        else:
            values = some if isinstance(some, tuple) else (some,)
            feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        outputs.append(torch.from_numpy(np.asarray(session.run(None, feed)[place])))
    return setup.score(torch.cat(outputs), part[1])


def fit(network: Any, teacher: Any, setup: Setup, *, rate: float, epochs: int, seed: int) -> None:
    """The loop that a person writes: Adam, cosine, both losses."""
    torch.manual_seed(seed)
    inputs, labels = setup.train
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, rate)
    count = len(labels)
    steps = epochs * max(1, count // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for index in torch.randperm(count).split(64)[: max(1, count // 64)]:
            some = rows(inputs, index)
            out = main_output(call(network, some), setup.output)
            loss = setup.loss(out, labels[index])
            if teacher is not None:
                with torch.no_grad():
                    taught = main_output(call(teacher, some), setup.output)
                loss = loss + setup.distance(out, taught)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def by_hand(setup: Setup, network: Any, *, seed: int) -> float | None:
    """The best of a few rates, chosen on the validation split, on the test split; None where nothing is trained."""
    if setup.epochs == 0:
        return None
    parts = {"train": setup.train, "validation": setup.validation, "test": setup.test}
    data = replace(load(setup.data if hasattr(setup.train[0], "rows") else parts), output=setup.output)
    data = data if setup.task == "none" else with_task(data, network)
    pruned = network
    if setup.keep is not None:
        context = context_for(data, count=128, device=torch.device("cpu"), seed=seed)
        pruned = PruneChannels(keep=setup.keep).plan(network, context).apply(network)
    start = setup.student if setup.student is not None else pruned
    found = []
    for rate in RATES:
        student = copy.deepcopy(start)
        for mine, theirs in zip(student.parameters(), start.parameters(), strict=True):
            mine.requires_grad_(theirs.requires_grad)
        fit(student, copy.deepcopy(network).eval(), setup, rate=rate, epochs=setup.epochs, seed=seed)
        found.append((in_pytorch(student, setup, setup.validation), in_pytorch(student, setup, setup.test)))
    better = max if setup.higher else min
    return better(found)[1]


def lines_of(story: Story) -> int:
    """How many lines the person writes: the body, without its comment."""
    source = inspect.getsource(story.lines).splitlines()[1:]
    return sum(1 for line in source if line.strip() and not line.strip().startswith(("#", '"""', ")", "]")))


def tell(story: Story, seed: int) -> dict[str, Any]:
    """One story from the beginning to the file."""
    torch.manual_seed(seed)
    setup = story.make(seed)
    network = setup.network
    if setup.first_epochs:
        fit(network, None, setup, rate=setup.first_rate, epochs=setup.first_epochs, seed=seed)
    before = in_pytorch(network, setup, setup.test)
    folder = Path(tempfile.mkdtemp()) / "run"
    start = time.process_time()
    done = story.lines(network, setup, folder)
    seconds = time.process_time() - start
    file = done.file if done.file is not None and done.file.suffix == ".onnx" else folder / "model.onnx"
    told = {
        "story": story.name,
        "seed": seed,
        "lines": lines_of(story),
        "figure": setup.figure,
        "higher_is_better": setup.higher,
        "before": before,
        "after": in_pytorch(done.model, setup, setup.test),
        "file": in_onnxruntime(file, setup, setup.test),
        "files": {each.name: in_onnxruntime(each, setup, setup.test) for each in sorted(folder.glob("model*.onnx"))},
        "recommended": None if done.file is None else done.file.name,
        "by_hand": by_hand(setup, network, seed=seed),
        "bytes": {
            "before": sum(p.numel() * 4 for p in network.parameters()),
            "after": file.stat().st_size,
        },
        "headline": next((row.figure for row in done.records if row.detail.get("headline")), None),
        "cpu_seconds": round(seconds, 1),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
    shutil.rmtree(folder.parent)
    return told


def verdict(row: dict[str, Any]) -> str:
    """Whether lessen is within a point (3 % of a regression's error) of the loop by hand."""
    if row["by_hand"] is None:
        return "no training"
    worse = row["by_hand"] - row["after"] if row["higher_is_better"] else row["after"] - row["by_hand"]
    limit = 1.0 if row["higher_is_better"] else 0.03 * row["by_hand"]
    return "yes" if worse <= limit else f"no, {worse:.2f} worse"


def table() -> str:
    """The table of README.md."""
    lines = [
        "| story | lines | figure | before | after | file | by hand | as good |",
        "| --- | --: | --- | --: | --: | --: | --: | --- |",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        for row in json.loads(path.read_text()):
            hand = "–" if row["by_hand"] is None else f"{row['by_hand']:.2f}"
            lines.append(
                f"| {row['story']} | {row['lines']} | {row['figure']} | {row['before']:.2f} | {row['after']:.2f} | "
                f"{row['file']:.2f} | {hand} | {verdict(row)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what was named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        print(table())
        return
    torch.set_num_threads(1)
    for story in STORIES:
        if asked.names and story.name not in asked.names:
            continue
        told = [tell(story, seed) for seed in asked.seeds]
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{story.name}.json").write_text(json.dumps(told, indent=1) + "\n")
        for row in told:
            figures = f"{row['before']:.2f} -> {row['after']:.2f}, file {row['file']:.2f}, by hand {row['by_hand']}"
            print(f"{story.name}: {figures}; {row['lines']} lines, {row['cpu_seconds']} CPU s", file=sys.stderr)


if __name__ == "__main__":
    main()
