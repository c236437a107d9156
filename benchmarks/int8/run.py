"""Is the int8 file faster than the fp32 file of the same network, and is it really computed in whole numbers?

    python benchmarks/int8/run.py [--networks demo_student ...] [--threads 2] [--rounds 40] [--write]

For each network: fp32 and int8 files in every installed runtime, verified against PyTorch, the share of multiply-adds
in integer kernels read from the optimised graph, and all files of one runtime timed interleaved. The ratio is that of
the fp32 file's time to the int8 file's, paired within rounds, with its 95 % interval.

The demo student is trained on the digits, pruned and trained again. The others see ten kinds of synthetic images:
`residual_28` is trained on them, the large ones have random weights (time does not depend on them) and a last layer
fitted in closed form, so that there is something to agree on. Settings were not tuned; calibration and verification use
different images. The accuracies say nothing about real data. The features of a random `mobilenet_v2` differ less
between images than by rounding: of that one only the times and the integer share are to be read.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, Context, Data
from lessen.core.data import batches
from lessen.core.machine import cores, machine, versions
from lessen.data import Digits
from lessen.deploy import Deploy, Deployed, deploy
from lessen.operations import PruneChannels, Quantize
from lessen.surgery.taps import Tap, capture
from lessen.zoo import residual

RESULTS = Path(__file__).parent / "results"


def fit(model: nn.Module, data: Data, epochs: int) -> None:
    """Plain training on labels."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for batch in batches(data.train, size=64):
            assert batch.labels is not None
            optimizer.zero_grad()
            F.cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
    model.eval()


def demo_student() -> tuple[nn.Module, Data]:
    """The student of `lessen demo`: eight layers, half of 32 channels, on 8 x 8 digits."""
    data, teacher = Digits().load(), residual(width=32, depth=8)
    fit(teacher, data, 8)
    context = Context(inputs=data.example(), calibration=data.calibration(128))
    student = PruneChannels(keep=0.5).plan(teacher, context).apply(teacher)
    fit(student, data, 8)
    return student, data


def residual_28() -> tuple[nn.Module, Data]:
    """A residual network of the size that Fashion-MNIST needs: 28 x 28 images, 16 to 64 channels."""
    parts = [ArrayExamples(*images(count, 28, 1, seed)) for seed, count in enumerate((1024, 256, 256))]
    data = Data(train=parts[0], validation=parts[1], test=parts[2], classes=tuple("0123456789"), name="synthetic")
    model = residual(width=16, depth=8)
    fit(model, data, 3)
    return model, data


