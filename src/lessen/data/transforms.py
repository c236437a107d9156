"""Transforms of torchvision (v2), and any function of one image, as views of a batch.

Shapes: N examples, C channels, H x W positions, K numbers drawn for each example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import cached_property
from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor

from lessen.core.data import View
from lessen.core.errors import DataError, LessenError, ShapeError, did_you_mean, need
from lessen.core.seeds import Drawing, Generators, drawing_from, generators_of
from lessen.core.settings import folded, settings


@settings
class TorchTransform:
    """Any transform of `torchvision.transforms.v2`, or any function of one image (C, H, W), as a view.

    Each image is transformed by itself, as in a `Dataset`. What it draws (from the generators of torch, NumPy and
    Python, or from its own) follows from the seed, the epoch and the index of the example, so a run is resumed exactly,
    and nodes with the same view see the same pictures. It is called image by image: cheap transforms of `lessen.data`
    are much faster.

    Args:
        transform: A transform or a function; or the name of a class of `torchvision.transforms.v2`, as "RandAugment",
            in any case.
        settings: Of the class that is named, as {"num_ops": 2}; transforms inside are these objects.
        stream: Views of different streams draw differently: one for the teacher, another for the student.
        random: Whether it draws at all. What does not, as "Resize", is also seen in validation by the node whose view
            it is, and may be cached.

    Raises:
        SettingError: torchvision has no such transform, or it mixes examples with their labels.
        MissingExtraError: a transform is named, and torchvision is not installed.
    """

    transform: str | Callable[[Any], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stream: int = 0
    random: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not isinstance(self.transform, str) and self.settings:
            raise ValueError("settings belong to a transform that is named; this one has its own")
        for part in _inside(self._made):
            if type(part).__name__ in {"MixUp", "CutMix"}:
                raise ValueError(
                    f"the transform {type(part).__name__} mixes examples and their labels, and a view sees the inputs "
                    "alone. Mix in the data set, or leave it out"
                )
        return self

    @property
    def draws(self) -> int:
        """Numbers drawn for each example: a seed."""
        return 2 if self.random else 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        """The images, each transformed by itself.

        Raises:
            ShapeError: the results differ in size.
            DataError: the transform fails, or gives no floating-point tensors.
        """
        transform, cuda = self._made, inputs.device if inputs.is_cuda else None
        seeds = [0] * len(inputs)
        if self.random:
            whole_N2 = (uniforms_NK.cpu().double() * 2**24).long()
            seeds = ((whole_N2[:, 0] << 24) + whole_N2[:, 1]).tolist()
        found = []
        with drawing_from(self.stream), Drawing(self._generators) as drawing:
            for image, seed in zip(inputs, seeds, strict=True):
                drawing.item(seed)
                if cuda is not None:
                    torch.cuda.default_generators[cuda.index or 0].manual_seed(seed)
                found.append(self._result(transform, image))
        sizes = sorted({tuple(image.shape) for image in found})
        if len(sizes) > 1:
            raise ShapeError(
                f"{self._name} gives images of different sizes, as {sizes[0]} and {sizes[1]}. End it with "
                "v2.Resize((height, width)) or v2.CenterCrop(size)."
            )
        return torch.stack(found)

    def _result(self, transform: Callable[[Any], Any], image: Tensor) -> Tensor:
        try:
            result = transform(image)
        except LessenError:
            raise
        except Exception as error:
            raise DataError(
                f"{self._name} cannot transform an image of shape {tuple(image.shape)} and type "
                f"{str(image.dtype).removeprefix('torch.')}: {error}"
            ) from error
        if not isinstance(result, Tensor) or not result.is_floating_point():
            what = f"a tensor of type {result.dtype}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise DataError(
                f"{self._name} gives {what}; networks need floating-point tensors. End it with v2.ToImage() and "
                "v2.ToDtype(torch.float32, scale=True)."
            )
        return result.as_subclass(Tensor)

    @property
    def _name(self) -> str:
        given = self.transform
        named = given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__name__)
        return f"The transform {named}"

    @cached_property
    def _generators(self) -> Generators:
        return generators_of(self._made)

    @cached_property
    def _made(self) -> Callable[[Any], Any]:
        given = self.transform
        if not isinstance(given, str):
            return given
        v2 = need("torchvision.transforms.v2", "zoo")
        known = {folded(n): n for n, c in vars(v2).items() if isinstance(c, type) and issubclass(c, v2.Transform)}
        name = known.get(folded(given.rpartition(".")[2]))
        if name is None:
            raise ValueError(f"torchvision has no transform {given!r}: {did_you_mean(given, known.values())}")
        wanted = list(inspect.signature(getattr(v2, name)).parameters)
        for setting in self.settings:
            if setting not in wanted:
                raise ValueError(f"torchvision's {name} has no setting {setting!r}: {did_you_mean(setting, wanted)}")
        try:
            plain = {setting: _plain(setting, value) for setting, value in self.settings.items()}
            made: Callable[[Any], Any] = getattr(v2, name)(**plain)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"torchvision refuses the settings of {name}: {error}") from error
        return made


def _plain(name: str, value: Any) -> Any:
    """A setting as torchvision wants it: transforms inside, types and interpolations by their names."""
    if isinstance(value, TorchTransform):
        return value._made
    if isinstance(value, list | tuple):
        return type(value)(_plain(name, item) for item in value)
    if name == "dtype" and isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype):
        return getattr(torch, value)
    if name == "interpolation" and isinstance(value, str):
        return need("torchvision.transforms.v2", "zoo").InterpolationMode(value)
    return value


def _inside(transform: Any) -> Iterator[Any]:
    """A transform, and those that it is made of."""
    yield transform
    parts = getattr(transform, "transforms", ())
    for part in parts if isinstance(parts, list | tuple) else ():
        yield from _inside(part)


def as_view(given: Any) -> Any:
    """A transform of torchvision, or a function of one image, as a view; views and all else stay as they are."""
    if given is None or isinstance(given, type | str) or not callable(given) or hasattr(given, "draws"):
        return given
    return TorchTransform(transform=given)


AnyView = Annotated[View, BeforeValidator(as_view)]
"""A view, or what `as_view` makes one of."""
