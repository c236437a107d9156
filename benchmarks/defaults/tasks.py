"""Three tasks on two sets of images, small enough that a network learns each in a second.

Single label: the class. Several labels: five attributes of the class, of which any number hold. Numbers: the mean, the
centre and the spread of an image with noise of its own, standardised.

Shapes: N examples, H x W pixels, K outputs.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.data import ArrayExamples, Data
from lessen.data import Digits, FashionMNIST

FORMS = ("image16", "image32", "rows", "flat")
TRAIN, VALIDATION, TEST = 768, 384, 640
OUTPUTS = {"single": 10, "several": 5, "numbers": 4}
_ATTRIBUTES = {
    # even, above 4, a closed loop, a prime, drawn without a curve
    "digits": ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (0, 6, 8, 9), (2, 3, 5, 7), (1, 4, 7)),
    # for the upper body, with long sleeves, for the feet, worn on top, without sleeves
    "fashion": ((0, 2, 3, 4, 6), (2, 3, 4, 6), (5, 7, 9), (2, 4), (0, 1, 3, 8)),
}


@functools.cache
def images(name: str) -> tuple[Tensor, Tensor]:
    """Images of 16 x 16 pixels (N, 1, 16, 16) with noise, and classes; the first ones are for training."""
    data = Digits().load() if name == "digits" else FashionMNIST(limit=TRAIN + VALIDATION + TEST).load()
    splits = (data.train, data.validation, data.test)
    counts = (TRAIN, VALIDATION, TEST)
    if name == "digits":  # 1,797 in all
        whole = [split.fetch(torch.arange(len(split))) for split in splits]
        inputs = torch.cat([batch.inputs for batch in whole])
        labels = torch.cat([batch.labels for batch in whole])
        inputs = F.interpolate(inputs, size=16, mode="bilinear")
        inputs = inputs + torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0)) * 0.5
    else:
        whole = [split.fetch(torch.arange(count)) for split, count in zip(splits, counts, strict=True)]
        inputs = F.pad(F.avg_pool2d(torch.cat([batch.inputs for batch in whole]), 2), (1, 1, 1, 1), value=-0.8)
        labels = torch.cat([batch.labels for batch in whole])
    return inputs, labels


def numbers(inputs: Tensor) -> Tensor:
    """The mean, the centre and the spread of images, standardised (N, 4)."""
    weight = (inputs - inputs.amin((1, 2, 3), keepdim=True)).squeeze(1)
    total = weight.sum((1, 2))
    place = torch.linspace(-1, 1, 16)
    across, down = (weight.sum(1) * place).sum(1) / total, (weight.sum(2) * place).sum(1) / total
    wide = (weight.sum(1) * place.square()).sum(1) / total - across.square()
    found = torch.stack([total.log(), across, down, wide], 1)
    return (found - found.mean(0)) / found.std(0)


def shaped(inputs: Tensor, form: str) -> Tensor:
    """Images in the form that a network takes."""
    if form == "image32":
        return F.interpolate(inputs, size=32, mode="bilinear")
    return {"image16": inputs, "rows": inputs.squeeze(1), "flat": inputs.flatten(1)}[form]


@functools.cache
def load(name: str, form: str, task: str) -> Data:
    """The splits of a task; test examples are for the last figure only."""
    inputs, labels = images(name)
    targets = labels
    if task == "several":
        targets = torch.stack([torch.isin(labels, torch.tensor(some)) for some in _ATTRIBUTES[name]], 1).float()
    if task == "numbers":
        targets = numbers(inputs)
    seen, ends = shaped(inputs, form), (TRAIN, TRAIN + VALIDATION, len(inputs))
    starts = (0, TRAIN, TRAIN + VALIDATION)
    train, validation, test = (
        ArrayExamples(seen[start:end], targets[start:end]) for start, end in zip(starts, ends, strict=True)
    )
    classes = tuple(map(str, range(10))) if task == "single" else None
    data = Data(train=train, validation=validation, test=test, classes=classes, name=f"{name}, {task}")
    if task == "single":
        return data
    from lessen.tasks import guess

    return dataclasses.replace(data, task=guess((2, OUTPUTS[task]), targets).task)
