"""Transforms of torchvision and functions of one image as views: what each draws follows from the example alone."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from lessen.core import ArrayExamples, Data, View, encode
from lessen.core.errors import LessenError, SettingError
from lessen.core.seeds import uniforms
from lessen.data import Arrays, Compose, Digits, Shift, TorchTransform
from lessen.engine import Course
from lessen.graph import Cache, Edge, Fit, Flow, Graph, Labels, Network, Stage
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.recipe import read_recipe
from lessen.testing.schemes import same

IMAGES = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def noisy(image: Tensor) -> Tensor:
    """Draws from all three global generators."""
    return image + torch.rand(1) + np.random.rand() + random.random()


class Holding:
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, image: Tensor) -> Tensor:
        return image * float(self.generator.random())


VIEWS: dict[str, Any] = {
    "v2": lambda: TorchTransform(v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(6), v2.GaussianNoise()])),
    "named": lambda: TorchTransform("randomaffine", {"degrees": 30, "translate": [0.2, 0.2]}),
    "function": lambda: TorchTransform(noisy),
    "own generator": lambda: TorchTransform(Holding()),
    "composed": lambda: Compose(views=(v2.RandomVerticalFlip(), Shift(by=1), noisy)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_an_example_sees_follows_from_its_index_and_the_seed_alone(name: str) -> None:
    view, again = VIEWS[name](), VIEWS[name]()
    assert isinstance(view, View)
    index = torch.arange(8)
    drawn = uniforms(index, view.draws, seed=5)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    whole = view(IMAGES, drawn)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    order = torch.tensor([3, 0, 7])
    assert torch.equal(again(IMAGES[order], uniforms(index[order], view.draws, seed=5)), whole[order])
    other = view(IMAGES, uniforms(index, view.draws, seed=6))
    assert not torch.equal(other, whole)
    same_image = view(IMAGES[:1].expand(8, -1, -1, -1), drawn)
    assert not all(torch.equal(image, same_image[0]) for image in same_image)


class Small(nn.Module):
    """A network that keeps what it saw."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.body(images)


def data(augment: Any = None) -> Data:
    part = ArrayExamples(IMAGES, torch.arange(8) % 3)
    return Data(train=part, validation=part, test=part, classes=("a", "b", "c"), augment=augment)


def stage(student: nn.Module, *, teacher: Any = None, mine: Any = None, cache: Cache | None = None) -> Stage:
    nodes = [
        Labels(),
        Network(name="teacher", module=Small(1), learns=False, view=teacher, cache=cache),
        Network(name="student", module=student, learns=True, view=mine),
    ]
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="teacher", target="student", objective=SoftTargets()),
    ]
    return Stage(name="s", graph=Graph(nodes=nodes, edges=edges), epochs=3, fit=Fit(batch=4, checkpoint_steps=1))


def looks(augment: Any, teacher: Any, mine: Any) -> tuple[Tensor, Tensor]:
    """What the teacher and the student see of a training batch."""
    student = Small(0)
    made = stage(student, teacher=teacher, mine=mine)
    flow = Flow(made, data().train.fetch(torch.arange(8)), augment=augment)
    flow.set_mode(training=True)
    flow(data().train.fetch(torch.arange(8)), 0.0, view_seed=3)
    flow.close()
    (teachers,) = [node.module for node in made.graph.nodes if node.name == "teacher"]  # type: ignore[union-attr]
    return teachers.seen[-1], student.seen[-1]


def test_teacher_and_student_see_the_same_draws_or_others() -> None:
    noise = v2.GaussianNoise(sigma=0.5)
    for one, two, equal in [
        (None, None, True),  # the view of the data
        (TorchTransform(noisy), TorchTransform(noisy), True),
        (TorchTransform(noisy), TorchTransform(noisy, stream=1), False),
        (noise, noise, True),
    ]:
        teacher, student = looks(noise, one, two)
        assert torch.equal(teacher, student) == equal
        assert not torch.equal(student, IMAGES)


