"""Pages of the site that are made from other files of the repository, and their places in the navigation."""

from __future__ import annotations

import ast
import posixpath
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from links import COPIES, SPECIAL, site_path, targets

PACKAGES = (
    "lessen", "lessen.data", "lessen.deploy", "lessen.engine", "lessen.graph", "lessen.knowledge", "lessen.measure",
    "lessen.operations", "lessen.schemes", "lessen.tasks", "lessen.testing", "lessen.zoo",
)  # fmt: skip
"""The public packages; each has one page of the API."""

_ROW = re.compile(r"^## (.+)$|^- \[\w+\]\((\w+\.md)\)", flags=re.M)
ALSO = {"lessen": {"lessen.pipeline": ["Measuring", "Targets"]}}
"""Settings that a page shows with its package: page, package, names."""

_SECTION = re.compile(r"^<!-- readme: (.+?) -->$", flags=re.M)


def source_of(page: str) -> str:
    """The file of the repository from which a page is made: the inverse of `site_path`."""
    if benchmark := re.fullmatch(r"benchmarks/(\w+)\.md", page):
        return f"benchmarks/{benchmark[1]}/README.md"
    special = {made: source for source, made in SPECIAL.items() if made != "index.md"}
    return special.get(page) or (page.removeprefix(COPIES) if page.startswith(COPIES) else f"docs/{page}")


def _benchmarks(root: Path) -> dict[str, str]:
    """The path of each benchmark's README, and its first heading."""
    found = sorted(root.glob("benchmarks/*/README.md"))
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        for path in found
    }


def benchmark_pages(root: Path) -> dict[str, str]:
    """The page of each benchmark, and the page that lists them."""
    found = _benchmarks(root)
    pages = {site_path(path): (root / path).read_text(encoding="utf-8") for path in found}
    lines = [f"- [{title}]({posixpath.basename(site_path(path))})" for path, title in found.items()]
    pages["benchmarks/index.md"] = (
        "# Benchmarks\n\nEach page answers one question. It gives the command that was run, the result and its spread. "
        "The result files are in `benchmarks/` in the repository.\n\n" + "\n".join(lines) + "\n"
    )
    return pages


def benchmark_nav(root: Path) -> list[Any]:
    """The index, then the benchmarks, by the names of their folders."""
    return ["benchmarks/index.md", *({Path(path).parent.name: site_path(path)} for path in _benchmarks(root))]


def method_nav(root: Path) -> list[Any]:
    """The methods by kind and family, as `docs/methods/README.md` lists them."""
    rows: dict[str, list[str]] = {}
    for heading, page in _ROW.findall((root / "docs/methods/README.md").read_text(encoding="utf-8")):
        if heading:
            rows[heading] = []
        else:
            rows[list(rows)[-1]].append(f"methods/{page}")
    nav: list[Any] = ["methods/README.md"]
    for kind, families in groupby(rows, key=lambda row: row.split(" / ")[0]):
        nav.append({kind.capitalize(): [{row.split(" / ")[1].capitalize(): rows[row]} for row in families]})
    return nav


def _package(name: str, root: Path) -> ast.Module | None:
    """The source of a package; None for a module that is one file."""
    source = root.joinpath("src", *name.split("."), "__init__.py")
    return ast.parse(source.read_text(encoding="utf-8")) if source.is_file() else None


def _public(package: ast.Module) -> list[str]:
    """The names in `__all__`."""
    for node in package.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _defined(name: str, package: str, root: Path) -> str:
    """The full path of the definition of a public name.

    A package can import a name that is also the name of a module in it, such as `measure`. mkdocstrings would take the
    module, so imports are followed to the end.
    """
    while tree := _package(package, root):
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        homes = [node.module for node in imports if name in {alias.name for alias in node.names}]
        if not homes or homes[0] is None:
            break
        package = homes[0]
    return f"{package}.{name}"


def api_pages(root: Path) -> dict[str, str]:
    """One page for each public package, and the page that lists them."""
    pages, lines = {}, []
    for package in PACKAGES:
        tree = _package(package, root)
        if tree is None:
            raise FileNotFoundError(f"There is no package {package} in src. Change PACKAGES in scripts/site/pages.py.")
        entries = [f"::: {_defined(name, package, root)}\n" for name in _public(tree)]
        for other, names in ALSO.get(package, {}).items():
            entries.append(f"## From {other}\n\n```python\nfrom {other} import {', '.join(names)}\n```\n")
            entries += [f"::: {_defined(name, other, root)}\n    options: {{heading_level: 3}}\n" for name in names]
        says = ast.get_docstring(tree) or ""
        pages[f"api/{package}.md"] = "\n".join([f"# {package}\n", says, "", *entries])
        lines.append(f"| [{package}]({package}.md) | {says.splitlines()[0]} |")
    pages["api/index.md"] = (
        "# API\n\nThese packages are public. Import names from them and not from the modules inside.\n\n"
        "| package | what it holds |\n| --- | --- |\n" + "\n".join(lines) + "\n"
    )
    return pages


def api_nav() -> list[Any]:
    """The index, then the packages."""
    return ["api/index.md", *({package: f"api/{package}.md"} for package in PACKAGES)]


def translations(root: Path) -> dict[str, str]:
    """The README in other languages."""
    return {
        made: (root / path).read_text(encoding="utf-8")
        for path, made in SPECIAL.items()
        if made != "index.md" and (root / path).is_file()
    }


def with_sections(markdown: str, readme: str) -> str:
    """Replace each line `<!-- readme: Heading -->` by the section of the README with that heading.

    Raises:
        KeyError: the README has no such heading.
    """
    parts = re.split(r"^## (.+)$", readme, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return _SECTION.sub(lambda line: sections[line[1]].strip(), markdown)


def copies(root: Path) -> dict[str, str]:
    """The files that pages link to and that are no pages themselves: path in the site, and path in the repository."""
    sources = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("benchmarks/*/README.md")]
    linked = set[str]()
    for path in sources:
        linked |= targets(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix(), root)
    return {made: path for path in sorted(linked) if (made := site_path(path)).startswith(COPIES)}
