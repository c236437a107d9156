"""The table: for each method what its authors claim, what we saw, and when to use it. Made from the results alone.

A difference counts as seen where the 95 % interval of the paired difference over the seeds (Student's t) leaves out
zero and the mean is at least 0.8 points: with five seeds less is not credible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trials import Asked, settings_of

from lessen.core.files import write_json, write_text

LEAST = 0.8
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
WORDS = {1: "better", 0: "no difference seen", -1: "worse"}


def read(results: Path, asked: Asked) -> dict[tuple[str, str], dict[str, Any]]:
    """Results by regime and variant; those of other settings than are asked now are left out, and said."""
    found = {}
    for file in sorted(results.glob("*--*--*.json")):
        result = json.loads(file.read_text())
        regime, variant = result["regime"], result["variant"]
        if variant not in asked.variants or regime not in asked.regimes:
            print(f"{file.name}: no such variant or regime any more; left out.")
        elif result["settings"] != settings_of(asked, regime, variant):
            print(f"{file.name}: of other settings; left out.")
        else:
            found[regime, variant] = result
    return found


def values(result: Mapping[str, Any], figure: str | None = None) -> dict[int, float]:
    return {row["seed"]: row["test"][figure or result["figure"]] for row in result["runs"]}


def mean_and_spread(numbers: Mapping[int, float]) -> tuple[float, float]:
    own = list(numbers.values())
    mean = sum(own) / len(own)
    return mean, math.sqrt(sum((one - mean) ** 2 for one in own) / (len(own) - 1))


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> dict[str, float]:
    """The mean of the paired differences, its 95 % interval, and 1, 0 or -1: better, nothing seen, worse."""
    paired = {seed: one[seed] - other[seed] for seed in one if seed in other}
    mean, spread = mean_and_spread(paired)
    half = STUDENT_T[len(paired)] * spread / math.sqrt(len(paired))
    seen = 0 if abs(mean) < LEAST or abs(mean) <= half else (1 if mean > 0 else -1)
    return {"mean": round(mean, 2), "low": round(mean - half, 2), "high": round(mean + half, 2), "seen": seen}


def rows_of(asked: Asked, found: Mapping[tuple[str, str], dict[str, Any]], variant: str) -> Iterator[dict[str, Any]]:
    """What was seen of a variant, one row for each regime."""
    for regime, about in asked.regimes.items():
        result = found.get((regime, variant))
        if result is None:
            continue
        mean, spread = mean_and_spread(values(result))
        row = {"regime": regime, "says": about.says, "figure": result["figure"], "mean": round(mean, 2)}
        row |= {"spread": round(spread, 2), "chosen": result["chosen"], "seeds": len(result["runs"])}
        if about.also is not None:
            row["also"] = {about.also: round(mean_and_spread(values(result, about.also))[0], 1)}
        for control in ("labels", "smoothing", "SoftTargets"):
            if control != variant and (regime, control) in found:
                row[f"over_{control}"] = difference(values(result), values(found[regime, control]))
        yield row


def count(regimes: int) -> str:
    return f"{regimes} regime" + "s" * (regimes != 1)


def verdict(rows: list[dict[str, Any]], over: str | None) -> str:
    """Whether a claim was seen, in one sentence; counts regimes, not chances."""
    if not rows:
        return "not measured"
    compared = [row[f"over_{over}"]["seen"] for row in rows if f"over_{over}" in row]
    if over is None or not compared:
        return "no claim that these regimes can show" if over is None else "its control was not measured"
    better, worse, name = compared.count(1), compared.count(-1), over.replace("SoftTargets", "tuned soft targets")
    told = f"better than {name} in {better} of {count(len(compared))}, worse in {worse}"
    if better == 0:
        return f"**did not reproduce**: {told}"
    return f"reproduced in part: {told}" if better < len(compared) else f"reproduced: {told}"


def when(rows: list[dict[str, Any]], variant: str) -> str:
    """When to use it, from the regimes in which it beat what is simpler."""
    if not rows:
        return "unknown"
    over = "over_labels" if variant == "SoftTargets" else "over_SoftTargets"
    better = [row["says"] for row in rows if over in row and row[over]["seen"] == 1]
    equal = [row["says"] for row in rows if over in row and row[over]["seen"] == 0]
    name = "labels" if variant == "SoftTargets" else "tuned soft targets"
    if better:
        return f"where it beat {name}: {'; '.join(better)}"
    if equal:
        return f"nowhere first: it never beat {name}, and was not told apart from them in {count(len(equal))}"
    return f"not in these regimes: {name} are better in all" if any(over in row for row in rows) else "unknown"


def write_table(asked: Asked, results: Path, folder: Path) -> None:
    """Write table.json, for the pages of the methods, and table.md, for people."""
    found = read(results, asked)
    made = {}
    for name, variant in asked.variants.items():
        rows, claims = list(rows_of(asked, found, name)), variant.claims
        over = claims.over if claims else None
        made[name] = {
            "method": variant.of or name,
            "control": variant.control,
            "claims": claims.says if claims else "",
            "seen": verdict(rows, over),
            "use": when(rows, name),
            "rows": rows,
        }
    write_json(folder / "table.json", {"least": LEAST, "elsewhere": dict(asked.elsewhere), "variants": made})
    write_text(folder / "table.md", shown(asked, made))
    print(f"{len(found)} results; table.md and table.json are written.")


def shown(asked: Asked, made: Mapping[str, Any]) -> str:
    """The table as Markdown: claims, what was seen, when to use it; then the figures regime by regime."""
    lines = ["# What each kind of knowledge is worth", "", __doc__.split("\n\n")[1].replace("\n", " "), ""]
    lines += ["Generated by `python benchmarks/knowledge/run.py table` from `results/`.", ""]
    lines += ["| method | its authors, or others | here | when to use it |", "| --- | --- | --- | --- |"]
    measured = {name: row for name, row in made.items() if row["rows"]}
    for name, row in measured.items():
        if name not in {"labels", "smoothing", "labels_for_longer", "shuffled"}:
            lines.append(f"| {name} | {row['claims'] or '-'} | {row['seen']} | {row['use']} |")
    for regime, about in asked.regimes.items():
        here = {name: [r for r in row["rows"] if r["regime"] == regime] for name, row in measured.items()}
        here = {name: rows for name, rows in here.items() if rows}
        if not here:
            continue
        title = about.figure.replace("_", " ")
        lines += ["", f"## {regime}: {about.says}", "", f"| | {title} | over labels | over soft targets | chosen |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, (row,) in sorted(here.items(), key=lambda item: -item[1][0]["mean"]):
            also = "".join(f"; {key.replace('_', ' ')} {value}" for key, value in row.get("also", {}).items())
            cells = [_told(row.get(f"over_{control}")) for control in ("labels", "SoftTargets")]
            chosen = json.dumps(row["chosen"]).replace("|", "\\|")
            lines.append(
                f"| {name} | {row['mean']:.2f} ± {row['spread']:.2f}{also} | {cells[0]} | {cells[1]} | `{chosen}` |"
            )
    absent = [name for name, row in made.items() if not row["rows"]]
    if absent:
        lines += ["", f"Without a result: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


def _told(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    text = f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
    return f"**{text}**" if found["seen"] else text
