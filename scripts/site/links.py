"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

COPIES = "files/"
"""The folder of the site with copies of files that are no pages, such as tables and settings of benchmarks."""

_FENCE = re.compile(r"^(\s*)(```+|~~~+).*?^\1\2\s*$", flags=re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def site_path(path: str) -> str:
    """Where a file of the repository is in the site; both paths are relative, with forward slashes.

    >>> site_path("docs/design.md"), site_path("benchmarks/peers/README.md"), site_path("recipes/digits.yaml")
    ('design.md', 'benchmarks/peers.md', 'files/recipes/digits.yaml')
    """
    if path in SPECIAL:
        return SPECIAL[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if benchmark := re.fullmatch(r"benchmarks/(\w+)/README\.md", path):
        return f"benchmarks/{benchmark[1]}.md"
    return COPIES + path


SPECIAL = {"README.md": "index.md", "README.zh-CN.md": "zh-CN.md"}


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply a function to the text between fenced blocks of code; the blocks stay as they are."""
    done, start = [], 0
    for fence in _FENCE.finditer(markdown):
        done += [change(markdown[start : fence.start()]), fence[0]]
        start = fence.end()
    return "".join([*done, change(markdown[start:])])


def targets(markdown: str, source: str, root: Path) -> set[str]:
    """The files of the repository that a file links to, as paths in the repository."""
    found: set[str] = set()

    def look(text: str) -> str:
        found.update(path for link in _LINK.finditer(text) if (path := _target(link[2], source, root)))
        return text

    outside_code(markdown, look)
    return found


def _target(link: str, source: str, root: Path) -> str | None:
    """The file of the repository that a link in `source` leads to; None for other sites, anchors and missing files."""
    target = link.partition("#")[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return path if target and ":" not in target and (root / path).is_file() else None


def rewrite(markdown: str, source: str, page: str, root: Path) -> str:
    """Point the links of a file of the repository at the site.

    Links to other sites, to anchors of the same page and to files that do not exist stay as they are; mkdocs complains
    about the last.

    Args:
        markdown: The text of the file.
        source: The path of the file in the repository.
        page: The path of its page in the site.
        root: The root of the repository.
    """

    def moved(link: re.Match[str]) -> str:
        path = _target(link[2], source, root)
        if path is None:
            return link[0]
        relative = posixpath.relpath(site_path(path), posixpath.dirname(page) or ".")
        return f"{link[1]}{relative}{''.join(link[2].partition('#')[1:])}{link[3]}"

    return outside_code(markdown, lambda text: _LINK.sub(moved, text))
