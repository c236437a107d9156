"""Sixteen networks with their data, and the lines that their owners write.

Data: handwritten digits of scikit-learn, or made by the code here, so that nothing has to be fetched; MiniLM needs its
package (README.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lessen
from lessen.data import load
from lessen.deploy import Deploy, OnnxRuntime
from lessen.graph import AdamW, Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneChannels, Quantize, QuantizeDynamic
from lessen.schemes import at, offline

FILES = Deploy(runtimes=(OnnxRuntime(),), rounds=6)
EPOCHS = 8


@dataclass
class Setup:
    """A trained network and what its owner has.

    Args:
        network: The network, not trained yet where `first_epochs` is not 0.
        data: In the form that the owner has it in.
        train: Inputs and labels of the training split as tensors, for the loop by hand.
        validation: Of the validation split.
        test: Of the test split.
        score: `(outputs, labels) -> number`, without lessen.
        loss: On labels, for the loops.
        distance: Between outputs and those of the teacher, for the loop by hand.
        figure: What the score is.
        higher: Whether a higher score is better.
        keep: Share of channels that the owner keeps; None: nothing is pruned.
        student: Another network that learns.
        epochs: Of teaching; 0: none.
        first_epochs: Of the first training.
        first_rate: Of the first training.
        output: The output that is judged, of networks with several.
        task: As given by the owner, or None.
    """

    network: Any
    data: Any
    train: tuple[Any, Tensor]
    validation: tuple[Any, Tensor]
    test: tuple[Any, Tensor]
    score: Callable[[Tensor, Tensor], float]
    loss: Callable[[Tensor, Tensor], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    figure: str = "accuracy, %"
    higher: bool = True
    keep: float | None = 0.5
    student: Any = None
    epochs: int = EPOCHS
    first_epochs: int = 20
    first_rate: float = 3e-3
    output: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Story:
    """A person.

    Args:
        name: Of the story.
        make: From a seed to the setup.
        lines: What the person writes: from network, setup and folder to the result of `lessen.compress`.
    """

    name: str
    make: Callable[[int], Setup]
    lines: Callable[[Any, Setup, Path], Any]


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Percent."""
    return 100 * float((outputs.argmax(1) == labels).double().mean())


def softened(student: Tensor, teacher: Tensor) -> Tensor:
    """Hinton's loss at temperature 4, over axis 1."""
    ours, theirs = (student / 4).log_softmax(1), (teacher / 4).log_softmax(1)
    return 16 * (theirs.exp() * (theirs - ours)).sum(1).mean()


def digits(seed: int, size: int | None = None) -> tuple[tuple[Tensor, Tensor], ...]:
    """The digits of scikit-learn: 1,000 to train on, 297 to validate, 500 to test; (N, 1, 8, 8) or larger."""
    found = load_digits()
    x, y = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)
    if size is not None:
        x = F.interpolate(x, size=(size, size), mode="bilinear")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = order.split([1000, 297, 500])
    return tuple((x[part], y[part]) for part in parts)


def classes(network: Any, parts: Any, data: Any, **more: Any) -> Setup:
    """A setup of one class for each example."""
    return Setup(network, data, *parts, score=accuracy, loss=F.cross_entropy, distance=softened, **more)


def usual(network: Any, setup: Setup, run: Path) -> Any:
    """The three lines of README."""
    return lessen.compress(
        network, setup.data, run=run, progress=False, deploy=FILES,
        steps=[PruneChannels(keep=0.5), offline(SoftTargets(temperature=4.0), epochs=EPOCHS), Quantize()],
    )  # fmt: skip


# 1. A plain CNN with loaders


def plain(outputs: int = 10, channels: int = 1, first: int = 24) -> nn.Module:
    """Three convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(),
        nn.Conv2d(first, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, outputs),
    )  # fmt: skip


def loaders(seed: int) -> Setup:
    """`DataLoader`s of `(image, label)`."""
    parts = digits(seed)
    train, validation, test = (DataLoader(TensorDataset(*part), batch_size=32) for part in parts)
    return classes(plain(), parts, {"train": train, "validation": validation, "test": test})


# 2. A loader of dicts


class Named(Dataset):
    """Items by name."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.x[i], "number": i, "digit": int(self.y[i])}


def dicts(seed: int) -> Setup:
    """A loader of dicts with one entry too many."""
    parts = digits(seed)
    made = [DataLoader(Named(*part), batch_size=32) for part in parts]
    return classes(plain(), parts, dict(zip(("train", "validation", "test"), made, strict=True)))


