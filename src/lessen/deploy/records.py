"""What was found out about a file, as records: the names of the figures are those of docs/design.md."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lessen.core.data import Data
from lessen.core.estimate import Estimate
from lessen.core.record import Record
from lessen.deploy.planned import DeployedFile
from lessen.deploy.recommend import Recommendation
from lessen.measure.size import parts_of


def records_of(
    file: DeployedFile,
    recommended: Recommendation | None,
    data: Data,
    *,
    about: dict[str, Any],
) -> list[Record]:
    """Every figure of one file; of one that could not be written only that, and why.

    Args:
        file: The file.
        recommended: The one that is named, and why.
        data: What it was tested on.
        about: How it was timed.
    """

    def say(figure: str, value: Estimate | float | None, unit: str, **more: Any) -> Record:
        estimate = value if isinstance(value, Estimate) else Estimate(float("nan") if value is None else float(value))
        return Record(
            subject=file.name,
            figure=figure,
            value=estimate.value if math.isfinite(estimate.value) else None,
            low=estimate.low,
            high=estimate.high,
            unit=unit,
            step=file.step,
            file=file.name,
            **more,
        )

    found = file.verified
    about_axes = {**file.axes.to_json(), "tried": list(file.tried)} if file.axes.inputs else {}
    told = {"reason": found.reason, "examples": found.examples, **about_axes}
    records = [say("verified", found.passed, "1", detail=told)]
    if not file.bytes:
        return records
    how = {"split": "validation", "examples": found.examples, "against": "PyTorch"}
    records.append(say("bytes", file.bytes, "B", detail={"files": [part.name for part in parts_of(file.path)]}))
    records.append(say("max_difference", found.max_difference, "1", settings=how))
    records.append(say("mean_difference", found.mean_difference, "1", settings=how))
    if found.agreement is not None:
        records.append(say("agreement_with_pytorch", found.agreement, "%", settings=how))
    detail: dict[str, Any] = {"kernels": dict(file.kernels.counts), "multiply_adds": dict(file.kernels.multiply_adds)}
    if file.kernels.unknown:
        detail["reason"] = f"unknown: lessen does not know the kernels {', '.join(file.kernels.unknown)}"
    made_for = {} if file.target is None else {"target": file.target}
    records.append(say("integer_share", file.kernels.integer_share, "%", settings=made_for, detail=detail))
    records += [*_times(file, about, say), *_quality(file, data, say)]
    if recommended is not None and file is recommended.file:
        records.append(say("recommended", 1, "1", detail=recommended.detail()))
    return records


def _times(file: DeployedFile, about: dict[str, Any], say: Any) -> Iterator[Record]:
    for size, speed in file.speed.items():
        how = {"batch": size, "runtime": file.runtime.name, **about}
        for figure, value, unit in speed.figures(size, compared=file.against is not None):
            against = {"reference": file.against} if figure == "speedup" else {}
            yield say(figure, value, unit, settings={**how, **against}, detail=speed.detail())


def _quality(file: DeployedFile, data: Data, say: Any) -> Iterator[Record]:
    how = {"split": "test", "examples": len(data.test), "data": data.name}
    for figure in file.quality:
        yield say(
            figure.name, figure.estimate, figure.unit, settings={**how, **figure.settings}, detail=figure.detail()
        )
