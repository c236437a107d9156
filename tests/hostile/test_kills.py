"""A run is killed with -9, or finds the disk full, at every kind of write, and ends as one that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "least"), [((), 60), pytest.param(("--full",), 120, marks=pytest.mark.exhaustive)], ids=["killed", "full"]
)
def test_a_run_that_is_stopped_at_every_kind_of_write_ends_with_the_same_bits(
    words: tuple[str, ...], least: int
) -> None:
    """In a process of its own, which forks a child for each attempt: no thread and no graph of gradients is in it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.kills", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 stuck, 0 different, 0 with files left behind" in done.stdout
    assert int(done.stdout.split("stopped ")[1].split()[0]) >= least, done.stdout