def dict_lines(network: Any, setup: Setup, run: Path) -> Any:
    """Roles by key; the network is called with the image alone."""
    data = load(setup.data, inputs="image", labels="digit")
    return lessen.compress(
        network, data, run=run, progress=False, deploy=FILES,
        steps=[PruneChannels(keep=0.5), offline(SoftTargets(), epochs=EPOCHS), Quantize()],
    )  # fmt: skip


# 3. A U-Net with label maps


class UNet(nn.Module):
    """Two levels with a skip connection."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 2, stride=2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.head(torch.cat([skip, self.deep(skip)], 1))


def shapes(seed: int, count: int = 700, size: int = 24) -> tuple[tuple[Tensor, Tensor], ...]:
    """Noisy images with a disc (class 1) and a square (class 2), and the map of classes."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x, y = 0.5 * torch.randn(count, 3, size, size, generator=draw), torch.zeros(count, size, size, dtype=torch.long)
    for i in range(count):
        a, b, c, d = (torch.randint(5, size - 5, (4,), generator=draw)).tolist()
        disc = (rows - a) ** 2 + (columns - b) ** 2 <= 20
        square = ((rows - c).abs() <= 3) & ((columns - d).abs() <= 3) & ~disc
        y[i][disc], y[i][square] = 1, 2
        x[i, 0][disc] += 1.0
        x[i, 1][square] += 1.0
    parts = torch.arange(count).split([400, 100, 200])
    return tuple((x[part], y[part]) for part in parts)


def mean_iou(outputs: Tensor, labels: Tensor) -> float:
    """Percent, over classes."""
    said = outputs.argmax(1)
    found = [
        float(((said == k) & (labels == k)).sum() / ((said == k) | (labels == k)).sum().clamp_min(1)) for k in range(3)
    ]
    return 100 * float(np.mean(found))


def maps(seed: int) -> Setup:
    """Images and maps as arrays."""
    parts = shapes(seed)
    data = dict(zip(("train", "validation", "test"), parts, strict=True))
    return Setup(
        UNet(), data, *parts, score=mean_iou, loss=F.cross_entropy, distance=softened, figure="mean IoU, %",
        first_epochs=12,
    )  # fmt: skip


# 4. Regression


def rmse(outputs: Tensor, labels: Tensor) -> float:
    """In the unit of the labels."""
    return float((outputs.reshape(labels.shape) - labels).square().mean().sqrt())


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error."""
    return (outputs.reshape(labels.shape) - labels).square().mean()


def numbers(seed: int) -> Setup:
    """The diabetes table of scikit-learn, with 20 columns of products, labels (N,)."""
    found = load_diabetes()
    x = torch.tensor(found.data, dtype=torch.float32) * 20
    x = torch.cat([x, x * x.roll(1, 1)], 1)
    y = torch.tensor((found.target - found.target.mean()) / found.target.std(), dtype=torch.float32)
    parts = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split([260, 82, 100])
    parts = tuple((x[part], y[part]) for part in parts)
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    data = dict(zip(("train", "validation", "test"), parts, strict=True))
    return Setup(
        network, data, *parts, score=rmse, loss=squared, distance=squared, figure="RMSE", higher=False,
        first_epochs=6, first_rate=1e-3,
    )  # fmt: skip


# 5. GRU and LSTM over text


class Recurrent(nn.Module):
    """An embedding, a GRU, an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.gru = nn.GRU(32, 48, batch_first=True)
        self.lstm = nn.LSTM(48, 48, batch_first=True)
        self.head = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.gru(self.words(tokens))[0])[0][:, -1])


def words(seed: int, count: int = 1500, length: int = 12) -> tuple[tuple[Tensor, Tensor], ...]:
    """Texts of 12 words of 49; the class is which of four words comes first."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(5, 50, (count, length), generator=draw)
    y = torch.randint(4, (count,), generator=draw)
    for i in range(count):
        place = int(torch.randint(0, length - 1, (1,), generator=draw))
        x[i, place] = y[i] + 1
        x[i, place + 1] = int(torch.randint(1, 5, (1,), generator=draw))
    return tuple((x[part], y[part]) for part in torch.arange(count).split([1000, 200, 300]))


def text(seed: int) -> Setup:
    """Token numbers."""
    parts = words(seed)
    data = dict(zip(("train", "validation", "test"), parts, strict=True))
    return classes(Recurrent(), parts, data, keep=None, epochs=0)


def dynamic_lines(network: Any, setup: Setup, run: Path) -> Any:
    """int8 for what has kernels; nothing is trained."""
    return lessen.compress(network, setup.data, run=run, progress=False, deploy=FILES, steps=[QuantizeDynamic()])


# 6. A transformers classifier, `datasets`, masks, padding, several lengths


def bert(outputs: int = 4, layers: int = 2, width: int = 64) -> Any:
    """A small BERT, untrained."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=60, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * width, max_position_embeddings=32, num_labels=outputs,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def padded(part: tuple[Tensor, Tensor], seed: int) -> tuple[dict[str, Tensor], Tensor, list[list[int]]]:
    """Texts of 6 to 12 words, as padded tensors with their masks, and as lists."""
    x, y = part
    draw = torch.Generator().manual_seed(seed)
    length = torch.randint(6, 13, (len(x),), generator=draw)
    mask = torch.arange(12)[None] < length[:, None]
    first = torch.where((x >= 1) & (x < 5), 1, 0).argmax(1)
    mask |= torch.arange(12)[None] <= first[:, None] + 1
    tokens = x * mask
    lists = [row[: int(m.sum())].tolist() for row, m in zip(tokens, mask, strict=True)]
    return {"input_ids": tokens, "attention_mask": mask.long()}, y, lists


