"""Events of mkdocs: add the pages that exist elsewhere in the repository, and make links to the repository work.

Guides and design pages are files in `docs/`. The pages of methods are in `docs/methods/`, written by `lessen docs`. The
pages of benchmarks are the READMEs in `benchmarks/`. mkdocstrings makes the pages of the API from docstrings. A line
`<!-- readme: Heading -->` in a page is replaced by that section of the README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pages
from links import rewrite
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from papers import with_arxiv, with_papers

ROOT = Path(__file__).parents[2]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the navigation that list every method, benchmark, package and page of design."""
    made: dict[str, list[Any]] = {
        "Methods": pages.method_nav(ROOT),
        "Benchmarks": pages.benchmark_nav(ROOT),
        "API": pages.api_nav(),
        "Design": [
            path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in {"index.md", "extending.md"}
        ],
    }
    for entry in config.nav or []:
        entry.update({name: made[name] for name, listed in entry.items() if listed == "generated"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files in `docs/`, and the report that is shown as an example."""
    for path, text in {**pages.benchmark_pages(ROOT), **pages.api_pages(ROOT), **pages.translations(ROOT)}.items():
        files.append(File.generated(config, path, content=text))
    for path, source in pages.copies(ROOT).items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    report = ROOT / config.extra["report"]
    if not report.is_file():
        raise PluginError(
            f"There is no {report} to show as an example. Run `make site`, or `lessen demo --run runs/demo`."
        )
    files.append(File.generated(config, "demo/report.html", abs_src_path=str(report)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert sections of the README, name the papers, and point links at pages of the site or at copies of files."""
    page_path = page.file.src_uri
    markdown = rewrite(markdown, pages.source_of(page_path), page_path, ROOT)
    readme = rewrite((ROOT / "README.md").read_text(encoding="utf-8"), "README.md", page_path, ROOT)
    markdown = pages.with_sections(markdown, readme)
    if page_path.startswith("methods/"):
        markdown = with_papers(markdown, Path(page_path).stem, ROOT)
    return markdown if page_path.startswith("api/") else with_arxiv(markdown)
