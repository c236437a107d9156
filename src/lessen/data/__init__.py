"""Data sets: settings objects that load, views of a batch, and one function that takes whatever a person has."""

from lessen.data.arrays import Arrays, from_splits
from lessen.data.debian import DebianDescriptions
from lessen.data.digits import Digits
from lessen.data.emoji import Emoji
from lessen.data.fashion_mnist import FashionMNIST
from lessen.data.folder import ImageFolder
from lessen.data.huggingface import HuggingFace
from lessen.data.load import Source, load
from lessen.data.mnist1d import Mnist1d
from lessen.data.transforms import TorchTransform
from lessen.data.views import AsTheyAre, Compose, Erase, FlipCrop, Shift

__all__ = [
    "Arrays",
    "AsTheyAre",
    "Compose",
    "DebianDescriptions",
    "Digits",
    "Emoji",
    "Erase",
    "FashionMNIST",
    "FlipCrop",
    "HuggingFace",
    "ImageFolder",
    "Mnist1d",
    "Shift",
    "Source",
    "TorchTransform",
    "from_splits",
    "load",
]
