"""Run folders that earlier versions wrote are loaded, packed, read again, and give the same outputs.

`run_of_2026_12_03.zip` is a finished run of commit 90e1a01, before stored forms, kinds of nodes and the packages of
knowledge and operations were taken apart: training, channels pruned, distillation, low rank, masks, 8 bits, 16 bits.
The recipe is in it; its report is not. `expected.safetensors` has inputs, and the outputs that commit gave for them.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

import lessen
from lessen.core.errors import LessenError, RunError
from lessen.core.files import read_tensors
from lessen.core.sealed import read_sealed, write_sealed
from lessen.report import compare

ARCHIVE = Path(__file__).with_name("run_of_2026_12_03.zip")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path / "run")
    (tmp_path / "run" / "expected.safetensors").rename(tmp_path / "expected.safetensors")
    return tmp_path / "run"


def test_it_loads_and_gives_the_same_outputs(run: Path) -> None:
    expected = read_tensors(run.parent / "expected.safetensors")
    packed = lessen.pack(run, out=run.parent / "small.safetensors")
    with torch.no_grad():
        for network in (lessen.load(run), lessen.load(packed.path)):
            # Sums of floats differ in the last digits from processor to processor; a step of 8 bits is 1e-2 here.
            torch.testing.assert_close(network(expected["inputs"]), expected["outputs"], rtol=1e-4, atol=1e-4)


def test_another_run_would_be_seen(run: Path) -> None:
    plans = json.loads((run / "plan.json").read_text())
    (masks,) = (plan["PrunedWeights"]["masks"] for plan in plans if "PrunedWeights" in plan)
    masks["head.0.weight"] = masks["head.1.weight"]
    (run / "plan.json").write_text(json.dumps(plans))
    with pytest.raises(LessenError, match="A mask in the plan does not have 48 weights"):
        lessen.load(run)


def test_it_is_read_again_compared_and_reported(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    made = lessen.resume(run, progress=False)
    assert made.records
    assert "accuracy" in str(compare(run))
    for path, content in before.items():
        assert path.name in {"report.html", ".lock"} or path.read_bytes() == content, path


def test_a_folder_of_another_format_is_named_with_its_version(run: Path) -> None:
    path = run / "checkpoints" / "state.json"
    write_sealed(path, {**read_sealed(path, advice=""), "kind": "lessen run, version 99"})
    with pytest.raises(RunError, match=r"it is 'lessen run, version 99', and 'lessen run, version \d+' was expected"):
        lessen.load(run)
