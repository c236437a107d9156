"""The bar is drawn where somebody looks, and only there."""

import io
import sys

import pytest

from lessen.engine.bar import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "show", "drawn"), [(Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False)]
)
def test_the_bar(stream: io.StringIO, show: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(show=show) as bar:
        bar.begin("offline", done=0, total=20)
        for step in range(1, 21):
            bar.move(step, total=20, says=lambda: "accuracy 91")
    assert ("offline" in stream.getvalue() and "accuracy 91" in stream.getvalue()) == drawn
