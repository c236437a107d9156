"""Silence and interruptions: lines where there is no terminal, and the command that continues a run."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lessen.cli import main
from lessen.core.errors import RunError
from lessen.engine import Stopped
from lessen.pipeline import compress, walk
from lessen.zoo import residual

RECIPE: dict[str, Any] = {
    "network": {"build": "zoo:residual", "arguments": {"width": 4, "depth": 8}},
    "data": {"Digits": {}},
    "steps": [{"Offline": {"epochs": 2, "fit": {"batch": 512}}}],
    "measuring": {"repeats": 6},
}
MINE = "from lessen.zoo import residual\n\n\ndef small():\n    return residual(width=4, depth=8)\n"


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Send this process a signal when the files of a run would be written."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it

    def by(number: int) -> None:
        def stop(*_: Any, **__: Any) -> None:
            os.kill(os.getpid(), number)
            time.sleep(30)  # until the signal arrives, which may go to another thread first

        monkeypatch.setattr(walk, "deploy_steps", stop)

    yield by
    signal.signal(signal.SIGINT, ours)


@pytest.mark.parametrize(("number", "own"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_the_command_line(number: int, own: bool, here: Path, interrupted: Any, capfd: Any) -> None:
    changes: dict[str, Any] = {"network": {"build": "stopnet:small"}} if own else {}
    (here / "r.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    (here / "stopnet.py").write_text(MINE)
    interrupted(number)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as left:
        main(["run", "r.yaml", "--run", "runs/a b", *(["--allow-import"] if own else [])])
    assert left.value.code == 128 + number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith("lessen resume 'runs/a b'" + (" --allow-import" if own else ""))
    assert said.count("lessen resume") == 1
    # A line for each step and each epoch.
    assert len(re.findall(r"^offline: epoch \d of 2, step \d of 4, .*student accuracy", said, re.MULTILINE)) == 2
    assert re.search(r"^step 1 of 1, Offline: done in .* KiB, accuracy [\d.]+ %$", said, re.MULTILINE)


def test_from_python(here: Path, interrupted: Any, capfd: pytest.CaptureFixture[str]) -> None:
    from lessen.operations import PruneChannels

    def run() -> None:
        compress(residual(width=4, depth=8), "digits", steps=[PruneChannels(keep=0.5)], run="runs/a", progress=False)

    how = r"lessen\.resume\('runs/a', teacher=\.\.\., data=\.\.\., steps=\.\.\.\)"
    interrupted(signal.SIGTERM)
    with pytest.raises(Stopped, match=how) as left:
        run()
    assert isinstance(left.value, SystemExit)  # no traceback, where nothing catches it
    assert left.value.code == 143
    said = capfd.readouterr().err
    assert said.count("\n") == 1  # not one line of progress, but this one
    assert "Continue the run with: lessen.resume('runs/a'" in said
    with pytest.raises(RunError, match=how):
        run()
