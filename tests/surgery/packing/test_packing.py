"""Every form gives every bit back, is as short as it says, and notices what was done to it."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from lessen.core.errors import WeightsError
from lessen.surgery.packing import (
    Behind,
    Known,
    Lattice,
    packed_bytes,
    read_container,
    read_tensor,
    write_container,
    write_tensor,
)
from lessen.surgery.packing.integers import deflated, inflated, pack_bits, unpack_bits
from lessen.surgery.packing.positions import best_width, joined, split
from lessen.surgery.packing.stream import Sink, Source

NOTHING = Known()


def there_and_back(tensor: Tensor, known: Known = NOTHING, *, coded: bool = True) -> tuple[Tensor, Tensor | None, int]:
    sink = Sink()
    form = json.loads(json.dumps(write_tensor(tensor, sink, known, coded=coded)))
    source = Source(sink.content())
    again, kept = read_tensor(form, source)
    source.end()
    return again, kept, len(sink.content())


def same_bits(one: Tensor, other: Tensor) -> bool:
    def bits(tensor: Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""

    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)


def slowly(numbers: list[int], width: int) -> bytes:
    """The independent way: one large whole number, each code shifted to its place."""
    total = sum(number << (place * width) for place, number in enumerate(numbers))
    return total.to_bytes((len(numbers) * width + 7) // 8, "little")


@given(st.integers(1, 20).flatmap(lambda w: st.tuples(st.just(w), st.lists(st.integers(0, 2**w - 1), max_size=40))))
@settings(max_examples=60, deadline=None)
def test_bits_are_those_of_one_large_number(drawn: tuple[int, list[int]]) -> None:
    width, numbers = drawn
    content = pack_bits(np.array(numbers, np.uint64), width)
    assert content == slowly(numbers, width)
    assert unpack_bits(content, width, len(numbers)).tolist() == numbers


def test_another_order_of_bits_would_be_seen() -> None:
    """The planted error: the highest bit first."""
    wrong = np.packbits(((np.array([1, 2, 3])[:, None] >> np.arange(3)) & 1).astype(np.uint8)).tobytes()
    assert wrong != slowly([1, 2, 3], 3)


@given(st.lists(st.integers(0, 300), max_size=30), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_distances_are_split_and_joined(steps: list[int], width: int) -> None:
    symbols = split(np.array(steps, np.int64), width)
    assert joined(symbols, width).tolist() == steps
    assert all(0 <= symbol < 2**width for symbol in symbols)


def test_the_best_width_is_found_by_trying_all() -> None:
    steps = np.random.default_rng(0).geometric(0.07, 500) - 1
    sizes = {width: width * len(split(steps, width)) for width in range(1, 12)}
    assert sizes[best_width(steps)] == min(sizes.values())


TENSORS = {
    "normal": torch.randn(7, 5),
    "empty": torch.zeros(0, 3),
    "one number": torch.tensor(3.5),
    "zeros": torch.zeros(4, 4),
    "sparse": torch.randn(50, 20) * (torch.rand(50, 20, generator=torch.Generator().manual_seed(0)) < 0.1),
    "negative zeros, infinities and no numbers": torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0]),
    "half": torch.randn(30).half().float(),
    "brain": torch.randn(30).bfloat16().float(),
    "few values": torch.tensor([0.1, 0.2, 0.7])[torch.arange(300) % 3],
    "float64": torch.randn(9, dtype=torch.float64),
    "float16": torch.randn(9).half(),
    "bfloat16": torch.randn(9).bfloat16(),
    "bool": torch.tensor([True, False, True]),
    "uint8": torch.arange(13, dtype=torch.uint8),
    "int8": torch.arange(-7, 8, dtype=torch.int8),
    "int64": torch.tensor([-(2**63), 2**63 - 1, 0]),
    "count": torch.tensor(17),
}


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("name", TENSORS)
def test_every_bit_comes_back(name: str, coded: bool) -> None:
    tensor = TENSORS[name]
    again, _, size = there_and_back(tensor, coded=coded)
    assert same_bits(again, tensor)
    assert size <= tensor.numel() * tensor.element_size()


def test_a_form_that_loses_the_sign_of_zero_would_be_seen() -> None:
    assert not same_bits(torch.tensor([-0.0]), torch.tensor([0.0]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0]).double())


def test_types_without_a_form_are_refused() -> None:
    with pytest.raises(WeightsError, match="complex64"):
        write_tensor(torch.zeros(2, dtype=torch.complex64), Sink())


WIDTHS = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0), (6, 1.0), (7, 1.0), (8, 1.0), (2, 0.5), (4, 0.1), (7, 0.05)]


@pytest.mark.parametrize(("bits", "kept"), WIDTHS)
@pytest.mark.parametrize("coded", [True, False])
def test_the_size_is_the_predicted_one(bits: int, kept: float, coded: bool, tmp_path: Path) -> None:
    """Within two per cent of the file, header and all, for codes of every width."""
    drawn = torch.Generator().manual_seed(bits)
    shape = (300, 1500)
    stands = torch.rand(shape, generator=drawn) < kept
    codes = torch.randint(0, 2**bits, shape, generator=drawn, dtype=torch.uint8)
    share = float(stands.double().mean())
    known = Known(kept=stands) if kept < 1 else Known()
    write_container(tmp_path / "x.safetensors", {"w": codes * stands}, known={"w": known}, coded=coded)
    predicted = packed_bytes(codes.numel(), bits=bits, kept=share, coded=coded)
    actual = (tmp_path / "x.safetensors").stat().st_size
    assert abs(actual / predicted - 1) < 0.02
    assert abs(actual / (predicted * 8 / max(bits, 1)) - 1) > 0.02 or bits == 8  # a byte a code would be seen


def test_frequent_codes_take_fewer_bits() -> None:
    codes = (torch.randn(20000, generator=torch.Generator().manual_seed(0)) * 2.5).round().clamp(-7, 7).to(torch.int8)
    share = torch.bincount(codes.long() + 7).double() / len(codes)
    entropy = float(-(share[share > 0].log2() * share[share > 0]).sum()) * len(codes) / 8
    size = there_and_back(codes)[2]
    assert entropy <= size <= 1.03 * entropy < there_and_back(codes, coded=False)[2]


def test_a_mask_keeps_its_places_where_weights_are_zero() -> None:
    kept = torch.tensor([[True, False, True, True]])
    tensor = torch.tensor([[1.5, 0.0, 0.0, 2.5]])
    again, places, _ = there_and_back(tensor, Known(kept=kept))
    assert same_bits(again, tensor)
    assert places is not None
    assert torch.equal(places, kept)
    found = there_and_back(tensor)[1]
    assert found is None or not torch.equal(found, kept)  # without the mask that place would be lost


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 127])
def test_weights_on_grids_take_the_bits_of_their_codes(limit: int, ends: bool) -> None:
    weight = torch.randn(64, 300, generator=torch.Generator().manual_seed(limit))
    scale = weight.abs().amax(1) if ends else weight.abs().amax(1) / limit
    grid = Lattice(axis=0, limit=limit, scale=scale, ends=ends)
    rounded = grid.round(weight)
    again, _, size = there_and_back(rounded, Known(grid=grid), coded=False)
    assert same_bits(again, rounded)
    assert size <= -(-weight.numel() * (2 * limit).bit_length() // 8) + 64 * 4
    off = rounded.clone()
    off[3, 5] += 1e-3
    more, _, larger = there_and_back(
        off, Known(grid=grid), coded=False
    )  # not on the grid: told apart, and kept exactly
    assert same_bits(more, off)
    assert larger > 1.5 * size


def test_pruned_codes_are_written_against_the_code_of_zero(tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    zeros = torch.randint(0, 16, (40, 4), generator=drawn, dtype=torch.uint8)
    behind = Behind(name="zeros", group=25)
    empty = behind.spread(zeros, (40, 99))
    kept = torch.rand(40, 99, generator=drawn) < 0.1
    codes = torch.where(kept, torch.randint(0, 16, (40, 99), generator=drawn, dtype=torch.uint8), empty)
    tensors, path = {"codes": codes, "zeros": zeros}, tmp_path / "x.safetensors"
    taken = write_container(path, tensors, known={"codes": Known(behind=behind)})
    again = read_container(path).unpack()
    assert all(same_bits(again[name][0], tensor) for name, tensor in tensors.items())
    assert taken["codes"] < 0.6 * write_container(tmp_path / "y.safetensors", tensors)["codes"]


def written(path: Path, **more: Any) -> dict[str, Tensor]:
    tensors = {"a": torch.randn(20, 20, generator=torch.Generator().manual_seed(0)), "b": torch.arange(10)}
    tensors |= {"tied": tensors["a"], "equal": tensors["a"].clone()}
    write_container(path, tensors, more={"plans": [], **more})
    return tensors


def test_what_is_shared_or_equal_is_written_once(tmp_path: Path) -> None:
    tensors = written(tmp_path / "x.safetensors")
    contents = read_container(tmp_path / "x.safetensors")
    assert all(same_bits(contents.unpack()[name][0], tensor) for name, tensor in tensors.items())
    assert (tmp_path / "x.safetensors").stat().st_size < 2 * 1600
    assert contents.shapes() == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_any_reader_of_safetensors_opens_it(tmp_path: Path) -> None:
    written(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert list(opened.keys()) == ["packed"]
        assert json.loads(opened.metadata()["index"])["plans"] == []


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    written(path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut short"):
            read_container(path)


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    written(path)
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    assert read_container(path).unpack()  # unaltered it is read
    for place in [*range(8, start, 37), *range(start, len(whole), 97)]:
        changed = bytearray(whole)
        changed[place] ^= 1
        if bytes(changed[8:start]).isspace():
            continue
        path.write_bytes(bytes(changed))
        with pytest.raises(WeightsError, match=str(path)):
            read_container(path).unpack()


def test_the_altered_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    written(path)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 255
    path.write_bytes(bytes(whole))
    with pytest.raises(WeightsError, match=r"b in .* is damaged: its checksum is another"):
        read_container(path).unpack()


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match="plain tensors"):
        read_container(tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match="There is no file"):
        read_container(tmp_path / "none.safetensors")


def test_no_content_unpacks_to_more_than_it_should() -> None:
    bomb = deflated(bytes(10_000_000))
    with pytest.raises(WeightsError, match="another size than 100 bytes"):
        inflated(bomb, 100)
    assert inflated(deflated(b"abc" * 100), 300) == b"abc" * 100
