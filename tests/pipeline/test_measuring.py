"""How often a run looks at its held-out data: once for each network and for each file, and not more."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lessen.deploy import Deploy, OnnxRuntime, TorchProgram
from lessen.operations import LowRank, PruneWeights, QuantizeWeights
from lessen.pipeline import Measuring, compress

TEST, VALIDATION = 17, 13


def test_each_network_and_each_file_sees_each_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["lessen.measure.evaluate"]  # the package has a function of this name
    seen: Counter[tuple[str, int]] = Counter()
    run_once, batches = module.run_once, module.batches
    split = 0

    def which(examples: Any, **settings: Any) -> Any:
        nonlocal split
        split = len(examples)
        return batches(examples, **settings)

    def counted(network: Any, inputs: torch.Tensor) -> Any:
        seen["network" if isinstance(network, nn.Module) else "file", split] += len(inputs)
        return run_once(network, inputs)

    monkeypatch.setattr(module, "batches", which)
    monkeypatch.setattr(module, "run_once", counted)
    torch.manual_seed(0)
    x, y = torch.randn(60, 8), torch.arange(60) % 3
    data = {"train": (x[:30], y[:30]), "validation": (x[30:43], y[30:43]), "test": (x[43:], y[43:])}
    compress(
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(),
        data,
        steps=[PruneWeights(keep=0.5), QuantizeWeights(bits=8), LowRank(ratio=0.5)],
        run=tmp_path / "run",
        deploy=Deploy(runtimes=(OnnxRuntime(), TorchProgram()), threads=1, rounds=6),
        measuring=Measuring(repeats=6),
        progress=False,
    )
    networks, files = 4, 6  # of the last network and of the teacher there are two files, of those between them one
    assert {key: count / key[1] for key, count in seen.items()} == {
        ("network", TEST): networks,  # 7, while the teacher ran again at each step
        ("network", VALIDATION): networks,  # 6, while a network ran again for each of its files
        ("file", TEST): files,
        ("file", VALIDATION): files,
    }
