"""What a teacher writes: once, by itself, and for nobody else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lessen.core import ArrayExamples, Batch, Data
from lessen.core.errors import DataError, RunError
from lessen.engine import run, written_by
from lessen.graph import Edge, Fit, Graph, Labels, Network, OnPolicy, Stage, Writing
from lessen.graph.nodes.on_policy import rewrite
from lessen.knowledge import CrossEntropy, JensenShannon, OverTokens, SoftTargets
from lessen.optim.optimizer import Adam
from lessen.zoo import language_model

MATRIX = torch.tensor([[0.05, 0.05, 0.1, 0.8], [0.7, 0.1, 0.1, 0.1], [0.0, 0.6, 0.4, 0.0], [0.25, 0.25, 0.25, 0.25]])


class Bigram(nn.Module):
    """A language of which everything is known: each word depends on the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", MATRIX.clone())
        self.calls = 0

    def forward(self, tokens_NL: Tensor) -> Tensor:
        self.calls += 1
        return self.matrix.clamp_min(1e-9).log()[tokens_NL]


def prompts(count: int, length: int) -> ArrayExamples:
    first = torch.randint(4, (count, 1), generator=torch.Generator().manual_seed(0))
    return ArrayExamples(torch.cat([first, torch.zeros(count, length - 1, dtype=torch.long)], 1))


def frequencies(tokens: Tensor) -> Tensor:
    pairs = torch.zeros(4, 4)
    pairs.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.ones(()), accumulate=True)
    return pairs / pairs.sum(1, keepdim=True)


def test_it_is_written_once_and_is_the_teachers_language(tmp_path: Path) -> None:
    teacher, examples = Bigram(), prompts(600, 12)
    one = written_by(teacher, examples, tmp_path, writing=Writing(prompt=1), seed=5)
    calls = teacher.calls
    again = written_by(teacher, examples, tmp_path, writing=Writing(prompt=1), seed=5, batch=7)
    assert teacher.calls == calls > 0
    assert isinstance(one.inputs, Tensor)
    assert torch.equal(one.inputs, again.inputs)
    assert one.labels is not None
    assert torch.equal(one.labels, again.labels)
    assert float((frequencies(one.inputs) - MATRIX).abs().max()) < 0.04
    assert float((frequencies(one.inputs.flip(1)) - MATRIX).abs().max()) > 0.1  # read backwards it is not
    assert torch.equal(one.labels[:, 1:], one.inputs[:, 1:])
    assert bool((one.labels[:, 0] == -100).all())
    # The size of a batch changes nothing; another seed does.
    elsewhere = written_by(teacher, examples, tmp_path / "b", writing=Writing(prompt=1), seed=5, batch=7)
    other = written_by(teacher, examples, tmp_path / "c", writing=Writing(prompt=1), seed=6)
    assert torch.equal(elsewhere.inputs, one.inputs)
    assert not torch.equal(other.inputs, one.inputs)


def test_a_folder_belongs_to_one_teacher_and_one_set_of_examples(tmp_path: Path) -> None:
    teacher, examples = Bigram(), prompts(8, 6)
    written_by(teacher, examples, tmp_path, writing=Writing(prompt=1))
    for changed, says in (
        ({"examples": prompts(9, 6)}, "'examples'"),
        ({"writing": Writing(prompt=2)}, "'writing'"),
        ({"seed": 1}, "'seed'"),
    ):
        given = {"examples": examples, "writing": Writing(prompt=1), "seed": 0, **changed}
        with pytest.raises(RunError, match=f"another setting of {says}"):
            written_by(teacher, given["examples"], tmp_path, writing=given["writing"], seed=given["seed"])
    teacher.matrix += 0.1
    with pytest.raises(RunError, match="another setting of 'teacher'"):
        written_by(teacher, examples, tmp_path, writing=Writing(prompt=1))
    (tmp_path / "sequences.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match="does not contain sequences"):
        written_by(teacher, examples, tmp_path, writing=Writing(prompt=1))
    with pytest.raises(DataError, match="Set the `prompt`"):
        written_by(teacher, examples, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_inputs_by_name_come_back_by_name(tmp_path: Path) -> None:
    class Named(Bigram):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(input_ids)

    tokens = prompts(5, 6).inputs
    examples = ArrayExamples({"input_ids": tokens, "attention_mask": torch.ones(5, 6, dtype=torch.long)})
    one = written_by(Named(), examples, tmp_path, writing=Writing(prompt=2, end=3))
    again = written_by(Named(), examples, tmp_path, writing=Writing(prompt=2, end=3))
    assert isinstance(one.inputs, dict)
    assert isinstance(again.inputs, dict)
    assert set(one.inputs) == {"input_ids", "attention_mask"}
    assert all(torch.equal(one.inputs[name], again.inputs[name]) for name in one.inputs)


def student() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return language_model(vocabulary=4, length=8, dim=16, depth=1, heads=2)


def learned(edge: Edge, examples: ArrayExamples, on_policy: OnPolicy | None = None) -> nn.Module:
    network = student()
    nodes = [Labels(), Network(name="teacher", module=Bigram(), learns=False)]
    nodes += [Network(name="student", module=network, learns=True)]
    graph = Graph(nodes=nodes if on_policy is None else [*nodes, on_policy], edges=[edge])
    fit = Fit(batch=64, optimizer=Adam(rate=0.01), keep_best=False)
    data = Data(train=examples, validation=examples, test=examples, name="words")
    run([Stage(name="words", graph=graph, steps=100, fit=fit)], data, progress=False, device="cpu")
    return network


@torch.no_grad()
def distance(network: nn.Module) -> float:
    """The mean KL(student || teacher) of a token, exactly, in what the student itself writes."""
    tokens = torch.arange(4)[:, None].repeat(200, 8)
    batch = Batch(tokens, torch.arange(len(tokens)))
    new = rewrite(network, batch, torch.arange(len(tokens)), Writing(prompt=1), seed=9)
    said, known = network(new.inputs).log_softmax(2), Bigram()(new.inputs)
    return float((said.exp() * (said - known)).sum(2)[:, :-1].mean())


def test_a_student_learns_the_language_from_what_was_written_and_from_what_it_writes(tmp_path: Path) -> None:
    hard = Edge(source="labels", target="student", objective=OverTokens(objective=CrossEntropy()))
    soft = SoftTargets(temperature=1.0, divergence=JensenShannon())
    own = Edge(source="teacher", target="student", objective=OverTokens(objective=soft))
    bare = prompts(256, 8)
    before = distance(student())
    written = written_by(Bigram(), bare, tmp_path, writing=Writing(prompt=1))
    from_labels = distance(learned(hard, written))
    from_itself = distance(learned(own, bare, OnPolicy(of="student", share=1.0, writing=Writing(prompt=1))))
    assert before > 1
    assert from_labels < before / 10
    assert from_itself < from_labels / 3  # it gets all probabilities, where the labels are draws from them
