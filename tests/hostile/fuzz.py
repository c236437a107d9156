"""Feed lessen with damaged and forged files and commands, and count what must never happen.

    python tests/hostile/fuzz.py --tries 10000 [--seed 0] [--only recipes]

Tries run one after the other in a worker, each in an empty folder; a worker is a fork of a process that has imported
everything. A try is fine when it succeeds or ends in
one `LessenError` or in exit code 0 or 2. It is bad when a payload was executed, any other exception came, it took more
than 20 CPU seconds (or blocked for 60 seconds), its memory grew by 2 GiB, or a run ended with other bits. The parent
counts; exit code 1 means that something was bad. A try is named by its target, the seed and its number, and can be
repeated alone with `--first NUMBER --tries 1 --only TARGET`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CPU_SECONDS = float(os.environ.get("FUZZ_CPU_SECONDS", "20"))
WALL_SECONDS = float(os.environ.get("FUZZ_WALL_SECONDS", "60"))
MEMORY = 2 << 30
KINDS = ("executed", "traceback", "hang", "memory", "other bits", "killed")


class Hang(BaseException):
    """A try that took too long."""


# The worker


def work(asked: list[tuple[str, int]], seed: int, ground: Path, say: int) -> None:
    """Carry out tries, and write one line of JSON for each to a file descriptor."""
    import targets

    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    made = {**targets.TARGETS, **targets.BAD}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 30), -1))
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, _hang)
    for name, number in asked:
        with tempfile.TemporaryDirectory(prefix="try-", ignore_cleanup_errors=True) as folder:
            os.chdir(folder)
            found = judged(made[name][0], random.Random(f"{seed} {name} {number}"), Path(folder), ground)
            os.chdir("/")
        os.write(say, json.dumps({"target": name, "number": number, **found}).encode() + b"\n")


def judged(target: Any, rng: random.Random, here: Path, ground: Path) -> dict[str, Any]:
    """The verdict on one try."""
    from targets import MARK

    from lessen.core.errors import LessenError

    before, started = _peak(reset=True), time.process_time()
    verdict, said = "accepted", ""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        with _quiet():
            target(rng, here, ground)
    except LessenError as error:
        verdict, said = "refused", str(error)
    except SystemExit as left:
        verdict = {0: "accepted", 2: "refused"}.get(left.code, "traceback")  # type: ignore[arg-type]
        said = f"exit code {left.code}"
    except Hang:
        verdict, said = "hang", traceback.format_exc(limit=-4)
    except AssertionError as error:
        verdict, said = ("other bits", str(error)) if "other bits" in str(error) else ("traceback", _last())
    except BaseException:  # noqa: BLE001  (whatever it is, it is the verdict)
        verdict, said = "traceback", _last()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if _peak() - before > MEMORY:
        verdict, said = "memory", f"{(_peak() - before) / 2**30:.1f} GiB more; {said}"
    if any(True for _ in here.rglob(MARK)) or (ground / MARK).exists():
        shutil.rmtree(ground / MARK, ignore_errors=True)
        verdict = "executed"
    return {"verdict": verdict, "said": said[-1500:], "seconds": time.process_time() - started}


def _hang(number: int, frame: Any) -> None:
    raise Hang


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stream in (sys.stdout, sys.stderr):
            stream.seek(0)
            stream.truncate()
        yield


def _last() -> str:
    return traceback.format_exc(limit=-6)


def _peak(*, reset: bool = False) -> int:
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


# The parent


def forked(do: Callable[[], None]) -> int:
    """Do something in a child of this process; the number of the child, which ends with exit code 0 or 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        do()
        code = 0
    except BaseException:  # noqa: BLE001  (this is the end of the child)
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def run(asked: list[tuple[str, int]], seed: int) -> list[dict[str, Any]]:
    """Carry out tries in workers; one that dies or stops answering is the verdict of the try it was at."""
    import targets
    import torch

    torch.set_num_threads(1)  # a fork has none of the threads of its parent
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ground-") as place:
        ground = Path(place)
        if not asked[0][0].startswith("bad:"):
            child = forked(lambda: targets.ground(ground))
            if os.waitpid(child, 0)[1]:
                raise SystemExit("The files that tries start from could not be made.")
        while len(found) < len(asked):
            rest = asked[len(found) :][:2000]  # a fresh process now and then, for what piles up
            answers, say = os.pipe()
            worker = forked(lambda rest=rest, say=say: work(rest, seed, ground, say))  # type: ignore[misc]
            os.close(say)
            last, buffer = len(found) + len(rest), b""
            while len(found) < last:
                ready = select.select([answers], [], [], 3 * WALL_SECONDS)[0]
                piece = os.read(answers, 1 << 16) if ready else b""
                if not piece:
                    os.kill(worker, signal.SIGKILL)
                    name, number = asked[len(found)]
                    found.append({"target": name, "number": number, "verdict": "killed" if ready else "hang",
                                  "said": "the worker is gone", "seconds": 0.0})  # fmt: skip
                    print(_shown(found[-1], seed), file=sys.stderr, flush=True)
                    break
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    found.append(json.loads(line))
                    if found[-1]["verdict"] in KINDS or len(found) % 500 == 0:
                        print(f"{len(found)} of {len(asked)}", _shown(found[-1], seed), file=sys.stderr, flush=True)
            os.close(answers)
            os.waitpid(worker, 0)
    return found


def _shown(one: dict[str, Any], seed: int) -> str:
    return (
        f"{one['target']}, number {one['number']}, seed {seed}, {one['seconds']:.1f} s: {one['verdict']}\n{one['said']}"
    )


def table(found: list[dict[str, Any]]) -> str:
    """Counts for each target, as Markdown."""
    names = list(dict.fromkeys(one["target"] for one in found))
    lines = [f"| what | tries | accepted | refused | {' | '.join(KINDS)} | CPU seconds |", "| --- |" + " ---: |" * 10]
    for name in [*names, "all"]:
        own = [one for one in found if name in ("all", one["target"])]
        counts = collections.Counter(one["verdict"] for one in own)
        cells = [len(own), *(counts[kind] for kind in ("accepted", "refused", *KINDS))]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {sum(one['seconds'] for one in own):.0f} |")
    return "\n".join(lines)


def share(tries: int, only: str | None, first: int) -> list[tuple[str, int]]:
    """How many tries each target gets."""
    import targets

    chosen = {name: part for name, (_, part) in {**targets.TARGETS, **(targets.BAD if only else {})}.items()
              if only is None or name.startswith(only)}  # fmt: skip
    whole = sum(chosen.values())
    return [(name, first + at) for name, part in chosen.items() for at in range(max(1, round(tries * part / whole)))]


def main() -> None:
    """Read the command line, run, and print the table and what was bad."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", help="how the name of a target begins")
    parser.add_argument("--verbose", action="store_true", help="print every verdict")
    given = parser.parse_args()
    # Before torch is imported, by `share`.
    os.environ.update(OMP_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    found = run(share(given.tries, given.only, given.first), given.seed)
    print(table(found))
    bad = [one for one in found if one["verdict"] in KINDS]
    for one in found if given.verbose else bad:
        print(f"\n{_shown(one, given.seed)}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
