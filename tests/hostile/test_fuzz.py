"""The fuzzers, a few hundred tries each time; `make fuzz` runs thousands. Each verdict is seen to be given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lessen

HERE = Path(__file__).parent
TRIES = os.environ.get("TRIES", "200")


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(lessen.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "FUZZ_CPU_SECONDS": "3", "FUZZ_WALL_SECONDS": "10"}
    if "--only" not in words:
        environment = {**os.environ, "PYTHONPATH": source}
    told = [sys.executable, str(HERE / "fuzz.py"), *words]
    return subprocess.run(told, env=environment, capture_output=True, text=True, check=False)


def test_nothing_bad_comes_of_damaged_and_forged_files() -> None:
    said = fuzz("--tries", TRIES)
    assert said.returncode == 0, said.stdout + said.stderr[-2000:]
    assert "| all | " in said.stdout


def test_each_verdict_is_given() -> None:
    said = fuzz("--tries", "8", "--only", "bad:")
    given = {line.split(",")[0]: line.rpartition(": ")[2] for line in said.stdout.splitlines() if "seed 0" in line}
    assert given == {
        "bad: executes": "executed",
        "bad: raises": "traceback",
        "bad: exits": "traceback",
        "bad: spins": "hang",
        "bad: blocks": "hang",
        "bad: fills": "memory",
        "bad: differs": "other bits",
        "bad: dies": "killed",
    }
    assert said.returncode == 1


@pytest.mark.parametrize("sizes", ["24,160", pytest.param("40,64,400", marks=pytest.mark.exhaustive)])
def test_full_and_read_only_disks_are_one_line_and_lose_nothing(sizes: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lessen.__file__).parents[1])}
    words = [sys.executable, str(HERE / "disks.py"), "--sizes", sizes]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if said.stdout.startswith("skipped"):
        pytest.skip("mounting a small disk needs the right to mount")
    assert said.returncode == 0, said.stdout + said.stderr[-2000:]
    assert ": 0 wrong" in said.stdout
