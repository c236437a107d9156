"""Somebody who looks sees a bar; a log gets a line an epoch; who asked for silence gets nothing."""

import io
import sys

import pytest

from lessen.core.telling import tell
from lessen.engine.bar import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "show", "drawn", "lines"),
    [(Terminal(), True, True, 0), (Terminal(), False, False, 0), (io.StringIO(), True, False, 2),
     (io.StringIO(), False, False, 0)],
)  # fmt: skip
def test_the_bar(stream: io.StringIO, show: bool, drawn: bool, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(show=show) as bar:
        bar.begin("offline", done=0, total=20)
        for step in range(1, 21):
            bar.move(step, total=20, says=lambda: "accuracy 91")
            if step % 10 == 0:
                bar.epoch(step // 10, epochs=2, done=step, total=20, says=lambda: "accuracy 91")
    said = stream.getvalue()
    assert ("\x1b" in said) == drawn
    assert ("offline" in said and "accuracy 91" in said) == (drawn or lines > 0)
    assert said.count(": epoch ") == lines
    if lines:
        assert said.splitlines()[0].startswith("offline: epoch 1 of 2, step 10 of 20, after ")
        assert said.splitlines()[0].endswith(": accuracy 91")


def test_a_stream_that_takes_nothing_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        tell("a line")
        with Bar(show=True) as bar:
            bar.begin("offline", done=0, total=1)
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", narrow)
    tell("runs/é\x1b[2J")
    narrow.flush()
    assert narrow.buffer.getvalue() == b"runs/\\xe9 [2J\n"  # type: ignore[attr-defined]
