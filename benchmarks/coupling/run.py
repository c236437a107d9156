"""How many networks can be pruned, and is what comes out right? See README.md.

    python benchmarks/coupling/run.py [--only NAME ...] [--again] [--limit 240] [--fill] [--exports]
    PYTHONPATH=/where/torch-pruning/is python benchmarks/coupling/run.py --peer

Each network has processes of its own, with a limit on the processor's time: one prunes and compares, a second, which
has not seen the network, loads what the first has written, a third exports. All are forks of this one, which has
imported the libraries and never holds a network of the list. What has a result for this state of the code is skipped.
The program may be started several times; each takes what no other is at.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import ours
import torch
from networks import Named, networks
from torch import nn

from lessen.core.files import write_json
from lessen.core.machine import machine, versions

RESULTS = Path(__file__).parent / "results"
KEPT = Path(tempfile.gettempdir()) / "coupling"
"""Plans stay here between the steps; they can be made again."""
CHECKS = ("smaller", "equal", "reload", "onnx")

Step = Callable[[Named, Path, dict[str, Any]], None]


def source() -> str:
    """A digest of the code that decides what is pruned."""
    import lessen

    root = Path(lessen.__file__).parent
    files = [*root.glob("surgery/**/*.py"), *root.glob("operations/prune_channels/*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


def apart(step: Step, named: Named, folder: Path, limit: float) -> dict[str, Any]:
    """What a step makes of a network in a process of its own."""
    file = folder / "result.json"
    file.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = multiprocessing.get_context("fork").Process(target=_inside, args=(step, named, folder, limit))
    process.start()
    process.join()
    found = json.loads(file.read_text()) if file.is_file() else {}
    if "error" not in found and process.exitcode != 0:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cause = f"exit code {process.exitcode}"
        if process.exitcode == -9:  # the limit kills alike with what kills where memory ends
            cause = (
                f"stopped after {limit:.0f} s" if used > 0.95 * limit else f"killed after {used:.0f} of {limit:.0f} s"
            )
        found["error"] = f"{cause} in {step.__name__}"
    return found


def _inside(step: Step, named: Named, folder: Path, limit: float) -> None:
    result: dict[str, Any] = {}
    resource.setrlimit(resource.RLIMIT_CPU, (round(limit), round(limit)))
    with (folder / "said.txt").open("a") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            step(named, folder, result)
        except BaseException as error:  # noqa: BLE001  (whatever a network does is the finding)
            result["error"] = ours.told(error)
    used = round(time.process_time(), 1)
    (folder / "result.json").write_text(json.dumps(result | {f"seconds_{step.__name__}": used}))


def warm_up() -> None:
    """Import everything and run it once, so that no network pays for it."""
    import timm  # noqa: F401
    import torchvision  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        network, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), torch.rand(2, 3, 4, 4)
        plan = ours.PruneChannels().plan(network, ours.Context(inputs=x))
        small = plan.apply(network)
        with torch.no_grad():
            ours.onnx(small, x, small(x), Path(folder))


def _claim(file: Path) -> bool:
    """Whether no other run of this program is at this network."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        try:
            os.kill(int(file.read_text() or 0), 0)
        except (ProcessLookupError, ValueError):
            pass
        else:
            return False
    file.write_text(str(os.getpid()))
    return True


def settle(named: Named, arm: str, code: str, steps: tuple[Step, ...], asked: argparse.Namespace) -> None:
    """Do those steps of a network that have no result yet, and write what they found."""
    file, folder = RESULTS / arm / f"{named.file}.json", KEPT / arm / named.file
    result = json.loads(file.read_text()) if file.is_file() else {}
    stale = result.get("code") != code and not asked.fill
    if not result or stale or asked.again:
        result = {"name": named.name, "image": named.image, "arguments": named.arguments, "code": code, "steps": []}
    if "error" in result or all(step.__name__ in result["steps"] for step in steps):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not _claim(folder / "claim"):
        return
    for step in steps:
        if "error" not in result and step.__name__ not in result["steps"]:
            result |= apart(step, named, folder, asked.limit)
            result["steps"] = [*result["steps"], step.__name__]
    for name in ("weights.safetensors", "model.onnx", "claim"):
        (folder / name).unlink(missing_ok=True)
    write_json(file, result | {"versions": versions(), "machine": machine()})
    wrong = [check for check in CHECKS if result.get(check) is False]
    size = "{:.2f}".format(result["parameters"][1] / result["parameters"][0]) if "parameters" in result else "-"
    seconds = sum(value for key, value in result.items() if key.startswith("seconds_"))
    print(f"{named.name} {size} {seconds:.0f} s", *result["steps"], *wrong, result.get("error", ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune every network of the list, and check what comes out.")
    parser.add_argument("--only", nargs="*", help="names, or parts of them")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds of the processor for one step of a network")
    parser.add_argument("--fill", action="store_true", help="not those that have a result of another state of the code")
    parser.add_argument("--exports", action="store_true", help="only the export of what is pruned already")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning in place of lessen")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if asked.peer:
        import peer

        arm, code = "torch-pruning", peer.version()
        first: tuple[Step, ...] = (peer.prune, peer.reload)
        last: Step = peer.export
    else:
        arm, code, first, last = "lessen", source(), (ours.prune, ours.reload), ours.export
    warm_up()
    chosen = [named for named in networks() if not asked.only or any(one in named.name for one in asked.only)]
    # Export takes the longest: of every network first the rest.
    for steps in ((last,),) if asked.exports else (first, (*first, last)):
        for named in chosen:
            if not asked.exports or (KEPT / arm / named.file / "wanted.safetensors").is_file():
                settle(named, arm, code, steps, asked)


if __name__ == "__main__":
    main()
