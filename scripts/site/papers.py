"""The papers of methods: their titles on the pages of the methods, so that a search finds them, and links to arXiv."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from links import outside_code

_CARD = re.compile(r"^\| paper \| (.+) \|\n(?:\|.*\n)*", flags=re.M)
_ARXIV = re.compile(r"(?<![\[/\w])arXiv:(\d{4}\.\d{4,5})")


@cache
def _homes(root: Path) -> dict[str, str]:
    """The docstring of the module that defines each class."""
    found: dict[str, str] = {}
    for path in sorted((root / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.name: ast.get_docstring(tree) or "" for node in tree.body if isinstance(node, ast.ClassDef)}
    return found


def with_papers(markdown: str, method: str, root: Path) -> str:
    """Add the paragraphs of the module's docstring that name a paper of the method's card, below the card."""
    if not (card := _CARD.search(markdown)):
        return markdown
    papers = set(_ARXIV.findall(card[1]))
    paragraphs = _homes(root).get(method, "").split("\n\n")
    told = [" ".join(part.split()) for part in paragraphs if papers & set(_ARXIV.findall(part))]
    return "\n\n".join([markdown[: card.end()].rstrip(), *told, markdown[card.end() :].lstrip()])


def with_arxiv(markdown: str) -> str:
    """Link each `arXiv:2006.05525` to the paper; blocks of code stay as they are.

    >>> with_arxiv("see arXiv:2006.05525.")
    'see [arXiv:2006.05525](https://arxiv.org/abs/2006.05525).'
    """
    return outside_code(markdown, lambda text: _ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", text))
