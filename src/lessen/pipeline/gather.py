"""The files at the top of a run, made of what its steps have left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lessen.core.errors import RunError
from lessen.core.files import read_json, write_json, write_text
from lessen.core.record import Record
from lessen.engine.log import read_log
from lessen.pipeline.folder import RESTORE, RunFolder


def gather(folder: RunFolder, last: int) -> list[Record]:
    """Write records, log, graphs, plans and layers of the steps up to `last`; the records.

    Raises:
        RunError: what a step has left is damaged, or the disk is full.
    """
    rows: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    graphs: list[Any] = []
    for number in range(last + 1):
        kept = folder.read_kept(number)
        rows += kept.records
        for training in sorted(folder.step(number).glob("training*")):
            first = len(graphs)
            graphs += [_placed(graph, first, number) for graph in _drawn(training / "graph.json")]
            lines += [_placed(line, first, number) for line in read_log(training / "log.jsonl")]
    records = [Record.from_json(row) for row in rows]
    write_records(folder, records)
    write_text(folder.log, "".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder.graph, graphs)
    kept = folder.read_kept(last)
    write_json(folder.plan, kept.plans)
    write_json(folder.layers, kept.layers)
    return records


def write_records(folder: RunFolder, records: Sequence[Record]) -> None:
    """Replace the records of a run in one step."""
    write_text(folder.records, "".join(json.dumps(record.to_json(), allow_nan=False) + "\n" for record in records))


def _placed(row: dict[str, Any], first: int, number: int) -> dict[str, Any]:
    return {**row, "stage": first + row["stage"], "pipeline_step": number}


def _drawn(path: Path) -> list[dict[str, Any]]:
    """The graphs of one training; none where it was stopped before it drew them."""
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(map(_has_stage, found)):
        raise RunError(f"{path} is damaged: it is no list of graphs. {RESTORE}")
    return found


def _has_stage(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("stage"), int)
