"""The Python of the guides, run as it stands: the blocks of a page in order, on a small network for signals."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen.deploy import Deploy, OnnxRuntime

GUIDES = Path(__file__).parents[2] / "docs" / "guide"


class Sensors(nn.Module):
    """Predicts a number from signals of six channels; it is no classifier and sees no images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(6, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU())
        self.head = nn.Linear(16, 1)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.body(signal).mean(2))


def load_my_network() -> nn.Module:
    torch.manual_seed(0)
    return Sensors()


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


PAGES = [page for page in sorted(GUIDES.glob("*.md")) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_blocks_of_a_guide_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = Deploy(runtimes=(OnnxRuntime(),), rounds=6, every_step=False)  # where the guide does not say which files
    for name in ("compress", "resume"):
        monkeypatch.setattr(lessen, name, partial(getattr(lessen, name), deploy=quick))
    torch.manual_seed(0)
    x = torch.randn(200, 6, 64)
    y = x[:, 0].square().mean(1, keepdim=True)
    script = ModuleType("my_script")
    monkeypatch.setitem(sys.modules, "my_script", script)
    given = vars(script) | {"load_my_network": load_my_network, "x": x, "y": y}
    for block in blocks(page):
        exec(compile(block, page.name, "exec", dont_inherit=True), given)
    named = [folder for folder in Path("runs").iterdir() if folder.name != ".lock"]
    assert named
    assert all((folder / "report.html").is_file() for folder in named)
    assert isinstance(given["small"], lessen.Compressed)
