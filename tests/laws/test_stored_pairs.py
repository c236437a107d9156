"""A law: what the record says is stored in b bits is b bits in every file, after any two operations of the catalogue.

The suite tries every operation alone in every file, every pair in packed files, and a sample of the pairs in ONNX and
OpenVINO files. `LESSEN_LAW=full` tries every pair in every file, PyTorch programs too (about 4 minutes of one core);
`LESSEN_LAW=7` tries another sample.
"""

import functools
import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor, nn

from lessen.core.errors import LessenError
from lessen.deploy import export_onnx, export_openvino
from lessen.deploy.constants import Constants
from lessen.deploy.export import export_pt2, trace
from lessen.pipeline import pack, steps, unpack
from lessen.pipeline.steps import Course, operate
from lessen.testing.catalogue import LITTLE, exported, outputs
from lessen.testing.files import Constant, in_onnx, in_openvino, in_pt2, width_of

ALL = exported()
ASKED = os.environ.get("LESSEN_LAW", "0")
FULL = ASKED == "full"
SAMPLE, BUNDLE = 24, 24
"""Pairs in the sample, and networks that are written to one file, which takes a third of the time of a file each."""


def build() -> nn.Module:
    """The little network, no two tensors of which are equal."""
    model, draw = LITTLE.build(), torch.Generator().manual_seed(1)
    for value in model.parameters():
        if value.ndim == 1:
            nn.init.uniform_(value, 0.5, 1.5, generator=draw)
    return model


@functools.cache
def after(*names: str) -> Course | None:
    """The network and the record after operations; None where one is refused."""
    course = Course(build()) if len(names) < 2 else after(*names[:-1])
    try:
        return None if course is None else operate(course, ALL[names[-1]], LITTLE.context(), len(names))
    except LessenError:
        return None


def claims(course: Course) -> dict[str, int]:
    """For each parameter of which the record speaks, the bits that it says are stored."""
    said: dict[str, int] = {}
    parameters = seen(course.network)
    for entry in course.rows:
        for row in entry["rows"]:
            if "stored" in row:
                name = row["module"]
                name = name if name in parameters else f"{name}.weight"
                said[name] = min(said.get(name, 32), int(row["stored"]))
    return said


