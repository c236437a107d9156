"""A notebook: what the last line of a cell shows is short, and has a picture."""

import os
from pathlib import Path

import pytest

import lessen
from lessen.core.errors import SettingError
from lessen.deploy import Deploy
from lessen.engine import run
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import Compressed, Measuring
from lessen.schemes import offline
from lessen.testing.tasks import clusters, perceptron

LONGEST = 8_000
"""Characters of one output."""

CELLS = (
    """
from lessen.deploy import Deploy
from lessen.engine import run
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import Measuring
from lessen.schemes import offline
from lessen.testing.tasks import clusters, perceptron
import lessen
scheme = offline(SoftTargets(temperature=4.0), epochs=3, fit=Fit(batch=16))
run(scheme.stages({"teacher": perceptron(8, seed=0), "student": perceptron(6, seed=1)}), clusters())
""",
    """
small = lessen.compress(
    perceptron(8, seed=0), clusters(), steps=[PruneWeights(keep=0.5), scheme], run="small",
    deploy=Deploy(runtimes=()), measuring=Measuring(repeats=6, calibration=32),
)
small
""",
    "lessen.frame('small', 'log').tail(3)",
    "lessen.compare('small')",
)


def test_a_notebook_is_short_and_has_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", exc_type=ImportError)
    nbformat = pytest.importorskip("nbformat", exc_type=ImportError)
    processors = pytest.importorskip("nbconvert.preprocessors", exc_type=ImportError)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    processors.ExecutePreprocessor(timeout=300, kernel_name="python3").preprocess(
        book, {"metadata": {"path": tmp_path}}
    )
    for cell in book.cells:
        said = "".join(output.get("text", "") for output in cell.outputs)
        shown = [output["data"] for output in cell.outputs if output.output_type == "execute_result"]
        assert len(shown) == 1
        assert len(said) < LONGEST
        assert sum(len(text) for text in shown[0].values()) < 2 * LONGEST
        assert len(shown[0]["text/plain"]) < 2_000
    trained, compressed, _, compared = (cell.outputs[-1]["data"]["text/html"] for cell in book.cells)
    assert "<polyline" in trained
    for page in (trained, compressed, compared):
        assert page.count("<svg") == 1
        assert "<table>" in page
    progress = "".join(output.get("text", "") for output in book.cells[0].outputs)
    assert "epoch 3 of 3" in progress


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return lessen.compress(
        perceptron(8, seed=0),
        clusters(),
        steps=[PruneWeights(keep=0.5), offline(SoftTargets(temperature=4.0), epochs=1, fit=Fit(batch=16))],
        run=tmp_path_factory.mktemp("frames") / "run",
        deploy=Deploy(runtimes=()),
        measuring=Measuring(repeats=6, calibration=32),
        progress=False,
    )


def test_records_are_lines(small: Compressed) -> None:
    found = small.frame()
    assert len(found) == len(small.records)
    assert found.equals(lessen.frame(small.run).assign(at=found["at"]))
    chosen = found[(found["figure"] == "accuracy") & (found["step"] == 2)]
    assert list(chosen["value"]) == [row.value for row in small.records if row.figure == "accuracy" and row.step == 2]
    assert not any(isinstance(value, dict | list) for value in found.to_numpy().ravel())
    assert len(repr(small)) < 300
    assert repr(small).startswith("Compressed(run=")


def test_logs_are_lines(small: Compressed, tmp_path: Path) -> None:
    log = lessen.frame(small, "log")
    assert set(log["kind"]) == {"step", "validation"}
    assert log["loss.student"].notna().sum() == 5
    history = run(
        offline(epochs=1, fit=Fit(batch=16)).stages(
            {"teacher": perceptron(8, seed=0), "student": perceptron(6, seed=1)}
        ),
        clusters(),
        folder=tmp_path / "r",
        progress=False,
    )
    assert history.frame().equals(lessen.frame(tmp_path / "r"))
    assert len(repr(history)) < 300
    with pytest.raises(SettingError, match="'records' or 'log'"):
        lessen.frame(tmp_path / "r", "lgo")
