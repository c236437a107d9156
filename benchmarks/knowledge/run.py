"""Which kind of knowledge helps a small student, where, and how much more than plain soft targets?

    python benchmarks/knowledge/run.py anchors [--write]          the known figures of the small regime, by one command
    python benchmarks/knowledge/run.py measure [--regimes ...] [--variants ...]
                                                                  everything that has no result yet, one file each
    python benchmarks/knowledge/run.py table                      table.md and table.json, from the results
    python benchmarks/knowledge/run.py missing                    what has no result, or one of other settings

What is compared stands in settings.yaml. A result is written once, whole, and never edited; to measure again, delete
it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

import torch
from anchors import anchors
from table import write_table
from trials import Asked, applies, asked, code_of, evidence, settings_of

from lessen.core.errors import LessenError
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.engine import Stopped
from lessen.recipe import methods

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2, 3, 4)


def place(regime: str, variant: str) -> Path:
    return RESULTS / f"{regime}--{variant}--{SEEDS[0]}-{SEEDS[-1]}.json"


def pairs(asked: Asked, regimes: list[str] | None, variants: list[str] | None) -> list[tuple[str, str]]:
    """Regimes with the variants that have a place there; a variant that cannot be read has none, and is said."""
    found = []
    for name in regimes or asked.regimes:
        for variant in variants or asked.variants:
            try:
                if applies(asked.variants[variant], asked.regimes[name]):
                    found.append((name, variant))
            except LessenError as error:
                print(f"{variant}: {error}", file=sys.stderr)
    return found


def measure(asked: Asked, regimes: list[str] | None, variants: list[str] | None) -> int:
    failed = 0
    for regime, variant in pairs(asked, regimes, variants):
        if place(regime, variant).exists():
            continue
        try:
            found = evidence(asked, regime, variant, SEEDS)
        except Stopped:
            raise
        except LessenError as error:
            failed += 1
            print(f"{regime:14}{variant:28}FAILED: {error}", flush=True)
            continue
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        found |= {"at": now, "threads": torch.get_num_threads(), "machine": machine(), "versions": versions()}
        write_json(place(regime, variant), found)
        values = torch.tensor([row["test"][found["figure"]] for row in found["runs"]])
        told = f"{values.mean():6.2f} ± {values.std():.2f}   {found['chosen']}   {found['seconds']} s"
        print(f"{regime:14}{variant:28}{told}", flush=True)
    return failed


def missing(asked: Asked) -> int:
    """Say what has no result, what has one of other settings, and which methods are in no variant."""
    absent, old, changed = [], [], []
    for regime, variant in pairs(asked, None, None):
        file = place(regime, variant)
        result = json.loads(file.read_text()) if file.exists() else None
        if result is None:
            absent.append(f"{regime} / {variant}")
        elif result["settings"] != settings_of(asked, regime, variant):
            old.append(f"{regime} / {variant}")
        elif result["code"] != code_of(asked.variants[variant]):
            changed.append(f"{regime} / {variant}")
    named = {variant.of or name for name, variant in asked.variants.items()} | set(asked.elsewhere)
    alone = [
        name
        for name, cls in methods().items()
        if cls.card.row.startswith("knowledge /") and not {name, cls.card.row} & named
    ]
    for title, rows in (
        ("No result", absent),
        ("Of other settings", old),
        ("Of code whose file has changed since", changed),
        ("In no variant", alone),
    ):
        print(f"{title}: {len(rows)}" + "".join(f"\n  {row}" for row in rows))
    return len(absent) + len(old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["anchors", "measure", "table", "missing"])
    parser.add_argument("--regimes", nargs="+")
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--write", action="store_true", help="keep the anchors in results/")
    given = parser.parse_args()
    torch.set_num_threads(1)
    said = asked()
    if given.what == "anchors":
        sys.exit(anchors(said, RESULTS / "anchors.json" if given.write else None))
    if given.what == "measure":
        sys.exit(1 if measure(said, given.regimes, given.variants) else 0)
    if given.what == "table":
        write_table(said, RESULTS, Path(__file__).parent)
    else:
        missing(said)


if __name__ == "__main__":
    main()
