"""What forms say a number takes is what it takes, in packed files and in ONNX files."""

from pathlib import Path

import pytest
import torch
from tests.surgery.forms.chains import CHAINS, X, gives, made
from torch import nn

from lessen.deploy import OnnxRuntime, export_onnx
from lessen.surgery.forms.base import Form
from lessen.surgery.forms.half import Short
from lessen.surgery.forms.registering import stored
from lessen.surgery.forms.stored import file_widths, stored_state
from lessen.surgery.packing import write_container
from lessen.testing.files import in_onnx, width_of


def check_claims(model: nn.Module, folder: Path) -> None:
    """What the forms say a number of a parameter takes is what it takes in files, and the files give the outputs."""
    file = export_onnx(model, X, folder / "model.onnx")
    assert float((OnnxRuntime().load(file, threads=1)(X) - gives(model)).abs().max()) < 1e-5
    (constants,) = in_onnx(file)
    tensors, known = stored_state(model)
    taken = write_container(folder / "packed.safetensors", tensors, known=known)
    for name, bits in file_widths(model).items():
        path, _, last = name.rpartition(".")
        weight = getattr(model.get_submodule(path), last).detach()
        if bits < 32 and last == "weight":
            found = width_of(constants, weight.numpy())
            assert found is not None
            assert found <= bits, f"{name} takes {found} bits in ONNX, not {bits}"
            most = weight.numel() * (bits + 1) / 8 + 4 * len(weight) + 16
            own = [key for key in tensors if key.startswith(name) and tensors[key].numel() == weight.numel()]
            size = sum(taken[key] for key in own)
            assert size <= most, f"{name} takes {size} bytes in a packed file, at {bits} bits"


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_what_forms_claim_is_so_in_files(chain: tuple[str, ...], tmp_path: Path) -> None:
    model = made(*chain)
    widths = file_widths(model)
    expected = {"mask": 32, "codes": 4, "half": 16, "grid": 4, "signs": 1}
    assert widths["conv.weight"] == widths["one.weight"] == min(expected[name] for name in chain)
    assert widths["conv.bias"] == 32
    check_claims(model, tmp_path)


def test_a_claim_that_is_not_so_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Short, "file_bits", lambda form, bits: 8)
    with pytest.raises(AssertionError, match="takes 16 bits in ONNX, not 8"):
        check_claims(made("half"), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Short, "simpler", Form.simpler)
    model = made("half")
    with torch.no_grad():  # as training leaves it
        stored(model.get_submodule("one"), "weight").add_(1e-5)
    with pytest.raises(AssertionError, match="bytes in a packed file, at 16 bits"):
        check_claims(model, tmp_path)