def images(count: int, size: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ten kinds of smooth images with noise; the kinds are the same for every seed."""
    kinds = torch.randn(10, channels, 7, 7, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=drawn)
    smooth = F.interpolate(kinds[labels], size=(size, size), mode="bilinear")
    return smooth + 0.5 * torch.randn(smooth.shape, generator=drawn), labels


def synthetic(model: nn.Module, size: int, channels: int, head: str) -> tuple[nn.Module, Data]:
    """The network with batch statistics of synthetic images and its last layer fitted to them by ridge regression."""
    parts = [ArrayExamples(*images(count, size, channels, seed)) for seed, count in enumerate((96, 64, 64))]
    data = Data(train=parts[0], validation=parts[1], test=parts[2], classes=tuple("0123456789"), name="synthetic")
    tap, seen, labels = Tap(path=head, side="input"), [], []
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # the mean over all batches
        for batch in batches(data.train, size=32):
            model.train()(batch.inputs)
        model.eval()
        for batch in batches(data.train, size=32):
            with capture(model, [tap]) as found:
                model(batch.inputs)
            seen.append(found[tap])
            labels.append(batch.labels)
        features, targets = torch.cat(seen).double(), F.one_hot(torch.cat(labels), 10).double()
        mean = features.mean(0)
        gram = (features - mean) @ (features - mean).T
        # Against the size of the features, not their spread: what tells images apart must not be their rounding.
        ridge = features.square().sum(1).mean() * torch.eye(len(gram), dtype=torch.float64)
        weight = (features - mean).T @ torch.linalg.solve(gram + 1e-4 * ridge, targets - targets.mean(0))
        layer = model.get_submodule(head)
        layer.weight.copy_(weight.T)
        layer.bias.copy_(targets.mean(0) - mean @ weight)
    return model, data


def of_torchvision(name: str, head: str) -> tuple[nn.Module, Data]:
    import torchvision

    return synthetic(getattr(torchvision.models, name)(num_classes=10), 224, 3, head)


def of_timm(name: str) -> tuple[nn.Module, Data]:
    import timm

    return synthetic(timm.create_model(name, num_classes=10), 224, 3, "head")


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Data]]] = {
    "demo_student": demo_student,
    "residual_28": residual_28,
    "resnet18": lambda: of_torchvision("resnet18", "fc"),
    "mobilenet_v2": lambda: of_torchvision("mobilenet_v2", "classifier.1"),
    "vit_tiny": lambda: of_timm("vit_tiny_patch16_224"),
}


def measure(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """Everything about one network."""
    torch.manual_seed(0)
    model, data = NETWORKS[name]()
    operation = Quantize(target="this")
    context = Context(inputs=data.example(), calibration=data.calibration(64))
    plan = operation.plan(model, context)
    small = plan.apply(copy.deepcopy(model))
    with tempfile.TemporaryDirectory() as folder:
        made = deploy(model, data, folder, int8=small, settings=Deploy(threads=threads, rounds=rounds))
    return {
        "network": name,
        "threads": threads,
        "rounds": rounds,
        "weight_bits": sorted(set(plan.weights.values())),
        "layers": len(plan.weights),
        "files": rows(made),
        "recommended": made.recommended,
        "notes": made.notes,
        "machine": machine(),
        "versions": versions(),
    }


def rows(made: Deployed) -> list[dict[str, Any]]:
    """One row a file."""
    found = []
    for file in made.files:
        time, ratio = file.speed[1].latency, file.speed[1].speedup
        if time is None:
            raise SystemExit(f"The machine is busy: {file.speed[1].conditions.busy}. Run this when nothing else runs.")
        found.append(
            {
                "file": file.name,
                "bytes": file.bytes,
                "milliseconds": [time.value, time.low, time.high],
                "times_faster_than": file.against,
                "ratio": None if ratio is None else [ratio.value, ratio.low, ratio.high],
                "integer_share": file.kernels.integer_share,
                "kernels": dict(file.kernels.counts),
                "verified": file.verified.passed,
                "reason": file.verified.reason,
                "accuracy_file": file.verified.file_metric,
                "accuracy_pytorch": file.verified.network_metric,
            }
        )
    return found


def show(result: dict[str, Any]) -> None:
    """The table."""
    bits = "/".join(map(str, result["weight_bits"]))
    named = result.get("recommended", result.get("fastest"))
    print(f"\n{result['network']}, {result['threads']} threads, batch 1, {bits}-bit weights; recommended: {named}")
    print(f"{'file':<18}{'bytes':>12}{'ms':>9}  {'interval':<18}{'ratio':>6}  {'interval':<14}{'integer':>8}  verified")
    for row in result["files"]:
        value, low, high = row["milliseconds"]
        ratio = row["ratio"]
        times = f"{ratio[0]:>6.2f}  {f'{ratio[1]:.2f} .. {ratio[2]:.2f}':<14}" if ratio else " " * 22
        span = f"{low:.3f} .. {high:.3f}"
        passed = "yes" if row["verified"] else "NO"
        print(
            f"{row['file']:<18}{row['bytes']:>12}{value:>9.3f}  {span:<18}{times}{row['integer_share']:>7.1f}%  "
            f"{passed}: {row['reason']}"
        )
    for note in result["notes"]:
        print(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", choices=list(NETWORKS), default=["demo_student", "residual_28", "resnet18"]
    )
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--write", action="store_true", help="Write results/NETWORK-tTHREADS.json.")
    given = parser.parse_args()
    for name in given.networks:
        result = measure(name, given.threads, given.rounds)
        show(result)
        if given.write:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}-t{given.threads}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
