"""Twenty-five small networks of six families, each built for any number of outputs.

The form of a network's inputs is one of `tasks.FORMS`: images of 16 or 32 pixels, rows of an image as a sequence, or
all pixels as a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessen.zoo import lenet5, mlp, residual, transformer


@dataclass(frozen=True)
class Kind:
    """How a network is built: `build(outputs)`, its family, the form of its inputs, and the data it learns from."""

    build: Callable[[int], nn.Module]
    family: str
    form: str
    data: str


def convolutions(*widths: int, norm: bool, hidden: int = 64) -> Callable[[int], nn.Module]:
    """Convolutions of 3 x 3, each with an optional batch norm, a ReLU and a pooling, then two linear layers."""

    def build(outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        channels, size = 1, 16
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU())
            if size > 2:
                layers.append(nn.MaxPool2d(2))
                size //= 2
            channels = width
        layers += [nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        return nn.Sequential(*layers)

    return build


class Inverted(nn.Module):
    """MobileNetV2's block: widen, filter each channel, narrow."""

    def __init__(self, width: int, out: int, stride: int, ratio: int = 3) -> None:
        super().__init__()
        inner = width * ratio
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.short = stride == 1 and width == out

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.body(maps) if self.short else self.body(maps)


class Separable(nn.Module):
    """MobileNetV1's block: filter each channel, then mix them."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        return self.body(maps)


def mobile(*blocks: nn.Module, out: int) -> Callable[[int], nn.Module]:
    """A stem, blocks, the mean over positions, and a head; built from copies of the blocks."""
    import copy

    def build(outputs: int) -> nn.Module:
        stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        body = [_fresh(copy.deepcopy(block)) for block in blocks]
        return nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, outputs))

    return build


def _fresh(block: nn.Module) -> nn.Module:
    for module in block.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return block


class Encoder(nn.Module):
    """A transformer over rows: post- or pre-norm blocks of PyTorch, the mean over rows, a head."""

    def __init__(self, outputs: int, *, first: bool, dim: int = 48, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(16, dim)
        self.position = nn.Parameter(torch.randn(1, 16, dim) * 0.1)
        self.blocks = nn.ModuleList(Block(dim, first=first) for _ in range(depth))
        self.head = nn.Linear(dim, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        tokens = self.embed(rows) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


class Block(nn.Module):
    """Attention with four heads and a perceptron, with layer norms before (`first`) or after them."""

    def __init__(self, dim: int, *, first: bool) -> None:
        super().__init__()
        self.first, self.heads = first, 4
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.one, self.two = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def attend(self, tokens: Tensor) -> Tensor:
        parts = (self.query(tokens), self.key(tokens), self.value(tokens))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def think(self, tokens: Tensor) -> Tensor:
        return self.narrow(nn.functional.gelu(self.wide(tokens)))

    def forward(self, tokens: Tensor) -> Tensor:
        if self.first:
            tokens = tokens + self.attend(self.one(tokens))
            return tokens + self.think(self.two(tokens))
        tokens = self.one(tokens + self.attend(tokens))
        return self.two(tokens + self.think(tokens))


class Recurrent(nn.Module):
    """A recurrent layer over rows, and a perceptron on its last state."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], outputs: int, *, convolution: bool = False) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Conv1d(16, 32, 3, padding=1), nn.ReLU()) if convolution else None
        self.layer = kind(32 if convolution else 16, 48, batch_first=True)
        self.head = nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, outputs))

    def forward(self, rows: Tensor) -> Tensor:
        if self.filter is not None:
            rows = self.filter(rows.transpose(1, 2)).transpose(1, 2)
        return self.head(self.layer(rows)[0][:, -1])


class Normed(nn.Module):
    """A perceptron with a norm and dropout after each hidden layer."""

    def __init__(self, norm: type[nn.Module], outputs: int, *, hidden: tuple[int, ...], drop: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 256
        for wide in hidden:
            layers += [nn.Linear(width, wide), norm(wide), nn.GELU(), nn.Dropout(drop)]
            width = wide
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, outputs)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(pixels))


