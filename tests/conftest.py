"""Timings in the tests must not depend on what else the machine does: here it is always free."""

import gc
from collections.abc import Iterator

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
