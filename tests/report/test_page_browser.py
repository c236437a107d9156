"""The page in a real browser: no errors, nothing fetched, every figure drawn, and nothing wider than the screen."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lessen.report import write_report

WIDTHS = [400, 1400]
ALL_DRAWN = "[...document.querySelectorAll('[data-figure]')].every((place) => place.dataset.drawn)"


@dataclass
class Seen:
    """What a browser saw of a page."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    figures: int = 0
    drawn: int = 0
    points: list[int] = field(default_factory=list)
    width: int = 0
    graphs: list[float] = field(default_factory=list)


def look(browser: Any, path: Path, width: int, scheme: str = "light", patience: float = 20) -> Seen:
    seen = Seen()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda line: seen.complaints.append(line.text) if line.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("requestfailed", lambda request: seen.complaints.append(f"failed: {request.url[:80]}"))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(path.as_uri())
    end = time.monotonic() + patience
    while not page.evaluate(ALL_DRAWN) and time.monotonic() < end:
        page.wait_for_timeout(50)
    places = page.query_selector_all("[data-figure]")
    seen.figures = len(places)
    seen.drawn = sum(place.query_selector("svg.main-svg") is not None for place in places)
    seen.points = [len(place.query_selector_all(".points path, path.js-line")) for place in places]
    seen.width = page.evaluate("document.documentElement.scrollWidth")
    seen.graphs = [box["width"] for svg in page.query_selector_all("svg.graph") if (box := svg.bounding_box())]
    context.close()
    return seen


def check(seen: Seen, width: int, figures: int) -> None:
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.figures == seen.drawn == figures
    assert all(count > 0 for count in seen.points)
    assert seen.width <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_whole_run(browser: Any, make_run, width: int) -> None:
    seen = look(browser, write_report(make_run()), width)
    check(seen, width, figures=6)
    assert len(seen.graphs) == 2
    assert min(seen.graphs) > 300


@pytest.mark.parametrize(
    "options",
    [
        {"training": False, "files": False},
        {"hostile": "</script><script>alert(1)</script><img src=x>"},
        {"regression": True},
    ],
    ids=["little", "hostile", "regression"],
)
@pytest.mark.parametrize("width", WIDTHS)
def test_other_runs(browser: Any, make_run, options: dict[str, Any], width: int) -> None:
    figures = 6 if options.get("training", True) else 2
    check(look(browser, write_report(make_run(**options)), width), width, figures)


def test_in_the_dark(browser: Any, make_run) -> None:
    check(look(browser, write_report(make_run()), 1400, scheme="dark"), 1400, figures=6)


def test_the_fewest_points_and_long_names(browser: Any, make_run) -> None:
    folder = make_run("a-name-without-any-place-to-break-" * 5, files=False, training=False, hostile="x" * 150)
    check(look(browser, write_report(folder), 400), 400, figures=2)


BROKEN = {
    "an error in the script": ("figures = JSON.parse(", "figures = undefined_function("),
    "another script": ("</main>", "</main><script>console.log(1)</script>"),
    "a picture from elsewhere": ("</main>", '</main><img src="https://example.invalid/x.png">'),
    "a wide element": ("</main>", '</main><div style="width: 3000px">x</div>'),
    "a figure without data": ("</main>", '</main><div data-figure="99"></div>'),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_page_is_found(browser: Any, make_run, fault: str) -> None:
    path = write_report(make_run(stages=1))
    text = path.read_text(encoding="utf-8")
    old, new = BROKEN[fault]
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(AssertionError):
        check(look(browser, path, 400, patience=2), 400, figures=4)


COLUMNS = """() => [...document.querySelectorAll(".scroll")].map((place) => {
  for (let up = place.parentElement; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  const wide = place.scrollWidth > place.clientWidth + 1;
  place.scrollLeft = place.scrollWidth;
  const box = place.getBoundingClientRect();
  const heads = [...place.querySelectorAll("th")];
  const last = heads.at(-1).getBoundingClientRect(), first = heads[0].getBoundingClientRect();
  const hint = getComputedStyle(place, "::before");
  return {
    columns: heads.map((head) => head.textContent), wide,
    reached: last.right <= box.right + 1 && last.left >= box.left - 1,
    label: first.left >= box.left - 1 && first.right <= box.right && first.width < 0.6 * box.width,
    hint: hint.content.includes("scroll sideways") && hint.display !== "none",
  };
})"""
"""Each table, scrolled to its end: whether the last column is in sight, the row labels are, and a hint says so."""

FOUND = [
    ["", "before", "after", "change"],
    ["what", "step", "size", "time", "accuracy"],
    ["edge", "objective", "taps", "weight", "schedule", "gate", "bridge"],
    ["layer", "edit", "before", "after"],
    ["file", "verified", "largest difference", "agreement with PyTorch", "integer kernels", "size", "time"],
]  # fmt: skip
"""The columns of the tables of a whole run; some have more."""

VERDICT = """() => {
  const line = document.querySelector("h1 + .mood");
  const box = line.getBoundingClientRect(), style = getComputedStyle(line);
  const [red, green] = style.color.match(/[0-9.]+/g).map(Number);
  return { words: line.textContent, top: box.top, right: box.right, redder: red > green };
}"""
"""The first line below the name of the run: its words, where it is, and whether it is red rather than green."""


def verdict_and_tables(browser: Any, path: Path, width: int) -> tuple[Any, Any]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.goto(path.as_uri())
    page.evaluate(COLUMNS)  # opens what is folded
    page.wait_for_timeout(100)
    tables, verdict = page.evaluate(COLUMNS), page.evaluate(VERDICT)
    context.close()
    return verdict, tables


def check_tables(tables: Any) -> None:
    for wanted in FOUND:
        assert any(table["columns"][: len(wanted)] == wanted for table in tables), wanted
    for table in tables:
        assert table["reached"], table
        assert table["hint"] == table["wide"], table
        assert table["label"] or not table["wide"], table


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ruined", [False, True])
def test_the_verdict_comes_first_and_every_column_is_reached(browser: Any, make_run, ruined: bool, width: int) -> None:
    verdict, tables = verdict_and_tables(browser, write_report(make_run(ruined=ruined)), width)
    words = (
        "Do not use this: 49.65 points of accuracy were lost." if ruined else "Careful: 0.65 points of accuracy were"
    )
    assert verdict["words"].startswith(words)
    assert verdict["top"] < 300
    assert verdict["right"] <= width
    assert verdict["redder"]
    check_tables(tables)
    if width == 400:
        assert sum(table["wide"] for table in tables) >= 3


def test_a_table_that_is_cut_off_is_found(browser: Any, make_run) -> None:
    path = write_report(make_run(stages=1))
    text = path.read_text(encoding="utf-8")
    assert text.count(".scroll { overflow-x: auto;") == 1
    path.write_text(text.replace(".scroll { overflow-x: auto;", ".scroll { overflow-x: clip;"), encoding="utf-8")
    with pytest.raises(AssertionError):
        check_tables(verdict_and_tables(browser, path, 400)[1])
