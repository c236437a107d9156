"""What `lessen.use` takes, and what it lets files name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lessen
from lessen.core import others, settings
from lessen.core.errors import SettingError


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(others, "_allowed", set())
    monkeypatch.chdir(tmp_path)


def test_modules_are_taken_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "my_own_methods.py").write_text(
        "from lessen.core import settings\n@settings\nclass MyOwn:\n    factor: float = 2.0\n"
    )
    assert others.others() == []
    assert not others.is_allowed("my_own_methods")
    module = lessen.use("my_own_methods")
    try:
        assert others.is_allowed("my_own_methods")
        assert others.others() == [module.MyOwn]
        assert others._allowed == {"my_own_methods"}
    finally:
        del sys.modules["my_own_methods"]
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import not_there_at_all", "it imports not_there_at_all, which is missing"),
        ("def", "Module 'my_broken_methods' cannot be imported: SyntaxError"),
        ("1 / 0", "Module 'my_broken_methods' cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "my_broken_methods.py").write_text(text)
    with pytest.raises(SettingError, match=said):
        lessen.use("my_broken_methods")
    assert others._allowed == set()


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(SettingError, match="There is no module 'nowhere'"):
        lessen.use("nowhere")
    with pytest.raises(SettingError, match=r"got 3, but a module"):
        lessen.use(3)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="give the classes"):
        lessen.use("__main__")
    with pytest.raises(SettingError, match="nothing was given"):
        lessen.use()


def test_lessens_own_classes_are_nobody_elses() -> None:
    from lessen.operations import PruneChannels

    lessen.use(PruneChannels, int)
    assert others.others() == []


def test_of_a_class_that_is_defined_again_the_later_counts() -> None:
    def define() -> type:
        @settings
        class Again:
            pass

        return Again

    first, second = define(), define()
    lessen.use(first)
    mine = [kind for kind in others.others() if kind.__name__ == "Again"]
    assert mine == [second]
    assert others.named(__name__, "Again") is second
