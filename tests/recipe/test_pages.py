"""The pages of the methods: what is committed is what the code gives, and what they show runs."""

from __future__ import annotations

import doctest
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from lessen.core.errors import DataError
from lessen.recipe import methods, pages, read_evidence, write_pages
from lessen.recipe.pages import MARK

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"
EVIDENCE = ROOT / "benchmarks" / "knowledge" / "table.json"
ADVICE = "run `lessen docs --out docs/methods`"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages(read_evidence(EVIDENCE))


def differing(made: dict[str, str], folder: Path) -> list[str]:
    """The pages that are not in the folder as they should be, and those that should not be there."""
    found = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}
    return sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))


def failures(page: str, name: str) -> int:
    """How many lines of a page's examples do not give what stands below them."""
    test = doctest.DocTestParser().get_doctest(page.replace("```", ""), {}, name, name, 0)
    assert test.examples, f"{name} shows no example"
    runner = doctest.DocTestRunner(verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return runner.run(test, out=io.StringIO().write).failed


def test_the_committed_pages_are_those_that_the_code_gives(made: dict[str, str]) -> None:
    assert differing(made, FOLDER) == [], ADVICE


def test_a_page_that_is_out_of_date_is_found(made: dict[str, str], tmp_path: Path) -> None:
    write_pages(tmp_path, read_evidence(EVIDENCE))
    assert differing(made, tmp_path) == []
    (tmp_path / "Hint.md").write_text(made["Hint.md"].replace("layer", "place", 1).replace("Hint", "hint", 1))
    (tmp_path / "Gone.md").write_text(MARK)
    (tmp_path / "SoftTargets.md").unlink()
    assert differing(made, tmp_path) == ["Gone.md", "Hint.md", "SoftTargets.md"]


@pytest.mark.parametrize("name", sorted(methods()))
def test_the_example_of_a_page_runs(name: str, made: dict[str, str]) -> None:
    assert failures(made[f"{name}.md"], name) == 0


def test_an_example_that_does_not_give_what_it_shows_is_found(made: dict[str, str]) -> None:
    page = made["SoftTargets.md"]
    assert failures(page.replace("torch.Size([8])", "torch.Size([9])"), "SoftTargets") == 1
    assert failures(page.replace("import SoftTargets", "import SoftTarget"), "SoftTargets") > 0


def test_every_method_has_a_page_with_its_card_and_all_its_settings(made: dict[str, str]) -> None:
    assert made.keys() == {f"{name}.md" for name in methods()} | {"README.md"}
    for name, cls in methods().items():
        card = cls.card  # type: ignore[attr-defined]
        assert card.says in made[f"{name}.md"]
        assert f"[{name}]({name}.md)" in made["README.md"]
    assert "| `temperature` | `4.0` | Divides both sets of logits" in made["SoftTargets.md"]


def test_a_page_says_what_was_seen(tmp_path: Path) -> None:
    difference = {"mean": 1.5, "low": 1.0, "high": 2.0, "seen": 1}
    row = {"says": "few labels", "figure": "accuracy", "mean": 80.0, "spread": 0.5, "over_labels": difference}
    hint = {"method": "Hint", "claims": "73.50", "seen": "**did not reproduce**", "use": "never", "rows": [row]}
    table = {"least": 0.8, "elsewhere": {"Regression": "no numbers here"}, "variants": {"Hint": hint}}
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    made = pages(read_evidence(file))
    assert "73.50" in made["Hint.md"]
    assert "| few labels | accuracy 80.00 ± 0.50 | **+1.50 (+1.00 to +2.00)** | - |" in made["Hint.md"]
    assert "no numbers here" in made["Regression.md"]
    assert "Not measured yet" in made["SoftTargets.md"]
    assert "Evidence" not in made["PruneChannels.md"]
    assert "Evidence" not in pages()["Hint.md"]


def test_only_generated_pages_of_methods_that_are_gone_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "Gone.md").write_text(f"{MARK}\n")
    (tmp_path / "mine.md").write_text("by hand")
    write_pages(tmp_path)
    assert not (tmp_path / "Gone.md").exists()
    assert (tmp_path / "mine.md").read_text() == "by hand"


def test_what_is_no_page_is_neither_read_nor_taken_away(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    write_pages(tmp_path)
    assert len({"pipe.md", "folder.md", "bytes.md"} & {path.name for path in tmp_path.iterdir()}) == 3


def test_evidence_cannot_put_tags_into_a_page(tmp_path: Path) -> None:
    tag = "<script>alert(1)</script>"
    row = {"says": tag, "figure": tag, "mean": 80.0, "spread": 0.5}
    hint = {"method": "Hint", "claims": tag, "seen": tag, "use": tag, "rows": [row]}
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"least": 0.8, "elsewhere": {"Regression": tag}, "variants": {"Hint": hint, tag: hint}}))
    made = pages(read_evidence(file))
    assert all("<script" not in made[name] for name in ("Hint.md", "Regression.md"))
    assert made["Hint.md"].count("&lt;script&gt;") == 11


FORGED = [
    {"least": 0.8, "elsewhere": {}, "variants": []},
    {"least": 0.8, "elsewhere": [], "variants": {}},
    {"least": 0.8, "elsewhere": {}, "variants": {"x": {"method": "Hint"}}},
    {"least": 0.8, "elsewhere": {"Hint": 3}, "variants": {}},
    {"least": [], "elsewhere": {}, "variants": {}},
]


@pytest.mark.parametrize("text", ["", "[]", "{}", "nothing", *map(json.dumps, FORGED)])
def test_what_is_no_table_of_evidence_is_refused(text: Any, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"table\.json"):
        read_evidence(file)
