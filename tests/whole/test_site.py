"""The documentation site: built from the sources, complete, and usable in a browser without a network."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import lessen
from lessen.deploy import Deploy, OnnxRuntime
from lessen.operations import Quantize
from lessen.recipe import methods
from lessen.schemes import supervised
from lessen.zoo import mlp

ROOT = Path(__file__).parents[2]
WIDTHS = [400, 1400]
GUIDES = sorted(f"guide/{page.stem}.html" for page in (ROOT / "docs" / "guide").glob("*.md"))
PAGES = ["index.html", *GUIDES, "methods/Hint.html", "benchmarks/knowledge.html", "api/lessen.html", "demo/report.html"]
WANTED = {"FitNet": "methods/Hint.html", "int8": "guide/eight-bits.html", "knapsack": "methods/PruneChannels.html"}
"""What is searched for, and a page that must be among the results."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it, with the report of a small run as the example."""
    for module in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="needs mkdocs-material and mkdocstrings-python: pip install -e '.[site]'")
    folder = tmp_path_factory.mktemp("site")
    run = lessen.compress(
        mlp(hidden=(16,)),
        "digits",
        train=[supervised(epochs=1)],
        steps=[Quantize(bits=8)],
        deploy=Deploy(runtimes=(OnnxRuntime(),), rounds=6, every_step=False),
        run=folder / "run",
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder / "site")]
    environment = os.environ | {"LESSEN_SITE_REPORT": str(run.report), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def changed(site: Path, tmp_path: Path, page: str, old: str, new: str) -> Iterator[Path]:
    """A copy of the site with a fault in one page."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy, copy_function=os.link)
    text = (copy / page).read_text(encoding="utf-8")
    assert old in text
    (copy / page).unlink()
    (copy / page).write_text(text.replace(old, new), encoding="utf-8")
    yield copy


# --- files ---


class Page(HTMLParser):
    """The links and anchors of a page, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        elif given.get("rel") != "canonical":
            self.loads += [given[name] for name in ("src", "href") if name in given]


def target(site: Path, page: Path, link: str) -> tuple[Path, str] | None:
    """The file and the anchor that a link leads to; None for another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    found = site / path.lstrip("/") if path.startswith("/") else page.parent / path if path else page
    found = found.resolve()
    return (found / "index.html" if found.is_dir() else found), unquote(parts.fragment)


def check_links(site: Path) -> None:
    """Every link and anchor inside the site leads somewhere, and the start page leads to every page."""
    pages = {path: Page(path) for path in site.resolve().rglob("*.html")}
    leads: dict[Path, set[Path]] = {}
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            if (found := target(site.resolve(), path, link)) is None:
                continue
            file, anchor = found
            leads.setdefault(path, set()).add(file)
            if not file.is_file() or (file in pages and anchor not in pages[file].anchors):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    assert broken == []
    seen, new = set[Path](), {site.resolve() / "index.html"}
    while new:
        seen |= new
        new = set().union(*(leads.get(path, set()) for path in new)) - seen
    assert {path.name for path in pages.keys() - seen} == {"404.html"}


def check_loads(site: Path) -> None:
    """No page names a script, a style, a picture or a frame of another site."""
    loads = {link for path in site.rglob("*.html") for link in Page(path).loads}
    assert [link for link in loads if urlsplit(link).netloc] == []


def test_no_link_is_broken_and_no_page_is_lost(site: Path) -> None:
    check_links(site)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    check_loads(site)


def test_every_method_benchmark_and_public_name_has_its_place(site: Path) -> None:
    listed = set(Page(site / "methods" / "index.html").links)
    assert {f"{name}.html" for name in methods()} <= listed
    listed = set(Page(site / "benchmarks" / "index.html").links)
    assert {f"{page.parent.name}.html" for page in ROOT.glob("benchmarks/*/README.md")} <= listed
    packages = [page.removesuffix(".html") for page in Page(site / "api" / "index.html").links if "lessen" in page]
    assert "lessen.operations" in packages
    for package in packages:
        shown = {anchor.rsplit(".", 1)[-1] for anchor in Page(site / "api" / f"{package}.html").anchors}
        assert set(importlib.import_module(package).__all__) <= shown


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('href="too-large.html"', 'href="too-big.html"'),
        ('href="other-machine.html"', 'href="other-machine.html#no-such-heading"'),
        ('id="use-it"', ""),
        ("</article>", '<img src="../no-such-picture.png"></article>'),
    ],
)
def test_a_broken_link_is_found(site: Path, tmp_path: Path, old: str, new: str) -> None:
    with (
        changed(site, tmp_path, "guide/own-loss.html", old, new) as copy,
        pytest.raises(AssertionError, match=r"own-loss\.html: "),
    ):
        check_links(copy)


def test_a_lost_page_is_found(site: Path, tmp_path: Path) -> None:
    with changed(site, tmp_path, "index.html", "lessen", "lessen") as copy:
        shutil.copy(copy / "404.html", copy / "alone.html")
        with pytest.raises(AssertionError, match=r"alone\.html"):
            check_links(copy)


def test_a_font_from_elsewhere_is_found(site: Path, tmp_path: Path) -> None:
    font = '<link rel="stylesheet" href="https://fonts.example.invalid/css"></head>'
    with changed(site, tmp_path, "index.html", "</head>", font) as copy, pytest.raises(AssertionError, match="fonts"):
        check_loads(copy)


# --- browser ---


@dataclass
class Seen:
    """What a browser saw of a page."""

    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    wide: int = 0


def watched(browser: Any, address: str, width: int) -> tuple[Any, Seen]:
    """A page of the browser that notes errors, and requests that leave this machine."""
    seen = Seen()
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light").new_page()
    page.on("console", lambda line: seen.complaints.append(line.text) if line.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    # A request that the browser gave up because the next page was opened is no fault of a page.
    page.on(
        "requestfailed",
        lambda request: (
            None
            if request.failure == "net::ERR_ABORTED"
            else seen.complaints.append(f"failed: {request.url[:80]}, {request.failure}")
        ),
    )
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((address, "data:", "blob:")) else seen.outside.append(request.url)
        ),
    )
    return page, seen


SETTLED = """document.fonts.ready.then(
    () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
)"""
"""Waits until a loaded page has its fonts and was drawn twice."""


def check_pages(browser: Any, address: str, paths: list[str], width: int) -> None:
    """No page reports an error, asks another machine for anything, or is wider than the screen."""
    page, seen = watched(browser, address, width)
    for path in paths:
        page.goto(address + path)
        page.evaluate(SETTLED)
        seen.wide = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        assert (path, seen.complaints, seen.outside) == (path, [], [])
        assert seen.wide <= width, path
    page.wait_for_load_state("networkidle")
    page.context.close()
    assert (seen.complaints, seen.outside) == ([], [])


LINKS = "links => links.map(link => link.href)"


def check_search(browser: Any, address: str, width: int, patience: float = 10) -> None:
    """The search box finds the wanted page for each word."""
    page, seen = watched(browser, address, width)
    page.goto(address)
    if width < 960:
        page.click(".md-header label[for=__search]")
    for word, wanted in WANTED.items():
        page.fill("input[name=query]", "")
        page.type("input[name=query]", word)  # the search listens to keys
        found, end = set[str](), time.monotonic() + patience
        while wanted not in found and time.monotonic() < end:
            page.wait_for_timeout(50)
            links = page.eval_on_selector_all(".md-search-result__link", LINKS)
            found = {urlsplit(link).path.lstrip("/") for link in links}
        assert wanted in found, word
    page.context.close()
    assert seen == Seen()


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_and_report_no_error(browser: Any, site: Path, width: int) -> None:
    with served(site) as address:
        check_pages(browser, address, PAGES, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_search_finds(browser: Any, site: Path, width: int) -> None:
    with served(site) as address:
        check_search(browser, address, width)


def check_click(browser: Any, address: str, width: int) -> None:
    """One click in the text of the start page leads to "My own loss"."""
    page, seen = watched(browser, address, width)
    page.goto(address)
    link = page.locator("article a", has_text="My own loss")
    assert link.count() == 1, "There is no link to My own loss."
    link.click()
    page.wait_for_url("**/guide/own-loss.html")
    page.wait_for_load_state("networkidle")
    assert page.inner_text("h1").startswith("My own loss")
    page.context.close()
    assert seen == Seen()


@pytest.mark.parametrize("width", WIDTHS)
def test_my_own_loss_is_one_click_away(browser: Any, site: Path, width: int) -> None:
    with served(site) as address:
        check_click(browser, address, width)


FAULTS = {
    "an error in a script": ("</body>", "<script>no_such_function()</script></body>"),
    "a warning": ("</body>", "<script>console.warn(1)</script></body>"),
    "a picture that is missing": ("</article>", '<img src="../no-such-picture.png"></article>'),
    "a request to another machine": ("</article>", '<img src="http://elsewhere.invalid/x.png"></article>'),
    "a wide element": ("</article>", '<div style="width: 3000px">x</div></article>'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_page_is_found(browser: Any, site: Path, tmp_path: Path, fault: str) -> None:
    page = "guide/resume.html"
    with changed(site, tmp_path, page, *FAULTS[fault]) as copy, served(copy) as address, pytest.raises(AssertionError):
        check_pages(browser, address, [page], 400)


@pytest.mark.parametrize("word", WANTED)
def test_a_missing_word_is_found(browser: Any, site: Path, tmp_path: Path, word: str) -> None:
    with (
        changed(site, tmp_path, "search/search_index.json", WANTED[word].removesuffix(".html"), "nowhere") as copy,
        served(copy) as address,
        pytest.raises(AssertionError, match=word),
    ):
        check_search(browser, address, 1400, patience=1)


def test_a_link_that_is_gone_from_the_start_page_is_found(browser: Any, site: Path, tmp_path: Path) -> None:
    with (
        changed(site, tmp_path, "index.html", "My own loss", "Something else") as copy,
        served(copy) as address,
        pytest.raises(AssertionError, match="My own loss"),
    ):
        check_click(browser, address, 1400)
