"""Files are written whole or not at all."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lessen.core.errors import RunError, WeightsError
from lessen.core.files import (
    append_line,
    read_described,
    read_lines,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
    write_whole,
)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(part: Path) -> None:
        part.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(RunError, match=f"{name} is a device, a pipe or a socket"):
            write_text(tmp_path / name, "new")
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / ("a" * 300), "new")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_tensors_come_back_even_when_they_share_memory(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "t.safetensors", {"a": base, "b": base.t(), "c": base[0]})
    back = read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(back["a"], base)
    assert torch.equal(back["b"], base.t())
    assert torch.equal(back["c"], base[0])


def test_a_cut_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_tensors(path)
    with pytest.raises(WeightsError, match="There is no file"):
        read_tensors(tmp_path / "none.safetensors")


def test_a_last_line_cut_short_is_left_out_but_a_broken_one_inside_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, {"a": 1})
    append_line(path, {"a": 2})
    path.write_text(path.read_text() + '{"a": ')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": \n{"a": 2}\n')
    with pytest.raises(ValueError, match="Expecting value"):
        read_lines(path)


def test_every_bit_of_a_tensor_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(True),
        "c": torch.zeros(0),
        "d": torch.ones(2).half(),
    }
    write_tensors(path, tensors, {"about": "this"})
    found, about = read_described(path)
    assert about == {"about": "this"}
    assert all(torch.equal(value, found[name]) for name, value in tensors.items())
    whole = path.read_bytes()
    for place in range(8, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(WeightsError):
            found, about = read_described(path)
            # Spaces in the header, and the name of the checksum, carry nothing.
            assert {"about": "this"}.items() <= about.items(), place
            assert all(torch.equal(value, found[name]) for name, value in tensors.items()), place


def test_tensor_files_of_other_programs_carry_no_checksum(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["a"], torch.ones(2))
