"""A page for each method, generated from the code and the results: nothing in them is written by hand."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lessen.core.errors import DataError
from lessen.core.files import read_json, write_text
from lessen.core.hints import Slot, fitting, leaves, slots
from lessen.core.settings import encode
from lessen.recipe.catalogue import about, catalogue, methods
from lessen.recipe.examples import example_of

_MOST_CHOICES = 20
"""What takes more kinds of objects than this takes nearly all of them, as an objective inside another does."""
MARK = "<!-- written by `lessen docs`; change the code and run it again -->"


def pages(evidence: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The text of each page by its file: one a method, and README.md, which lists them by row.

    Args:
        evidence: What `read_evidence` gave, or None where there is none.
    """
    made = {f"{name}.md": "\n".join(_page(name, cls, evidence)) + "\n" for name, cls in sorted(methods().items())}
    return {"README.md": "\n".join(_contents()) + "\n", **made}


def write_pages(folder: Path, evidence: Mapping[str, Any] | None = None) -> list[Path]:
    """Write all pages, and take away those of methods that are gone.

    Returns:
        The files that were written.
    """
    made = pages(evidence)
    for old in folder.glob("*.md"):
        if old.name not in made and old.is_file() and _begins_with_mark(old):
            old.unlink()
    for name, text in made.items():
        write_text(folder / name, text)
    return [folder / name for name in made]


def read_evidence(file: Path) -> dict[str, Any]:
    """The table that `benchmarks/knowledge` makes of its results.

    Raises:
        DataError: the file is not there, or is no such table.
    """
    found = read_json(file, error=DataError)
    try:
        return dict(TypeAdapter(_Table).validate_python(found))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(
            f"{file} is no table of evidence ({where}: {first['msg']}). Make one: python "
            "benchmarks/knowledge/run.py table."
        ) from error


Words = Annotated[str, AfterValidator(lambda text: html.escape(text, quote=False))]
"""Text of a page: a page is Markdown, where tags of HTML would be tags."""


class _Difference(TypedDict):
    mean: float
    low: float
    high: float
    seen: int


class _Row(TypedDict):
    says: Words
    figure: Words
    mean: float
    spread: float
    over_labels: NotRequired[_Difference]
    over_SoftTargets: NotRequired[_Difference]


class _Variant(TypedDict):
    method: str
    claims: Words
    seen: Words
    use: Words
    rows: list[_Row]


class _Table(TypedDict):
    least: float
    elsewhere: dict[str, Words]
    variants: dict[Words, _Variant]


def _begins_with_mark(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(MARK)) == MARK.encode()


def _contents() -> Iterator[str]:
    rows: dict[str, list[str]] = {}
    for name, cls in sorted(methods().items()):
        rows.setdefault(cls.card.row, []).append(name)  # type: ignore[attr-defined]
    yield from (MARK, "", "# Methods", "", f"{len(methods())} methods, by row.")
    for row in sorted(rows):
        yield from ("", f"## {row}", "")
        yield from (f"- [{name}]({name}.md): {_line(methods()[name].card.says)}" for name in rows[row])  # type: ignore[attr-defined]


def _page(name: str, cls: Any, evidence: Mapping[str, Any] | None) -> Iterator[str]:
    card = cls.card
    yield from (MARK, "", f"# {name}", "", card.says, "", "| | |", "| --- | --- |")
    for label in ("row", "paper", "costs", "fails_when", "differs"):
        if text := getattr(card, label):
            yield f"| {label.replace('_', ' ')} | {_cell(text)} |"
    yield from ("", *_described(cls))
    if name in catalogue() and slots(cls):
        said = about(cls)[1]
        yield from ("", "## Settings", "", "| name | default | |", "| --- | --- | --- |")
        for slot in slots(cls).values():
            default = "must be given" if slot.required else f"`{_cell(_short(slot.default))}`"
            yield f"| `{slot.name}` | {default} | {_cell(said.get(slot.name, ''))} |"
        for slot in slots(cls).values():
            yield from _choices(slot)
    yield from ("", "## Example", "", "```python", example_of(name), "```")
    if evidence is not None and card.row.startswith("knowledge /"):
        yield from ("", "## Evidence", "", *_evidence(name, evidence))


def _choices(slot: Slot) -> Iterator[str]:
    """The settings objects that a setting can be, with their own settings where they have no page that says so."""
    found = {name: cls for leaf, _ in leaves(slot.hint) for name, cls in fitting(leaf, catalogue()).items()}
    if not 1 < len(found) <= _MOST_CHOICES:
        return
    yield from ("", f"### `{slot.name}` is one of", "")
    for name, cls in sorted(found.items()):
        says, arguments = about(cls)
        own = slots(cls).values()
        given = ", ".join(each.name if each.required else f"{each.name}={_short(each.default)}" for each in own)
        title = f"[{name}]({name}.md)" if name in methods() else f"`{name}({given})`"
        yield f"- {title}: {_line(says)}"
        if name not in methods():
            yield from (f"    - `{each.name}`: {_line(arguments.get(each.name, ''))}" for each in own)


def _described(cls: type) -> list[str]:
    """The docstring down to its arguments, which have a table of their own."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return text.split("\nArgs:\n")[0].split("\n>>> ")[0].rstrip().splitlines()


def _evidence(name: str, evidence: Mapping[str, Any]) -> Iterator[str]:
    mine = {key: row for key, row in evidence["variants"].items() if row["method"] == name}
    elsewhere, row = evidence["elsewhere"], methods()[name].card.row  # type: ignore[attr-defined]
    if not mine and (why := elsewhere.get(name) or elsewhere.get(row)):
        yield f"In `benchmarks/knowledge`: {why}."
        return
    if not any(row["rows"] for row in mine.values()):
        yield "Not measured yet in `benchmarks/knowledge`."
        return
    least = evidence["least"]
    yield f"Fashion-MNIST, small networks; bold if five paired seeds show a difference of {least} points or more."
    for variant, row in mine.items():
        if not row["rows"]:
            continue
        yield from ("", f"**{variant}**", "") if len(mine) > 1 else ("",)
        if row["claims"]:
            yield f"- Its authors, or others: {row['claims']}."
        yield f"- Here: {row['seen']}."
        yield f"- When to use it: {row['use']}."
        yield from ("", "| regime | | over labels | over tuned soft targets |", "| --- | --- | --- | --- |")
        for one in row["rows"]:
            figure = f"{one['figure'].replace('_', ' ')} {one['mean']:.2f} ± {one['spread']:.2f}"
            cells = [_difference(one.get(f"over_{control}")) for control in ("labels", "SoftTargets")]
            yield f"| {_cell(one['says'])} | {figure} | {' | '.join(cells)} |"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    text = f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
    return f"**{text}**" if found["seen"] else text


def _short(value: object) -> str:
    coded = encode(value)
    if isinstance(coded, dict) and len(coded) == 1 and not isinstance(value, dict):
        ((name, fields),) = coded.items()
        return f"{name}({', '.join(f'{key}={item}' for key, item in fields.items())})"
    return str(coded)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
