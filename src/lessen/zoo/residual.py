"""Residual networks for small images, of adjustable width and depth.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2; the pre-activation
order is He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv:1603.05027.

Shapes: N examples, C channels, H x W positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from lessen.core.errors import SettingError


def residual(
    *,
    width: int = 16,
    depth: int = 20,
    classes: int = 10,
    channels: int = 1,
    pre_activation: bool = False,
    stem_stride: int = 1,
) -> ResidualNetwork:
    """A residual network of `depth` = 6 n + 2 layers: a stem, three stages of n blocks, a head.

    Raises:
        SettingError: no integer number of blocks gives this depth.

    >>> import torch
    >>> residual(width=4, depth=8)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    blocks, odd = divmod(depth - 2, 6)
    if odd or blocks < 1:
        raise SettingError(f"residual: depth is {depth}, but three stages of n blocks have 6 n + 2 layers: 8, 14, 20 …")
    return ResidualNetwork(
        width=width,
        blocks=(blocks,) * 3,
        classes=classes,
        channels=channels,
        pre_activation=pre_activation,
        stem_stride=stem_stride,
    )


class ResidualNetwork(nn.Module):
    """Three stages `layer1` to `layer3`, each twice as wide as the one before and half as large.

    Args:
        width: Channels of the stem and of the first stage.
        blocks: Blocks in each stage.
        classes: Outputs.
        channels: Channels of the images.
        pre_activation: Normalise and activate before each convolution, not after it.
        stem_stride: 2 halves the image at once: wider networks at the same cost.
    """

    def __init__(
        self,
        *,
        width: int,
        blocks: tuple[int, int, int],
        classes: int,
        channels: int,
        pre_activation: bool = False,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.stem = nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)
        self.norm = nn.Identity() if pre_activation else nn.BatchNorm2d(width)
        self.activation = nn.Identity() if pre_activation else nn.ReLU()
        block = PreActivationBlock if pre_activation else Block
        self.layer1 = _stage(block, width, widths[0], blocks[0], stride=1)
        self.layer2 = _stage(block, widths[0], widths[1], blocks[1], stride=2)
        self.layer3 = _stage(block, widths[1], widths[2], blocks[2], stride=2)
        self.last_norm = nn.BatchNorm2d(widths[2]) if pre_activation else nn.Identity()
        self.last_activation = nn.ReLU() if pre_activation else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.activation(self.norm(self.stem(images_NCHW)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(self.flatten(self.pool(self.last_activation(self.last_norm(x)))))
        return logits


class Block(nn.Module):
    """Two convolutions, each followed by its normalisation, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.activation1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            project = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(outputs))
        self.activation2 = nn.ReLU()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        inner = self.activation1(self.norm1(self.conv1(x_NCHW)))
        result: Tensor = self.activation2(self.norm2(self.conv2(inner)) + self.shortcut(x_NCHW))
        return result


class PreActivationBlock(nn.Module):
    """Two convolutions, each preceded by its normalisation, and a shortcut that nothing interrupts."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.activation1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.activation2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        active = self.activation1(self.norm1(x_NCHW))
        inner = self.activation2(self.norm2(self.conv1(active)))
        # The first block of a wider stage projects what is already active, as in the authors' code.
        skip = x_NCHW if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        result: Tensor = self.conv2(inner) + skip
        return result


def _stage(
    block: type[Block] | type[PreActivationBlock], inputs: int, outputs: int, count: int, *, stride: int
) -> nn.Sequential:
    first = block(inputs, outputs, stride=stride)
    return nn.Sequential(first, *(block(outputs, outputs, stride=1) for _ in range(count - 1)))