def transformers_text(seed: int) -> Setup:
    """A `DatasetDict` of tokenised texts."""
    from datasets import Dataset as Rows
    from datasets import DatasetDict

    made = [padded(part, seed) for part in words(seed)]
    tables = {
        name: Rows.from_dict(
            {"input_ids": lists, "attention_mask": [[1] * len(row) for row in lists], "label": y.tolist()}
        )
        for name, (_, y, lists) in zip(("train", "validation", "test"), made, strict=True)
    }
    parts = [(x, y) for x, y, _ in made]
    return classes(bert(), parts, DatasetDict(tables), output="logits", first_rate=1e-3)


# 7. A 1-D audio network with weight norm


def audio(seed: int) -> Setup:
    """Sounds of 128 samples: four kinds of waves in noise."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.arange(128) / 128
    y = torch.randint(4, (1200,), generator=draw)
    pitch, phase = 4 + 4 * torch.rand(1200, 1, generator=draw), 6.28 * torch.rand(1200, 1, generator=draw)
    wave = torch.sin(6.28 * pitch * time + phase)
    kinds = torch.stack([wave, wave.sign(), wave.abs(), wave**3], 1)
    x = (kinds[torch.arange(1200), y] + 0.2 * torch.randn(1200, 128, generator=draw))[:, None]
    parts = tuple((x[part], y[part]) for part in torch.arange(1200).split([800, 150, 250]))
    network = nn.Sequential(
        weight_norm(nn.Conv1d(1, 24, 9, stride=2, padding=4)), nn.ReLU(),
        weight_norm(nn.Conv1d(24, 32, 9, stride=2, padding=4)), nn.ReLU(),
        weight_norm(nn.Conv1d(32, 32, 5, padding=2)), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(),
        nn.Linear(128, 4),
    )  # fmt: skip
    return classes(network, parts, dict(zip(("train", "validation", "test"), parts, strict=True)))


# 8. Several labels


def binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over labels."""
    return F.binary_cross_entropy_with_logits(outputs.reshape(labels.shape), labels.float())


def sigmoid_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy with the teacher's probabilities."""
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def several(seed: int) -> Setup:
    """Two digits on one image; labels (N, 10) say which are there."""
    found = []
    for x, y in digits(seed):
        other = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + 1))
        label = (F.one_hot(y, 10) + F.one_hot(y[other], 10)).clamp_max(1).float()
        found.append((torch.cat([x, x[other]], 3), label))

    def score(outputs: Tensor, labels: Tensor) -> float:
        return 100 * float(average_precision_score(labels.numpy(), outputs.numpy(), average="macro"))

    data = dict(zip(("train", "validation", "test"), found, strict=True))
    return Setup(
        plain(), data, *found, score=score, loss=binary_cross_entropy, distance=sigmoid_distance,
        figure="mean average precision, %", first_epochs=30,
    )  # fmt: skip


# 9. One logit


def one_logit(seed: int) -> Setup:
    """Is the digit odd? Labels (N,) of 0.0 and 1.0."""
    parts = tuple((x, (y % 2).float()) for x, y in digits(seed))
    data = dict(zip(("train", "validation", "test"), parts, strict=True))

    def score(outputs: Tensor, labels: Tensor) -> float:
        return 100 * float(f1_score(labels.numpy(), (outputs.reshape(-1) > 0).numpy()))

    return Setup(
        plain(1), data, *parts, score=score, loss=binary_cross_entropy, distance=sigmoid_distance, figure="F1, %"
    )


# 10. Two inputs


