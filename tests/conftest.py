"""What all tests share: a machine that is always free, so that no timing depends on it, and a browser."""

import gc
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from lessen.measure import timing
from lessen.measure.disturbance import SystemMeter


class Unwatched(SystemMeter):
    """The system's clocks on a machine on which nobody else wants a core, and no call ever waits."""

    def start(self) -> None:
        pass

    def others(self) -> float:
        return 0.0


@pytest.fixture(scope="session", autouse=True)
def a_free_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SystemMeter", Unwatched)
        yield


def pytest_collection_finish() -> None:
    """Leave what the collection made out of garbage collection: 900,000 objects took a quarter of the time of tests."""
    gc.collect()
    gc.freeze()


BROWSER_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window. Name it before slow fixtures: those are not made where it is missing."""
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs a browser: chromium or google-chrome is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield launched
        launched.close()
