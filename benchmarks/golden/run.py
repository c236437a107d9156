"""Do ten recipes still give the same weights, plans and files, bit for bit?

    python benchmarks/golden/run.py --before REF [--after HEAD] [--only channels,masks]

Runs the recipes in `recipes/` with the code of two commits, on the same machine, one after the other, and compares
every file of the run folders that does not depend on the clock. Weights depend on the processor, so nothing is
committed to compare with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMPARED = ("weights.safetensors", "plan.json", "*.onnx", "*.xml", "*.bin", "log.jsonl", "packed.safetensors")
CLOCK = {"seconds", "time", "at", "written", "examples_per_second", "speed", "took"}


def without_clock(value: Any) -> Any:
    """JSON data without what a clock has written."""
    if isinstance(value, Mapping):
        return {name: without_clock(part) for name, part in value.items() if name not in CLOCK}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def digest(path: Path) -> str:
    """Of the content; of a log, of its rows without times; of tensors, without the order of what describes them."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        content = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode() + content[8 + length :]
    if path.suffix == ".jsonl":
        content = json.dumps([without_clock(json.loads(line)) for line in content.splitlines()]).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def outcome(recipe: Path, source: Path, folder: Path) -> dict[str, str]:
    """Run a recipe with the code in `source`; the digests of its files by name."""
    run = folder / recipe.stem
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lessen"]
    done = subprocess.run(
        [*command, "run", str(recipe), "--run", str(run)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"failed": done.stderr.strip()[-400:]}
    packed = [*command, "pack", str(run), "--out", str(run / "packed.safetensors")]
    done = subprocess.run(packed, env=environment, capture_output=True, text=True, check=False)
    found = {} if done.returncode == 0 else {"pack": done.stderr.strip()[-400:]}
    files = sorted(file for pattern in COMPARED for file in run.rglob(pattern))
    return found | {str(file.relative_to(run)): digest(file) for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="REF", help="the commit to compare with")
    parser.add_argument("--after", default="HEAD", metavar="REF", help="the commit to compare")
    parser.add_argument("--only", default="", help="names of recipes")
    asked = parser.parse_args()
    names = [name for name in asked.only.split(",") if name]
    recipes = [recipe for recipe in sorted((HERE / "recipes").glob("*.yaml")) if not names or recipe.stem in names]
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        trees = {ref: Path(scratch) / name for name, ref in (("old", asked.before), ("new", asked.after))}
        git = ["git", "-C", str(ROOT), "worktree"]
        for ref, tree in trees.items():
            subprocess.run([*git, "add", "--quiet", "--detach", str(tree), ref], check=True)
        try:
            for recipe in recipes:
                before, after = (outcome(recipe, tree / "src", tree / "runs") for tree in trees.values())
                wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
                failed = after.get("failed") or after.get("pack")
                different += bool(wrong or failed)
                verdict = f"differs in {', '.join(wrong)}" if wrong else f"the same {len(before)} files"
                print(f"{recipe.stem}: {failed or verdict}", flush=True)
        finally:
            for tree in trees.values():
                subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    print(f"{len(recipes) - different} of {len(recipes)} recipes give the same, bit for bit")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
