"""A stage with many words, in two processes and in one: the same weights, up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lessen.core.files import read_tensors

PROGRAM = """
import sys
from pathlib import Path
import torch
from torch import nn
from lessen.core import ArrayExamples
from lessen.core.files import write_tensors
from lessen.engine import run
from lessen.graph import *
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters

def network(hidden, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, 4))

def ends(turns):
    soft = SoftTargets(temperature=2.0)
    torch.manual_seed(9)
    other = ArrayExamples(torch.randn(40, 8))
    image = From("generator", to_node=True)
    nodes = [
        Labels(),
        Network("student", network(8, 1), learns=True, optimizer=DistillationOriented()),
        Network("teacher", network(12, 2), learns=False),
        Network("second", network(12, 3), learns=False),
        Network("auxiliary", nn.Linear(8, 4), learns=True, reads=From("student", "1", to_node=True)),
        Network("generator", nn.Linear(8, 8), learns=True),
        Variant("made", of="student", reads=image),
        Network("judge", network(12, 2), learns=False, reads=image),
        OtherData("unlabelled", other),
        Variant("also", of="student", reads=From("unlabelled")),
        Network("pupil", network(12, 4), learns=False, reads=From("unlabelled")),
        Gradient("ours", of="student", tap=Tap(side="input"), loss=LargestOutput()),
        Gradient("theirs", of="teacher", tap=Tap(side="input"), loss=LargestOutput()),
        Ensemble("crowd", of=("teacher", "second"), combine=FeatureGate("1")),
    ]
    edges = [
        Edge("labels", "student", CrossEntropy()),
        Edge("teacher", "student", soft, gate="best"),
        Edge("second", "student", soft, gate="best"),
        Edge("labels", "auxiliary", CrossEntropy()),
        Edge("judge", "made", soft, moves={"generator": -1, "student": 1}),
        Edge("pupil", "also", soft),
        Edge("theirs", "ours", Hint()),
        Edge("labels", "crowd", CrossEntropy()),
        Edge("crowd", "student", soft),
        Edge(target="student", objective=ConfidencePenalty(), weight=0.1),
    ]
    graph = Graph(nodes, edges, gates={"best": SoftmaxOfLosses()})
    fit = Fit(batch=16, keep_best=False, schedule=Constant(), accumulate=2)
    run([Stage("words", graph, steps=9, fit=fit, turns=turns)], clusters(), device="cpu", progress=False)
    return {f"{n.name}.{k}": v for n in nodes if n.network is not None for k, v in n.network.state_dict().items()}

turns = {"turns": Turns((("generator", 1), (("student", "auxiliary"), 2))), "all": None}
state = {f"{name} {key}": value for name, how in turns.items() for key, value in ends(how).items()}
if int(__import__("os").environ.get("RANK", 0)) == 0:
    write_tensors(Path(sys.argv[1]), state)
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ends = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        end = tmp_path / f"{processes}.safetensors"
        command = [sys.executable, *(launcher if processes > 1 else []), str(program), str(end)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        ends.append(read_tensors(end))
    one, two = ends
    torch.manual_seed(1)
    learned = [one[f"{turns} student.0.weight"] for turns in ("turns", "all")]
    for weight in learned:
        assert float((weight - torch.nn.Linear(8, 8).weight.detach()).abs().max()) > 1e-3
        torch.manual_seed(1)
    assert not torch.equal(*learned)
    assert max(float((value - two[name]).abs().max()) for name, value in one.items()) < 1e-5
