"""A law: a file gives what its network gives at every size that the file says it takes, whatever depends on sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.deploy import export_onnx
from lessen.deploy.pools import windows

Maps = Callable[[Tensor], Tensor]
GRID = torch.linspace(-1, 1, 40).reshape(1, 5, 4, 2)
IMAGES: dict[str, Maps] = {
    "pooled to 1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "pooled to 2": lambda x: F.adaptive_avg_pool2d(x, 2),
    "pooled to 3 x 2": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "pooled to one row": lambda x: F.adaptive_avg_pool2d(x, (1, 3)),
    "rows as they are": lambda x: F.adaptive_avg_pool2d(x, (None, 3)),
    "rows pooled in one dimension": lambda x: F.adaptive_avg_pool1d(x.flatten(1, 2), 3),
    "pooled in three dimensions": lambda x: F.adaptive_avg_pool3d(x[:, None], (2, 3, 1)),
    "largest of all": lambda x: F.adaptive_max_pool2d(x, 1),
    "largest of 2": lambda x: F.adaptive_max_pool2d(x, 2),
    "largest of 3 x 2": lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    "largest of rows": lambda x: F.adaptive_max_pool1d(x.flatten(1, 2), 3),
    "largest in three dimensions": lambda x: F.adaptive_max_pool3d(x[:, None], (2, 3, 1)),
    "a ceiling": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "largest under a ceiling": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "twice": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "twice, linear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "to the size of another": lambda x: x + F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear"),
    "to the size, corners aligned": lambda x: F.interpolate(
        F.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear", align_corners=True
    ),
    "to one size": lambda x: F.interpolate(x, size=(7, 9), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "smoothed": lambda x: F.interpolate(x, size=(6, 8), mode="bilinear", antialias=True),
    "padded by reflection": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "padded by repetition": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "padded round": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "padded to even": lambda x: F.pad(x, (0, x.shape[-1] % 4, 0, x.shape[-2] % 4)),
    "rolled": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "each repeated": lambda x: x.repeat_interleave(3, dim=-1),
    "each repeated by a size": lambda x: x.repeat_interleave(x.shape[3], dim=2),
    "each example repeated by a size": lambda x: x.repeat_interleave(x.shape[2], dim=0),
    "each channel repeated by half a size": lambda x: x.repeat_interleave(x.shape[2] // 2, 1),
    "all repeated by a size": lambda x: x.repeat_interleave(x.shape[2]),
    "the last repeated by a size": lambda x: x.mean((1, 2)).repeat_interleave(x.shape[2], -1),
    "rolled by half": lambda x: torch.roll(x, x.shape[-1] // 2, 3),
    "flipped": lambda x: x.flip(-1),
    "the middle": lambda x: x[:, :, x.shape[2] // 4 : -x.shape[2] // 4, 1:-1],
    "every other": lambda x: x[:, :, ::2, 1::2],
    "cut in two": lambda x: torch.cat(x.chunk(2, 2), 1) if x.shape[2] % 2 == 0 else x,
    "unfolded": lambda x: F.unfold(x, 2, stride=2),
    "shuffled": lambda x: F.pixel_unshuffle(x, 2),
    "positions": lambda x: x + torch.linspace(0, 1, x.shape[-1]) + torch.arange(x.shape[-2])[:, None],
    "triangle": lambda x: (x @ x.transpose(-2, -1)).tril(),
    "divided by the size": lambda x: x.sum((-2, -1)) / (x.shape[-2] * x.shape[-1]),
    "root of the size": lambda x: x.sum((-2, -1)) / x.shape[-1] ** 0.5,
    "each by the other": lambda x: torch.einsum("nchw,ncHw->nhH", x, x),
    "sums so far": lambda x: x.cumsum(-1),
    "norm of layers": F.instance_norm,
    "sampled": lambda x: F.grid_sample(x, GRID.expand(x.shape[0], -1, -1, -1), align_corners=False),
    "windows": lambda x: x.unfold(2, 4, 4).mean(-1),
    "softmax over places": lambda x: x.flatten(2).softmax(-1),
    "place of the largest": lambda x: x.flatten(2).argmax(-1).float(),
    "repeated": lambda x: x.mean(-1, keepdim=True).repeat(1, 1, 1, 3),
    "places counted from the end": lambda x: x[..., (1 - x.shape[-1]) // 3 :],
    "as wide as the input": lambda x: x.mean(-1, keepdim=True).expand(-1, -1, -1, x.shape[-1]) * 2,
}
SIZES = ((8, 12), (9, 13), (11, 8), (16, 24), (10, 10))


class Images(nn.Module):
    """A convolution, and what is done with its maps."""

    def __init__(self, after: Maps) -> None:
        super().__init__()
        self.first, self.after = nn.Conv2d(3, 4, 3, padding=1), after

    def forward(self, image: Tensor) -> Tensor:
        return self.after(self.first(image))


def seen(file: Path, network: nn.Module) -> tuple[int, list[str]]:
    """At how many sizes the file ran that the network takes, and where it gives something else."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    wrong, ran = [], 0
    for size in SIZES:
        fixed = [axis for axis, now in zip(given.shape[2:], size, strict=True) if isinstance(axis, int) and axis != now]
        if fixed:
            continue
        image = torch.rand(2, 3, *size)
        try:
            with torch.no_grad():
                wanted = network(image).numpy()
        except RuntimeError:
            continue
        ran += 1
        try:
            (found,) = session.run(None, {given.name: image.numpy()})
        except RuntimeError as error:
            wrong.append(f"{size}: {str(error)[-200:]}")
            continue
        if found.shape != wanted.shape or np.abs(found - wanted).max() > 1e-4:
            wrong.append(f"{size}: {found.shape} for {wanted.shape}")
    return ran, wrong


@pytest.mark.parametrize("kind", IMAGES)
def test_a_file_is_right_at_every_size_that_it_takes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Images(IMAGES[kind]).eval()
    ran, wrong = seen(export_onnx(network, torch.rand(2, 3, *SIZES[0]), tmp_path / "m.onnx"), network)
    assert ran
    assert wrong == []


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_windows_are_those_of_pytorch(size: int, count: int) -> None:
    row = torch.rand(1, 1, size, dtype=torch.float64)
    wanted = F.adaptive_avg_pool1d(row, count)[0, 0]
    inside = windows(size, count)
    assert np.allclose(inside @ row[0, 0].numpy() / inside.sum(1), wanted.numpy(), atol=1e-12)


def test_a_file_that_needs_the_places_of_the_largest_takes_one_size(tmp_path: Path) -> None:
    network = Images(lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1].float()).eval()
    file = export_onnx(network, torch.rand(2, 3, *SIZES[0]), tmp_path / "m.onnx")
    assert onnxruntime.InferenceSession(file).get_inputs()[0].shape[2:] == [*SIZES[0]]
    assert seen(file, network) == (1, [])