def of_timm(name: str) -> Callable[[int], nn.Module]:
    """A network of timm with random weights, for images of one channel and 32 pixels."""

    def build(outputs: int) -> nn.Module:
        import timm

        more = {"img_size": 32, "patch_size": 8} if "vit" in name else {}
        return timm.create_model(name, num_classes=outputs, in_chans=1, pretrained=False, **more)

    return build


IMAGE, LARGE, ROWS, FLAT = "image16", "image32", "rows", "flat"
NETWORKS: dict[str, Kind] = {
    "plain-bn": Kind(convolutions(16, 32, 64, norm=True), "plain", IMAGE, "digits"),
    "plain-bn-deep": Kind(convolutions(16, 24, 32, 48, 48, norm=True), "plain", IMAGE, "fashion"),
    "plain": Kind(convolutions(16, 32, 64, norm=False), "plain", IMAGE, "digits"),
    "plain-two": Kind(convolutions(16, 32, norm=False, hidden=128), "plain", IMAGE, "fashion"),
    "plain-deep": Kind(convolutions(16, 24, 32, 48, 48, norm=False), "plain", IMAGE, "fashion"),
    "lenet": Kind(lambda outputs: lenet5(classes=outputs, image=16), "plain", IMAGE, "fashion"),
    "residual": Kind(lambda outputs: residual(width=8, depth=8, classes=outputs), "residual", IMAGE, "fashion"),
    "residual-deep": Kind(lambda outputs: residual(width=8, depth=14, classes=outputs, stem_stride=2), "residual",
                          IMAGE, "digits"),
    "residual-before": Kind(lambda outputs: residual(width=8, depth=8, classes=outputs, pre_activation=True),
                            "residual", IMAGE, "fashion"),
    "timm-resnet": Kind(of_timm("test_resnet"), "residual", LARGE, "fashion"),
    "timm-convnext": Kind(of_timm("test_convnext"), "residual", LARGE, "digits"),
    "inverted": Kind(mobile(Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 32, 2), out=32), "mobile", IMAGE,
                     "fashion"),
    "separable": Kind(mobile(Separable(16, 32, 2), Separable(32, 48, 1), Separable(48, 64, 2), out=64), "mobile", IMAGE,
                      "fashion"),
    "timm-mobilenetv3": Kind(of_timm("mobilenetv3_small_050"), "mobile", LARGE, "digits"),
    "timm-efficientnet": Kind(of_timm("test_efficientnet"), "mobile", LARGE, "digits"),
    "vision": Kind(lambda outputs: transformer(image=16, patch=4, dim=32, depth=3, heads=4, classes=outputs),
                   "transformer", IMAGE, "fashion"),
    "before": Kind(lambda outputs: Encoder(outputs, first=True), "transformer", ROWS, "fashion"),
    "after": Kind(lambda outputs: Encoder(outputs, first=False), "transformer", ROWS, "digits"),
    "timm-vit": Kind(of_timm("test_vit"), "transformer", LARGE, "digits"),
    "gru": Kind(lambda outputs: Recurrent(nn.GRU, outputs), "recurrent", ROWS, "fashion"),
    "lstm": Kind(lambda outputs: Recurrent(nn.LSTM, outputs), "recurrent", ROWS, "digits"),
    "filter-gru": Kind(lambda outputs: Recurrent(nn.GRU, outputs, convolution=True), "recurrent", ROWS, "fashion"),
    "perceptron": Kind(lambda outputs: mlp(inputs=256, hidden=(128, 64), classes=outputs), "perceptron", FLAT,
                       "digits"),
    "perceptron-bn": Kind(lambda outputs: Normed(nn.BatchNorm1d, outputs, hidden=(128, 128, 64), drop=0.0),
                          "perceptron", FLAT, "fashion"),
    "perceptron-ln": Kind(lambda outputs: Normed(nn.LayerNorm, outputs, hidden=(128, 64), drop=0.1), "perceptron",
                          FLAT, "fashion"),
}  # fmt: skip