def seen(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Each parameter as the network sees it, by every name."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name in ("weight", "bias"):
            value = getattr(module, name, None)
            if isinstance(value, Tensor) and "parametrizations" not in path:
                found[f"{path}.{name}"] = value.detach().numpy()
    return found


def known_by_its_values(value: np.ndarray[Any, Any]) -> bool:
    """Not so are tensors of equal numbers, and factors that have hardly more numbers than steps."""
    return float(np.ptp(value)) > 0 and (value.ndim < 2 or min(len(value), value[0].size) >= 4 or value.size > 99)


@functools.cache
def speaks(name: str) -> bool:
    """Whether the plan of an operation says that something is stored in few bits."""
    course = after(name)
    return course is not None and bool(claims(course))


PAIRS = list(itertools.product(ALL, ALL))


def pairs(first: str = "") -> list[tuple[str, ...]]:
    """All pairs of which one claims something; those that begin with an operation, if one is named."""
    return [pair for pair in PAIRS if first in {"", pair[0]} and any(map(speaks, pair))]


def chosen() -> list[list[tuple[str, ...]]]:
    """The pairs to write to files, in bundles; all in full, else a sample."""
    known = pairs() if FULL else random.Random(ASKED).sample(pairs(), SAMPLE)
    known = [pair for pair in known if after(*pair) is not None]
    return [known[at : at + BUNDLE] for at in range(0, len(known), BUNDLE)]


class Several(nn.Module):
    """Networks that are given the same."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(x) for model in self.models)


def check_files(chains: list[tuple[str, ...]], folder: Path, *, pt2: bool = True) -> int:
    """Write the networks after these operations to one file of each kind, and look for every claim; how many."""
    courses = [course for chain in chains if (course := after(*chain)) is not None]
    whole = Several([course.network for course in courses]).eval()
    inputs = LITTLE.inputs()
    program = trace(whole, inputs)
    file = export_onnx(whole, inputs, folder / "model.onnx", program=program)
    wrong, count = [], 0
    found: dict[str, list[list[Constant]]] = {"ONNX": in_onnx(file)}
    if pytest.importorskip("openvino"):
        found["OpenVINO"] = in_openvino(export_openvino(file, folder / "model.xml"))
    if pt2:
        found["PyTorch program"] = in_pt2(export_pt2(whole, inputs, folder / "model.pt2", program=program))
    for kind, constants in found.items():
        for chain, course, own in zip(chains, courses, constants, strict=True):
            parameters = seen(course.network)
            for name, said in claims(course).items():
                bits = bits_in_program(course, name) if kind == "PyTorch program" else said
                if bits < 32 and known_by_its_values(parameters[name]):
                    count += 1
                    width = width_of(own, parameters[name])
                    if width is None or width > bits:
                        wrong.append(f"{name} after {', '.join(chain)} is stored in {width} bits in {kind}, not {bits}")
    assert not wrong, "\n".join(wrong)
    return count


def bits_in_program(course: Course, name: str) -> int:
    """What the cards say of PyTorch programs: codes take 8 bits, everything else as in training."""
    last = {f"{name}.codes", f"{name.replace('same.', 'tied.')}.codes"}
    return 8 if last & set(course.network.state_dict()) else 32


def test_every_operation_alone_in_every_file(tmp_path: Path) -> None:
    alone = [(name,) for name in ALL if speaks(name)]
    assert len(alone) >= 8
    assert check_files(alone, tmp_path) > 100


@pytest.mark.parametrize("number", range(12 if FULL else -(-SAMPLE // BUNDLE)))
def test_every_pair_in_files(number: int, tmp_path: Path) -> None:
    bundles = chosen()
    assert len(bundles) <= 12
    if number < len(bundles):
        count = check_files(bundles[number], tmp_path, pt2=FULL)
        assert count * BUNDLE > 100 * len(bundles[number]), f"LESSEN_LAW={ASKED}"  # the last has fewer pairs
        print(len(bundles[number]), "pairs,", count, "claims,", round(time.process_time(), 1), "CPU seconds")


@pytest.mark.parametrize("first", ALL)
def test_every_pair_in_a_packed_file(first: str, tmp_path: Path) -> None:
    """And the network that comes out of it is the one that was packed, bit for bit."""
    for chain in ((first,), *pairs(first)):
        course = after(*chain)
        if course is None:
            continue
        path = tmp_path / "packed.safetensors"
        pack(course.network, path, plans=course.plans)
        sizes, parameters = in_packed(path), seen(course.network)
        for name, bits in claims(course).items():
            value = parameters[name]
            taken = sizes.get(name, sizes.get(f"{name}.codes"))
            assert taken is not None, f"{name} after {chain}"
            # A step of 32 bits for each row, and where weights are masked a bit for each, at most.
            most = value.size * (bits + 1) / 8 + (4 * max(value.shape[:2]) if value.ndim > 1 else 0) + 4
            assert bits == 32 or taken <= most, f"{name} after {chain} takes {taken} bytes, said {bits} bits"
        assert torch.equal(outputs(unpack(path, build()), LITTLE), outputs(course.network, LITTLE)), chain


def in_packed(path: Path) -> dict[str, int]:
    """The bytes of each tensor in a packed file, as its index says."""
    with safetensors.safe_open(path, "pt") as opened:
        forms = json.loads(opened.metadata()["index"])["tensors"]
    return {name: forms[form.get("same", name)]["bytes"] for name, form in forms.items()}


def test_what_a_program_holds_is_said_by_the_cards() -> None:
    for name in filter(speaks, ALL):
        assert ".pt2" in ALL[name].card.costs, name


def test_the_law_sees_constants_that_are_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Constants, "narrower", lambda *given: True)
    with pytest.raises(
        AssertionError, match=r"tied\.weight after QuantizeWeights, Quantize is stored in 8.* bits in O"
    ):
        check_files([("QuantizeWeights", "Quantize")], tmp_path, pt2=False)


def test_the_law_sees_what_the_record_does_not_take_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels add a bias as a whole number of 32 bits, also one that was in half precision."""
    course = after("Half", "Quantize")
    assert course is not None
    rows = [row for entry in course.rows for row in entry["rows"] if row["module"] == "tied.bias"]
    assert [row["stored"] for row in rows] == ["32"]
    assert rows[0]["after"] == "Float16; 32 bits in a file since step 2, Quantize"
    monkeypatch.setattr(steps, "said_anew", lambda rows, *given, **by: rows)
    after.cache_clear()
    with pytest.raises(AssertionError, match=r"tied\.bias after Half, Quantize is stored in 32 bits in ONNX, not 16"):
        check_files([("Half", "Quantize")], tmp_path, pt2=False)
    after.cache_clear()
