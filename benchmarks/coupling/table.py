"""Writes the tables of README.md from results/.

python benchmarks/coupling/table.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKS = {"smaller": "smaller", "equal": "equals masking", "reload": "loads again", "onnx": "ONNX agrees"}
NOT_KNOWN = {"torch-pruning": {("timm:convnext_zepto_rms", "equal")}}
"""Checks whose reference is not right for a network; README.md says why."""

BEGIN, END = "<!-- tables: written by table.py -->", "<!-- end -->"

Row = dict[str, Any]
NOT_RUN = "not run"


def rows(arm: str) -> dict[str, Row]:
    """The results of one arm, by the name of the network, in the order of the list."""
    order = [row["name"] for row in json.loads((HERE / "networks.json").read_text())]
    found = {
        row["name"]: row for file in (HERE / "results" / arm).glob("*.json") for row in [json.loads(file.read_text())]
    }
    for name, check in NOT_KNOWN.get(arm, ()):
        found.get(name, {}).pop(check, None)
    if not any("export" in row["steps"] for row in found.values()):
        found = {name: row | {"onnx": NOT_RUN} for name, row in found.items()}
    return {name: found[name] for name in order if name in found}


def passed(row: Row, checks: Sequence[str] = tuple(CHECKS)) -> bool:
    """Whether all of these checks were passed."""
    return all(row.get(check) is True for check in checks)


def asked(row: Row, check: str) -> bool:
    """Whether a check was made of a network, or an earlier failure kept it from being made."""
    return row.get(check) != NOT_RUN and (check in row or "error" in row)


def count(found: dict[str, Row], checks: Sequence[str]) -> str:
    """How many networks passed these checks, of those of which all were made."""
    made = [row for row in found.values() if all(asked(row, check) for check in checks)]
    return f"{sum(passed(row, checks) for row in made)} of {len(made)}" if made else NOT_RUN


def summary() -> list[str]:
    """One line for each check: how many networks of how many passed it, in each arm."""
    arms = {arm: rows(arm) for arm in ("lessen", "torch-pruning")}
    lines = ["| check | lessen | Torch-Pruning 1.6.1 |", "| --- | --- | --- |"]
    groups = {title: (check,) for check, title in CHECKS.items()}
    groups |= {"**all but ONNX**": ("smaller", "equal", "reload"), "**all**": tuple(CHECKS)}
    for title, checks in groups.items():
        lines.append(f"| {title} | " + " | ".join(count(found, checks) for found in arms.values()) + " |")
    return lines


def failures(arm: str) -> list[str]:
    """Each network that failed a check, and the cause."""
    lines = ["| network | failed | cause |", "| --- | --- | --- |"]
    for name, row in rows(arm).items():
        wrong = [title for check, title in CHECKS.items() if asked(row, check) and row.get(check) is not True]
        if wrong:
            cause = row.get("error") or row.get("equal_error") or row.get("onnx_error") or _off(row)
            lines.append(f"| {name} | {', '.join(wrong)} | {cause[:160].replace('|', '/')} |")
    return lines if len(lines) > 2 else ["None."]


def _off(row: Row) -> str:
    figures = [f"{key.replace('_', ' ')} {row[key]:.1e}" for key in row if key.endswith("difference")]
    return "; ".join(figures)


def networks() -> list[str]:
    """Each network that lessen pruned: what is left of it, and what was left alone and why."""
    lines = [
        "| network | parameters | left | multiply-adds left | groups | seconds | left alone |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows("lessen").items():
        if "parameters" not in row:
            continue
        before, after = row["parameters"]
        products = row["multiply_adds"]
        whole, left = f"{before / 1e6:.1f} M", f"{100 * after / before:.0f} %"
        work = f"{100 * products[1] / max(products[0], 1):.0f} %"
        seconds = f"{row['seconds_plan']:.0f}" if "seconds_plan" in row else ""
        lines.append(f"| {name} | {whole} | {left} | {work} | {row['groups']} | {seconds} | {_alone(row)} |")
    return lines


def _alone(row: Row) -> str:
    """The reasons other than that something is an output, each with how many modules it holds back."""
    reasons = Counter(_short(why) for why in (row["pinned"] | row["left_out"]).values())
    reasons.pop("an output of the network", None)
    return "; ".join(f"{why} ({count})" for why, count in reasons.most_common(2))


def _short(why: str) -> str:
    return why.split(" in ")[0][:70].replace("|", "/")


def main() -> None:
    page = (HERE / "README.md").read_text()
    before, rest = page.split(BEGIN)
    parts = [
        *summary(),
        "",
        "What lessen failed:",
        "",
        *failures("lessen"),
        "",
        "<details><summary>What Torch-Pruning failed</summary>",
        "",
        *failures("torch-pruning"),
        "",
        "</details>",
        "",
        "<details><summary>Every network</summary>",
        "",
        *networks(),
        "",
        "</details>",
    ]
    text = "\n".join(parts)
    (HERE / "README.md").write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
