"""The Chinese README says what the README says: the same headings, code, tables and links, in the same order."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORIGINAL = (ROOT / "README.md").read_text(encoding="utf-8")
TRANSLATION = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)
COMMENT = re.compile(r"(?<!\S)#\s.*$", flags=re.M)
LANGUAGES = {"README.md", "README.zh-CN.md"}


def check(original: str, translation: str) -> None:
    """Compare everything but the words."""
    blocks = [[(kind, _code(kind, block)) for kind, block in BLOCK.findall(text)] for text in (original, translation)]
    assert blocks[0] == blocks[1], "blocks of code"
    prose = [BLOCK.sub("", text) for text in (original, translation)]
    for name, pattern in {
        "headings": r"^(#+) ",
        "links": r"\]\(([^)\s]+)\)",
        "columns of tables": r"^(\|(?:[ :-]+\|)+)$",
        "lists": r"^(- )",
    }.items():
        found = [[part for part in re.findall(pattern, text, flags=re.M) if part not in LANGUAGES] for text in prose]
        assert found[0] == found[1], name
    assert len(re.findall(r"^\|", prose[0], flags=re.M)) == len(re.findall(r"^\|", prose[1], flags=re.M)), "rows"
    code = [Counter(re.findall(r"`([^`\n]+)`", text)) for text in prose]
    assert code[0] == code[1], "code in the text"


def _code(kind: str, block: str) -> str:
    """A block without its comments; printed output is compared as it is."""
    return block if kind == "text" else "\n".join(line.rstrip() for line in COMMENT.sub("", block).splitlines())


def test_the_translation_is_in_step() -> None:
    check(ORIGINAL, TRANSLATION)


def test_each_leads_to_the_other() -> None:
    assert "](README.zh-CN.md)" in ORIGINAL[:200]
    assert "](README.md)" in TRANSLATION[:200]


def test_anchors_of_the_translation_exist() -> None:
    for anchor in re.findall(r"\]\(#([^)]+)\)", TRANSLATION):
        assert f'<a id="{anchor}"></a>' in TRANSLATION


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("keep=0.5", "keep=0.6", "blocks of code"),
        ("98.66 % (97.12", "98.67 % (97.12", "blocks of code"),
        ("## Your own loss", "### Your own loss", "headings"),
        ("## Your own loss", "Your own loss", "headings"),
        ("](docs/security.md)", "](docs/design.md)", "links"),
        ("| --- | --- | --- | --- |", "| --- | --- | --- |", "columns"),
        ("- Your network is not changed", "Your network is not changed", "lists"),
        ("`--allow-import`", "`--allow`", "code in the text"),
        ("| none | anything |", "none | anything |", "rows"),
    ],
)
def test_a_change_of_the_original_is_found(old: str, new: str, what: str) -> None:
    assert old in ORIGINAL
    with pytest.raises(AssertionError, match=what):
        check(ORIGINAL.replace(old, new), TRANSLATION)