def ends(folder: Path | None, stop: int | None = None) -> dict[str, Tensor]:
    augment = v2.Compose([v2.RandomRotation(20), v2.RandomErasing(p=0.7), noisy])
    for left in [stop, None] if stop else [None]:
        student = Small(0)
        course = Course([stage(student)], data(augment), folder=folder, device="cpu", resume=True)
        steps = course.steps()
        for count, _ in enumerate(steps, start=1):
            if count == left:
                break
        steps.close()
    return student.state_dict()


def test_a_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = ends(None)
    assert same(whole, ends(tmp_path, 3))
    assert same(whole, ends(None))


def test_a_fixed_transform_is_seen_outside_of_training_and_may_be_cached(tmp_path: Path) -> None:
    fixed = TorchTransform("Resize", {"size": [6, 6], "interpolation": "nearest"}, random=False)
    assert fixed.draws == 0
    for _ in range(2):  # the second time from the cache, whose view another object describes
        student = Small(0)
        cache = Cache(folder=tmp_path / "c")
        view = TorchTransform("Resize", {"size": [6, 6], "interpolation": "nearest"}, random=False)
        made = stage(student, teacher=view, cache=cache)
        assert len(list(Course([made], data(), device="cpu").steps())) == 6
    with pytest.raises(LessenError, match="cannot be cached"):
        next(Course([stage(Small(0), teacher=v2.RandomErasing(), cache=Cache(folder=tmp_path / "d"))], data()).steps())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TorchTransform("RandAugmnt"), "no transform 'RandAugmnt': did you mean 'RandAugment'"),
        (lambda: TorchTransform("Resize", {"sise": 3}), "Resize has no setting 'sise': did you mean 'size'"),
        (lambda: TorchTransform("RandomErasing", {"p": 7}), "refuses the settings of RandomErasing"),
        (lambda: TorchTransform("MixUp", {"num_classes": 3}), "MixUp mixes examples and their labels"),
        (lambda: TorchTransform(v2.Compose([v2.CutMix(num_classes=3)])), "CutMix mixes examples and their labels"),
        (lambda: TorchTransform(noisy, {"p": 1}), "settings belong to a transform that is named"),
        (lambda: looks(None, None, v2.ToPILImage()), "gives a Image; networks need floating-point tensors. End it"),
        (lambda: looks(None, None, lambda image: image[:, : 3 + int(torch.rand(1) * 3)]), "different sizes"),
        (lambda: looks(None, None, v2.Lambda(lambda image: image @ image.new_zeros(5, 5))), r"shape \(1, 6, 6\)"),
        (lambda: looks(None, None, v2.ToDtype(torch.uint8)), "gives a tensor of type torch.uint8"),
    ],
)
def test_what_is_no_view_is_refused_before_the_first_step(make: Any, says: str) -> None:
    with pytest.raises(LessenError, match=says):
        make()


def test_data_and_recipes_take_them(tmp_path: Path) -> None:
    flip = v2.RandomHorizontalFlip()
    assert Digits(augment=flip).augment == TorchTransform(flip)
    with pytest.raises(SettingError, match="Arrays has no setting 'inputs'"):  # arrays are not compared
        Arrays(inputs=IMAGES.numpy(), augment=flip)  # type: ignore[call-arg]
    (tmp_path / "r.yaml").write_text("""
network: {build: zoo:perceptron}
data:
  Digits:
    augment:
      TorchTransform:
        transform: RandomApply
        settings: {p: 0.3, transforms: [{TorchTransform: {transform: ColorJitter, settings: {brightness: 0.5}}}]}
steps: [Supervised]
""")
    view = read_recipe(tmp_path / "r.yaml").data.augment  # type: ignore[union-attr]
    inner = TorchTransform("ColorJitter", {"brightness": 0.5})
    assert view == TorchTransform("RandomApply", {"p": 0.3, "transforms": [inner]})
    assert encode(view)["TorchTransform"]["settings"]["transforms"][0]["TorchTransform"]["transform"] == "ColorJitter"
    assert view(IMAGES, uniforms(torch.arange(8), 2, seed=0)).shape == IMAGES.shape