class TwoInputs(nn.Module):
    """An image and a row of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(24 * 16 + 24, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image), self.table(table)], 1))


def two_inputs(seed: int) -> Setup:
    """`TensorDataset(image, table, label)`."""
    found = []
    for x, y in digits(seed):
        table = torch.randn(len(x), 6, generator=torch.Generator().manual_seed(seed))
        table[:, 0] += y % 3
        found.append(((x, table), y))
    data = {name: TensorDataset(*x, y) for name, (x, y) in zip(("train", "validation", "test"), found, strict=True)}
    return classes(TwoInputs(), found, data)


def two_inputs_lines(network: Any, setup: Setup, run: Path) -> Any:
    """Roles by position."""
    data = load(setup.data, inputs=(0, 1), labels=2)
    return lessen.compress(
        network, data, run=run, progress=False, deploy=FILES,
        steps=[PruneChannels(keep=0.5), offline(SoftTargets(), epochs=EPOCHS), Quantize()],
    )  # fmt: skip


# 11. A network with boxes and scores


class Detector(nn.Module):
    """For every cell of a coarse grid a score and a box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.scores, self.boxes = nn.Conv2d(48, 1, 1), nn.Conv2d(48, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = self.body(x)
        return {"scores": self.scores(seen), "boxes": self.boxes(seen)}


def detector(seed: int) -> Setup:
    """Is there a disc in the cell? Labels are maps of 6 x 6 cells of 0 and 1; boxes have no labels."""
    parts = []
    for x, y in shapes(seed):
        cells = F.max_pool2d((y == 1).float()[:, None], 4)
        parts.append((x, cells))
    data = dict(zip(("train", "validation", "test"), parts, strict=True))

    def score(outputs: Tensor, labels: Tensor) -> float:
        return 100 * float(f1_score(labels.numpy().reshape(-1), (outputs > 0).numpy().reshape(-1)))

    return Setup(
        Detector(), data, *parts, score=score, loss=binary_cross_entropy, distance=sigmoid_distance, figure="F1, %",
        output="scores", first_epochs=15,
    )  # fmt: skip


def detector_lines(network: Any, setup: Setup, run: Path) -> Any:
    """Scores are judged; both outputs are taught."""
    from lessen.surgery.taps import Tap

    def boxes(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().flatten(1).mean(1)

    return lessen.compress(
        network, setup.data, output="scores", run=run, progress=False, deploy=FILES,
        steps=[
            PruneChannels(keep=0.5), offline(SoftTargets(), at(Tap(part="boxes"), boxes), epochs=EPOCHS), Quantize(),
        ],
    )  # fmt: skip


# 12. timm with a new head


def timm_head(seed: int) -> Setup:
    """A small network of timm with ten outputs, on digits of 32 pixels in three channels."""
    import timm

    parts = tuple((x.repeat(1, 3, 1, 1), y) for x, y in digits(seed, 32))
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=10)
    return classes(network, parts, dict(zip(("train", "validation", "test"), parts, strict=True)), first_epochs=8)


# 13. MiniLM with one's own loss


def minilm(seed: int) -> Setup:
    """Short sentences made of 40 nouns and verbs; what is kept is the vector of a sentence."""
    sys.path.insert(0, str(Path(__file__).parent))
    from encoder import encoder, sentences

    network, parts = encoder(), sentences(seed)

    def cosine(outputs: Tensor, labels: Tensor) -> float:
        return 100 * float(F.cosine_similarity(outputs, labels, dim=1).mean())

    with torch.no_grad():
        parts = tuple((x, network(**x)) for x in parts)
    data = {name: (x, None) for name, (x, _) in zip(("train", "validation", "test"), parts, strict=True)}

    def one_minus(a: Tensor, b: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(a, b, dim=1).mean()

    return Setup(
        network, data, *parts, score=cosine, loss=lambda a, b: 0 * a.sum(), distance=one_minus,
        figure="cosine to the original, %", first_epochs=0, epochs=3, keep=0.7,
    )  # fmt: skip


def minilm_lines(network: Any, setup: Setup, run: Path) -> Any:
    """A loss in one line, and no labels. With only 320 sentences, small batches give more steps."""

    def away(student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(student, teacher, dim=1)

    return lessen.compress(
        network, setup.data, run=run, progress=False, deploy=FILES,
        steps=[
            PruneChannels(keep=0.7),
            offline(away, labels=0, epochs=3, fit=Fit(batch=32, optimizer=AdamW())),
            QuantizeDynamic(),
        ],
    )  # fmt: skip


# 14. A transformers teacher and one's own student


class Own(nn.Module):
    """A bag of words with two layers, that takes what the teacher takes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(60, 48), nn.Parameter(torch.randn(12, 48))
        self.body = nn.Sequential(
            nn.Conv1d(48, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 64, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(64, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = (self.words(input_ids) + self.places[: input_ids.shape[1]]) * attention_mask[..., None]
        return self.head(self.body(seen.transpose(1, 2)).amax(2))


def own_student(seed: int) -> Setup:
    """The teacher returns a model output, the student a tensor."""
    parts = [(x, y) for x, y, _ in (padded(part, seed) for part in words(seed))]
    data = dict(zip(("train", "validation", "test"), parts, strict=True))
    torch.manual_seed(seed)
    return classes(bert(), parts, data, output="logits", first_rate=1e-3, keep=None, student=Own(), epochs=20)


def own_student_lines(network: Any, setup: Setup, run: Path) -> Any:
    """A student of one's own."""
    return lessen.compress(
        network, setup.data, student=setup.student, run=run, progress=False, deploy=FILES,
        steps=[offline(SoftTargets(), epochs=20), Quantize()],
    )  # fmt: skip


# 15. A frozen backbone


def frozen(seed: int) -> Setup:
    """The first block must stay as it is."""
    parts = digits(seed)
    setup = classes(plain(), parts, dict(zip(("train", "validation", "test"), parts, strict=True)))
    for parameter in setup.network[:3].parameters():
        parameter.requires_grad_(False)
    return setup


def frozen_lines(network: Any, setup: Setup, run: Path) -> Any:
    """Frozen layers stay frozen, and are not pruned."""
    return lessen.compress(
        network, setup.data, run=run, progress=False, deploy=FILES,
        steps=[PruneChannels(keep=0.5, exclude="0"), offline(SoftTargets(), epochs=EPOCHS), Quantize()],
    )  # fmt: skip


# 16. Images of two sizes


class AnySize(nn.Module):
    """Convolutions and the largest value of each channel: images (N, 1, H, W) of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).amax((2, 3)))


def padded_images(images: Sequence[Tensor]) -> Tensor:
    """Images (1, H, W) of several sizes as one batch, as large as the largest of them."""
    high, wide = (max(image.shape[axis] for image in images) for axis in (1, 2))
    return torch.stack([F.pad(image, (0, wide - image.shape[2], 0, high - image.shape[1])) for image in images])


class Images(Dataset):
    """Images of 8 x 8, then as many of 12 x 12 with the digit anywhere in them; `rows` are batches for the loops."""

    def __init__(self, part: tuple[Tensor, Tensor], draw: torch.Generator) -> None:
        x, self.y = part
        small = len(x) // 2
        self.x = list(x[:small])
        for image in x[small:]:
            left, top = torch.randint(0, 5, (2,), generator=draw).tolist()
            self.x.append(F.pad(image, (left, 4 - left, top, 4 - top)))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], int(self.y[i])

    def rows(self, index: Any) -> Tensor:
        numbers = range(len(self.x))[index] if isinstance(index, slice) else index.tolist()
        return padded_images([self.x[i] for i in numbers])


def collate(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """What the owner gives to a loader."""
    return padded_images([image for image, _ in items]), torch.tensor([label for _, label in items])


def two_sizes(seed: int) -> Setup:
    """Loaders that pad the images of a batch to the largest; tested on batches of 8 x 8 and on batches of 12 x 12."""
    draw = torch.Generator().manual_seed(seed)
    made = [Images(part, draw) for part in digits(seed)]
    data = {
        name: DataLoader(each, batch_size=32, shuffle=name == "train", collate_fn=collate)
        for name, each in zip(("train", "validation", "test"), made, strict=True)
    }
    return classes(AnySize(), tuple((each, each.y) for each in made), data, first_epochs=30)


STORIES = (
    Story("01 plain CNN, loaders", loaders, usual),
    Story("02 loader of dicts", dicts, dict_lines),
    Story("03 U-Net, maps", maps, usual),
    Story("04 regression", numbers, usual),
    Story("05 GRU and LSTM", text, dynamic_lines),
    Story("06 transformers and datasets", transformers_text, usual),
    Story("07 audio, weight norm", audio, usual),
    Story("08 several labels", several, usual),
    Story("09 one logit", one_logit, usual),
    Story("10 two inputs", two_inputs, two_inputs_lines),
    Story("11 boxes and scores", detector, detector_lines),
    Story("12 timm, new head", timm_head, usual),
    Story("13 MiniLM, own loss", minilm, minilm_lines),
    Story("14 own student of BERT", own_student, own_student_lines),
    Story("15 frozen backbone", frozen, frozen_lines),
    Story("16 images of two sizes", two_sizes, usual),
)
