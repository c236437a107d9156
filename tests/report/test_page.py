"""The page as text: what must stand there, what is said when something is missing, and what must never get in."""

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lessen.core.errors import RunError
from lessen.report import write_report
from lessen.report.html import Html, table, tag

TITLES = ["How to load the result", "Before and after", "Every step", "Training", "Who taught whom",
          "What was done to each layer", "What was verified", "How it was measured", "The recipe"]  # fmt: skip
EMPTY = {"meta", "br", "col", "path", "rect"}


class Page(HTMLParser):
    """Reads a page: text outside scripts, elements with attributes, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.elements, self.scripts, self._open = "", [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in {"meta", "br", "col"}:
            self._open.append(name)
        if name == "script":
            self.scripts.append("")

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1] != "style":
            self.text += data

    def of(self, name: str) -> list[dict]:
        return [attributes for kind, attributes in self.elements if kind == name]


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_every_part_is_there_in_order(make_run) -> None:
    found = page(make_run())
    places = [found.text.index(title) for title in TITLES]
    assert places == sorted(places)
    for text in ("13.9 times smaller", "4.42 times faster", "−0.65 points", "model.int8.onnx", "98.70 %", "SoftTargets",
                 "layer3.1.conv2", "lessen.load(", "onnxruntime.InferenceSession(", "AMD EPYC 7B13", "torch 2.14.1",
                 "PruneChannels:", "agreement 99.85 %; allowed 98.00 %"):  # fmt: skip
        assert text in found.text, text


def test_nothing_is_fetched_from_elsewhere(make_run) -> None:
    found = page(make_run())
    for name, attributes in found.elements:
        assert name not in {"link", "img", "iframe", "object", "embed"}
        assert not {"src", "href", "srcset"} & set(attributes), (name, attributes)
    policy = next(meta["content"] for meta in found.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for script, attributes in zip(found.scripts, found.of("script"), strict=True):
        if attributes.get("type") != "application/json":
            assert b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_plotly_stands_in_the_page_once_and_only_when_it_is_needed(make_run) -> None:
    text = write_report(make_run()).read_text(encoding="utf-8")
    assert text.count("plotly.js (basic - minified) v") == 1
    assert 1e6 < len(text.encode()) < 1.5e6
    bare = make_run("bare", training=False, files=False)
    (bare / "records.jsonl").write_text("")
    assert len(write_report(bare).read_text(encoding="utf-8")) < 40_000


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'"


def check_harmless(folder: Path) -> None:
    found = page(folder)
    assert len(found.scripts) == 4
    assert not any("alert(1)" in script for script in found.scripts[1:])
    assert not found.of("img")
    assert not any("onerror" in attributes for _, attributes in found.elements)
    json.loads(found.scripts[0])


def test_names_are_only_text(make_run) -> None:
    folder = make_run(hostile=HOSTILE)
    check_harmless(folder)
    assert HOSTILE in page(folder).text


def test_a_page_that_does_not_escape_is_found(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessen.report.html.html.escape", lambda text: text)
    with pytest.raises(AssertionError):
        check_harmless(make_run(hostile=HOSTILE))


def test_a_file_does_not_borrow_the_quality_of_another_network(make_run) -> None:
    """The int8 file was made of step 3: only what a file cannot have of its own is taken from that network."""
    folder = make_run()
    kept = [
        line
        for line in (folder / "records.jsonl").read_text().splitlines()
        if not ('"file": "model.int8.onnx"' in line and '"figure": "nll"' in line)
    ]
    (folder / "records.jsonl").write_text("\n".join(kept) + "\n")
    found = page(folder)
    row = found.text[found.text.index("negative log-likelihood") :].split("calibration error")[0]
    assert row.count("nat") == 1
    assert "286 k" in found.text


def test_no_training_and_no_files_is_said(make_run) -> None:
    text = page(make_run(training=False, files=False)).text
    assert "There was no training in this run." in text
    assert "There was no distillation in this run." in text
    assert "No file was written in this run" in text
    assert "No verified file can be loaded elsewhere." in text


@pytest.mark.parametrize(
    "missing", ["recipe.yaml", "plan.json", "layers.json", "records.jsonl", "log.jsonl", "graph.json"]
)
def test_any_one_file_may_be_missing(make_run, missing: str) -> None:
    folder = make_run()
    (folder / missing).unlink()
    found = page(folder)
    assert all(title in found.text for title in TITLES)


def test_a_last_line_that_was_cut_short_is_left_out(make_run) -> None:
    folder = make_run()
    with (folder / "log.jsonl").open("a") as stream:
        stream.write('{"kind": "step", "sta')
    page(folder)


def test_the_numbers_of_the_steps_are_told_by_the_pipeline(make_run) -> None:
    text = page(make_run()).text
    assert "Stage 1: offline (step 2)" in text
    assert "Stage 2: mutual (step 2)" in text


def test_one_heading_of_the_first_rank_and_every_table_has_heads(make_run) -> None:
    found = page(make_run())
    assert len(found.of("h1")) == 1
    assert len(found.of("caption")) == len(found.of("table")) > 5
    assert all(head.get("scope") == "col" for head in found.of("th"))
    assert all(place.get("aria-label") for place in found.of("div") if "data-figure" in place)
    assert found.of("html")[0]["lang"] == "en"
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(names)) == len(names)


def test_writing_again_replaces_the_page_and_nothing_else(make_run) -> None:
    folder = make_run()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before | {"report.html": first}


def test_what_is_not_a_run(tmp_path: Path, make_run) -> None:
    with pytest.raises(RunError, match="no folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no recipe\.yaml, records\.jsonl or log\.jsonl"):
        write_report(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("records.jsonl", '{"no": "record"}\n', "is not a record"),
        ("records.jsonl", "{broken\n{}\n", "is damaged"),
        ("records.jsonl", "[1]\n", "not an object"),
        ("graph.json", '{"a": 1}', "not a list of objects"),
        ("plan.json", "[", "is damaged"),
    ],
)
def test_damaged_files_are_named(make_run, name: str, content: str, text: str) -> None:
    folder = make_run()
    (folder / name).write_text(content)
    with pytest.raises(RunError, match=text) as error:
        write_report(folder)
    assert name in str(error.value)


def test_html_is_escaped_unless_it_is_html() -> None:
    assert tag("p", "<b>", Html("<i>x</i>"), None, class_="a&b", open=True, lang=None) == (
        '<p class="a&amp;b" open>&lt;b&gt;<i>x</i></p>'
    )
    assert re.search(r"<th scope=\"col\">&lt;</th>", table("c", ["<"], [["x"]]))
