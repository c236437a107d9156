"""Views: what they draw, what they move, and that nothing else moves."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lessen.core import View, decode, encode
from lessen.core.errors import SettingError, ShapeError
from lessen.core.seeds import uniforms
from lessen.data import AsTheyAre, Compose, Erase, FlipCrop, Shift

VIEWS = [
    AsTheyAre(),
    FlipCrop(padding=2),
    Shift(by=3),
    Erase(probability=0.7),
    Compose(views=(FlipCrop(padding=1), Erase())),
]
KNOWN = {view.__name__: view for view in (AsTheyAre, FlipCrop, Shift, Erase, Compose)}


def by_hand(images: Tensor, uniforms: Tensor, padding: int, flip: float) -> Tensor:
    """One example after the other, by slicing: the obviously right slow way."""
    made = []
    for image, (row, column, mirror) in zip(images, uniforms.tolist(), strict=True):
        wide = torch.nn.functional.pad(image, (padding,) * 4)
        top, left = int(row * (2 * padding + 1)), int(column * (2 * padding + 1))
        part = wide[:, top : top + image.shape[1], left : left + image.shape[2]]
        made.append(part.flip(2) if mirror < flip else part)
    return torch.stack(made)


@pytest.mark.parametrize(("padding", "flip"), [(0, 0.0), (2, 0.0), (0, 1.0), (3, 0.5)])
def test_flip_crop_is_slicing(padding: int, flip: float) -> None:
    images, drawn = torch.randn(64, 3, 7, 9), torch.rand(64, 3)
    assert torch.equal(FlipCrop(padding=padding, flip=flip)(images, drawn), by_hand(images, drawn, padding, flip))


def test_slicing_tells_a_wrong_view() -> None:
    images, drawn = torch.randn(64, 3, 7, 9), torch.rand(64, 3)
    swapped = drawn[:, [1, 0, 2]]
    assert not torch.equal(FlipCrop(padding=3)(images, swapped), by_hand(images, drawn, 3, 0.5))


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_a_view_is_settings_and_draws_what_it_says(view: View) -> None:
    assert isinstance(view, View)
    assert decode(encode(view), KNOWN) == view
    images, index = torch.randn(10, 1, 8, 8), torch.arange(10)
    drawn = uniforms(index, view.draws, seed=3)
    seen = view(images, drawn)
    assert seen.shape == images.shape
    assert seen.dtype == images.dtype
    alone = view(images[4:5], uniforms(index[4:5], view.draws, seed=3))
    assert torch.equal(seen[4:5], alone)


def test_erase_hides_about_what_it_says() -> None:
    images = torch.ones(2000, 1, 32, 32)
    hidden = 1 - Erase(probability=1.0, least=0.1, most=0.3)(images, torch.rand(2000, 5)).flatten(1).mean(1)
    assert hidden.min() > 0.07
    assert hidden.max() < 0.33
    assert hidden.mean() == pytest.approx(0.2, abs=0.01)
    kept = Erase(probability=0.0)(images, torch.rand(2000, 5))
    assert torch.equal(kept, images)


def test_compose_gives_each_view_its_own_numbers() -> None:
    images, drawn = torch.randn(8, 1, 6, 6), torch.rand(8, 6)
    both = Compose(views=(Shift(by=1), FlipCrop(padding=2)))
    assert both.draws == 6
    assert torch.equal(both(images, drawn), FlipCrop(padding=2)(Shift(by=1)(images, drawn[:, :3]), drawn[:, 3:]))


def test_bad_settings_and_shapes_are_named() -> None:
    with pytest.raises(SettingError, match="flip"):
        FlipCrop(flip=2.0)
    with pytest.raises(ShapeError, match=r"\(4, 10\)"):
        FlipCrop()(torch.zeros(4, 10), torch.zeros(4, 3))


def test_a_view_moves_all_images_at_once() -> None:
    """As many operators for 64 images as for 2: a loop over examples would cost more than the training step."""

    class Counted(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    def operators(examples: int) -> int:
        with Counted() as counted:
            FlipCrop(padding=2)(torch.randn(examples, 1, 28, 28), torch.rand(examples, 3))
        return counted.count

    assert operators(64) == operators(2) < 60
