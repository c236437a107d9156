"""LeNet-5 with ReLU and max pooling: the network that pruning papers of 2015 to 2020 compare on.

LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 1998; in the variant of Caffe that
Han et al. (arXiv:1506.02626) prune: 20 and 50 maps, 500 hidden features.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet5(*, image: int = 28, classes: int = 10, channels: int = 1) -> nn.Sequential:
    """Two convolutions with pooling and two linear layers; 431,080 parameters at the defaults.

    Args:
        image: Height and width of the images, in pixels; at least 16.
        classes: Outputs.
        channels: Channels of the images.

    >>> sum(p.numel() for p in lenet5().parameters())
    431080
    """
    side = ((image - 4) // 2 - 4) // 2
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 20, 5),
        activation1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5),
        activation2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        linear=nn.Linear(50 * side * side, 500),
        activation3=nn.ReLU(),
        head=nn.Linear(500, classes),
    )
    return nn.Sequential(modules)
