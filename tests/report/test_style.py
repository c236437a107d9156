"""The colours of the page can be told from their ground: contrast as WCAG 2.2 defines it, in light and in dark."""

import re
from importlib.resources import files

import pytest

STYLE = (files("lessen.report") / "style.css").read_text(encoding="utf-8")


def variables(style: str, scheme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)[:2]
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks)
    return light if scheme == "light" else light | dark


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def check(style: str, scheme: str) -> None:
    colours = variables(style, scheme)
    for ground in ("paper", "card"):
        for text in ("ink", "ink-soft", "accent", "good", "warn", "bad"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)
    for mood in ("good", "warn", "bad"):
        assert contrast(colours[mood], colours[f"{mood}-paper"]) >= 4.5, (scheme, mood)
    for number in range(1, 9):
        assert contrast(colours[f"series-{number}"], colours["paper"]) >= 4.5, (scheme, number)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out(scheme: str) -> None:
    check(STYLE, scheme)


def test_a_pale_grey_is_found() -> None:
    with pytest.raises(AssertionError):
        check(STYLE.replace("--ink-soft: #4c5560", "--ink-soft: #9aa3ab"), "light")


def test_contrast_of_black_and_white_and_of_a_known_pair() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
