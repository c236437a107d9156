"""Slips in Python: accepted where they can mean one thing only, otherwise answered with the right spelling."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import lessen
from lessen import engine
from lessen.core.errors import LessenError, SettingError
from lessen.core.settings import encode, settings
from lessen.graph import SGD, Adam, AdamW, Edge, Fit, Graph, Network, Stage
from lessen.knowledge import Hint, SoftTargets
from lessen.operations import PruneChannels, Quantize
from lessen.pipeline.job import Job
from lessen.pipeline.steps import check_steps
from lessen.schemes import Offline, offline
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters, perceptron

Make = Callable[[], Any]

ACCEPTED: dict[str, tuple[Make, Any]] = {
    "a tap by position": (lambda: Tap("x"), Tap(path="x")),
    "a tap and its side": (lambda: Tap("x", "input"), Tap(path="x", side="input")),
    "a temperature": (lambda: SoftTargets(2.0), SoftTargets(temperature=2.0)),
    "what stays": (lambda: PruneChannels(0.3), PruneChannels(keep=0.3)),
    "torch's names": (
        lambda: Adam(lr=0.1, betas=[0.8, 0.9], eps=1e-7, weight_decay=0.01),
        Adam(rate=0.1, betas=(0.8, 0.9), epsilon=1e-7, decay=0.01),
    ),
    "torch's names of SGD": (lambda: SGD(lr=0.1, momentum=0.5), SGD(rate=0.1, momentum=0.5)),
    "an optimizer by name": (lambda: Fit(optimizer="adamw"), Fit(optimizer=AdamW())),
    "a class": (lambda: Fit(optimizer=Adam), Fit(optimizer=Adam())),
    "a class among objects": (lambda: offline(SoftTargets, Hint()), offline(SoftTargets(), Hint())),
    "names among objects": (lambda: offline("soft_targets", Hint()), offline(SoftTargets(), Hint())),
    "one where several are expected": (lambda: Offline(knowledge=Hint()), Offline(knowledge=(Hint(),))),
    "a number as text": (lambda: offline(epochs="3"), offline(epochs=3)),
    "a single step": (lambda: check_steps(PruneChannels()), (PruneChannels(),)),
    "a step that is a class": (lambda: check_steps([PruneChannels]), (PruneChannels(),)),
    "a step by name": (lambda: check_steps("prune_channels"), (PruneChannels(),)),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_it_can_mean_one_thing_only(case: str) -> None:
    make, meant = ACCEPTED[case]
    assert make() == meant
    assert encode(make()) == encode(meant)  # files know the right spelling only


def run(*args: Any, **changes: Any) -> Any:
    """`compress`, which must fail before it makes a folder."""
    given = {"steps": [PruneChannels(keep=0.5)], "run": "runs/never", "progress": False}
    named = {key: value for key, value in (given | changes).items() if value is not None}
    return lessen.compress(*(args or (perceptron(8, seed=0), clusters())), **named)


class Net(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


REFUSED: dict[str, tuple[Make, str]] = {
    "a percentage": (lambda: PruneChannels(keep=50), "PruneChannels: keep: got 50, .* share.* write 0.5"),
    "a text for a number": (lambda: offline(epochs="three"), "epochs: got 'three', but a whole number was expected"),
    "half an epoch": (lambda: offline(epochs=2.5), "epochs: got 2.5, but a whole number was expected"),
    "a tap on no side": (lambda: Tap("x", "outputs"), "side: got 'outputs', but 'output', 'input' or 'state' was"),
    "twice": (lambda: Adam(0.1, lr=0.2), "Adam: rate was given twice, once as lr"),
    "by position and by name": (lambda: PruneChannels(0.5, keep=0.5), "PruneChannels: keep was given twice"),
    "too many": (lambda: Adam(1, 2, 3, 4, 5, 6), r"Adam has 5 settings \(rate, betas, .*\), but 6 values were given"),
    "a rate in the wrong place": (lambda: Fit(lr=0.1), r"Fit has no setting 'lr': .* Fit\(optimizer=SGD\(rate=...\)\)"),
    "an optimizer with a slip": (lambda: Fit(optimizer="adamm"), r"got 'adamm'.* mean Adam\(\)\?"),
    "an objective with a slip": (lambda: offline("softargets"), r"got 'softargets', .*SoftTargets\(\)\?"),
    "no objective": (lambda: offline(3), r"knowledge\[0\]: got 3, but an At, an Objective or"),
    "bits": (lambda: Quantize(bits=5.5), "bits: got 5.5, but a whole number or 32 was expected"),
    "an unknown argument": (lambda: run(runn="x"), "compress has no argument 'runn': did you mean 'run'"),
    "no steps": (lambda: run(steps=None), "compress: steps is missing"),
    "no data": (lambda: lessen.compress(Net(), steps=[]), "compress: data is missing"),
    "the wrong order": (lambda: run(clusters(), perceptron(8, seed=0)), r"wrong order: write compress\(network, data"),
    "a network that is a class": (lambda: run(Net, clusters()), r"is the class Net; give .* Net\(\.\.\.\)"),
    "a network by name": (lambda: run("zoo:mlp", clusters()), r"text 'zoo:mlp'; .* lessen.zoo.build\('zoo:mlp'\)"),
    "weights": (lambda: run(Net().state_dict(), clusters()), "a dict of weights; .*load_state_dict"),
    "a step that is a number": (lambda: run(steps=[0.5]), "Step 1 is a float. It must be an operation"),
    "a step with a slip": (lambda: run(steps=["prune"]), "Step 1 is the text 'prune'"),
    "training that is an operation": (lambda: run(train=PruneChannels()), "Training 1 is a PruneChannels"),
    "targets": (lambda: run(targets=3), r"targets is a int; Targets\(...\) was expected"),
    "targets with a slip": (lambda: run(targets={"speed": 3}), "no setting 'speed': did you mean 'speedup'"),
    "a seed": (lambda: run(seed="one"), "seed is 'one'; a whole number was expected"),
    "a place for the run": (lambda: run(run=3), "run is a int; the path of a folder was expected"),
    "no such device": (lambda: run(device="gpux"), "There is no device 'gpux'. Give \"cpu\""),
    "resuming with a slip": (lambda: Job.of(techer=3), "has no argument 'techer': did you mean 'teacher'"),
    "resuming without anything": (lambda: Job.of(steps=[]), "needs teacher=, data="),
    "measuring": (lambda: lessen.measure(Net(), dat=3), "measure has no argument 'dat'"),
    "loading": (lambda: lessen.load("runs/x", netwrk=3), "load has no argument 'netwrk': did you mean 'network'"),
    "training": (lambda: engine.run([], clusters(), epochs=3), "run has no argument 'epochs': known are 'stages'"),
    "a node": (lambda: Network(nam="s"), "Network has no setting 'nam': did you mean 'name'"),
    "a node without a module": (lambda: Network("s"), "Network: module is missing. Network: learns is missing"),
    "an edge": (lambda: Edge("a", "b", wieght=2.0), "Edge has no setting 'wieght': did you mean 'weight'"),
    "a stage": (lambda: Stage(name="a", graf=None), "Stage has no setting 'graf': did you mean 'graph'"),
    "a graph": (lambda: Graph([], [], {}, 1), r"Graph has 3 settings \(nodes, edges, gates\), but 4 values were"),
    "gates of no names": (lambda: Graph([], [], 1), "Graph: gates: got 1, but set gates by name were expected"),
    "too many arguments": (lambda: engine.run([], clusters(), "runs/x"), "run takes 2 arguments by position"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_right_spelling_is_said(case: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = REFUSED[case]
    with pytest.raises(LessenError, match=said) as raised:
        make()
    assert "pydantic" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
@pytest.mark.parametrize("device", ["gpu", "GPU", "cuda", "cuda:3", 0])
def test_a_device_that_is_not_there(device: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="torch finds"):
        run(device=device)
    assert not list(tmp_path.iterdir())


def test_an_error_inside_a_function_stays_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise TypeError("of somebody's code")

    monkeypatch.setattr(perceptron(8, seed=0).__class__, "forward", broken)
    with pytest.raises(Exception, match="of somebody's code"):
        lessen.measure(perceptron(8, seed=0), clusters())


def test_a_class_that_needs_settings_says_which() -> None:
    @settings
    class Needy:
        rate: float

    @settings
    class Holder:
        inner: Needy

    with pytest.raises(SettingError, match="Needy is a class, and needs settings: Needy: rate is missing"):
        Holder(inner=Needy)
