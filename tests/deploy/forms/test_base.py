"""Twins: two of one operator cannot both write a file."""

from pathlib import Path

import pytest
from tests.surgery.forms.chains import X, made
from tests.surgery.forms.signs import SignsTwin

from lessen.core.errors import ExportError
from lessen.deploy import export_onnx
from lessen.deploy.forms import base as twins
from lessen.deploy.forms import register


def test_two_twins_with_one_operator_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(SignsTwin):
        pass

    monkeypatch.setattr(twins, "_registered", dict(twins._registered))
    register(Other())
    with pytest.raises(ExportError, match="Give yours another name"):
        export_onnx(made(), X, tmp_path / "model.onnx")
