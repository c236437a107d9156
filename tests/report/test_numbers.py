"""Numbers as people read them."""

import math

import pytest

from lessen.core.record import Record
from lessen.report.numbers import NOTHING, digits, human, interval


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "B", "0 B"), (1023, "B", "1023 B"), (1024, "B", "1.00 KiB"), (10 * 1024**2, "B", "10.0 MiB"),
        (1e9, "B", "954 MiB"), (0.1234, "ms", "0.123 ms"), (12.34, "ms", "12.3 ms"), (1234.0, "ms", "1234 ms"),
        (3, "1", "3"), (0.25, "1", "0.250"), (1_100_000, "1", "1.10 M"), (93.456, "%", "93.46 %"),
        (-1.5, "points", "−1.50 points"), (3.999, "ratio", "4.00 ×"),
        (None, "ms", NOTHING), (math.inf, "ms", "inf"), (2.5e-7, "1", "2.50e-07"),
    ],
)  # fmt: skip
def test_human(value: float | None, unit: str, text: str) -> None:
    assert human(value, unit) == text


@pytest.mark.parametrize("value", [1e-3, 0.02, 0.5, 1.0, 9.99, 10.0, 123.4, 99999.0, -4.2])
def test_three_digits_are_close(value: float) -> None:
    assert float(digits(value)) == pytest.approx(value, rel=0.006)


def test_interval_without_its_unit() -> None:
    def record(unit: str, low: float | None, high: float | None) -> Record:
        return Record(subject="a", figure="b", value=1.0, unit=unit, low=low, high=high)

    assert interval(record("ms", 0.5, 1.5)) == "0.500 to 1.50"
    assert interval(record("points", -1.0, 0.5)) == "−1.00 to 0.50"
    assert interval(record("1", 0.5, 1500.0)) == "0.500 to 1.50 k"
    assert interval(record("1", 0.5, 1.5), "ratio") == "0.500 to 1.50"
    assert interval(record("ms", None, 1.5)) == interval(None) == ""
