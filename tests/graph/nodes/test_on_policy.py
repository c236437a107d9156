"""Sequences that a node writes: which, with what, and what the edges see of them."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import ArrayExamples, Batch, Data, decode, encode
from lessen.core.errors import DataError, GraphError
from lessen.engine import Course, run
from lessen.graph import Cache, Edge, Fit, Flow, Graph, Labels, Network, OnPolicy, Stage, Writing, validate
from lessen.graph import __all__ as names
from lessen.graph.draw import draw
from lessen.graph.nodes.on_policy import rewrite
from lessen.knowledge import CrossEntropy, OverTokens, ReverseKL, SoftTargets
from lessen.schemes import Offline
from lessen.zoo import language_model

WORDS, LENGTH = 7, 8
TOKENS = torch.randint(WORDS, (24, LENGTH), generator=torch.Generator().manual_seed(0))
LABELS = TOKENS.masked_fill(torch.arange(LENGTH) < torch.arange(1, 5).repeat(6)[:, None], -100)
BATCH = Batch(TOKENS[:12], torch.arange(12), LABELS[:12])


def model(seed: int, dim: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = language_model(vocabulary=WORDS, length=LENGTH, dim=dim, depth=1, heads=2)
        for parameter in made.parameters():  # far from even, so that what it writes is its own
            parameter.data.mul_(1 if parameter.ndim == 1 else 8)
    return made


def data() -> Data:
    parts = [ArrayExamples(TOKENS[part], LABELS[part]) for part in (slice(0, 16), slice(16, 20), slice(20, 24))]
    return Data(train=parts[0], validation=parts[1], test=parts[2], name="words")


def graph(student: nn.Module, teacher: nn.Module, on_policy: OnPolicy | None, **more: Any) -> Graph:
    nodes = [
        Labels(),
        Network(name="teacher", module=teacher, learns=False, **more),
        Network(name="student", module=student, learns=True),
    ]
    soft = OverTokens(objective=SoftTargets(temperature=1.0, divergence=ReverseKL()))
    edges = [
        Edge(source="teacher", target="student", objective=soft),
        Edge(source="labels", target="student", objective=OverTokens(objective=CrossEntropy())),
    ]
    return Graph(nodes=nodes if on_policy is None else [*nodes, on_policy], edges=edges)


def stage(*given: Any, epochs: int = 2, **fit: Any) -> Stage:
    return Stage(name="words", graph=graph(*given), epochs=epochs, fit=Fit(batch=8, keep_best=False, **fit))


def flow(*given: Any) -> Flow:
    made = Flow(stage(*given), BATCH)
    made.set_mode(training=True)
    return made


def test_it_is_written_and_read_back() -> None:
    from lessen import graph as package

    asked = OnPolicy(of="student", share=0.25, writing=Writing(temperature=0.5, end=3, prompt=2))
    assert decode(encode(asked), {name: getattr(package, name) for name in names}) == asked


def test_prompts_are_kept_and_labels_are_what_was_written() -> None:
    network = model(1)
    new = rewrite(network, BATCH, torch.arange(12), Writing(), seed=3)
    prompt = LABELS[:12] == -100
    assert isinstance(new.inputs, Tensor)
    assert new.labels is not None
    assert torch.equal(new.inputs[prompt], TOKENS[:12][prompt])
    assert bool((new.labels[prompt] == -100).all())
    assert torch.equal(new.labels[~prompt], new.inputs[~prompt])
    assert not torch.equal(new.inputs, BATCH.inputs)
    assert network.training  # as it was
    # Greedily, each word is the one that the network finds most probable there, in one pass over the whole.
    greedy = rewrite(network, BATCH, torch.arange(12), Writing(temperature=0.0), seed=3)
    assert isinstance(greedy.inputs, Tensor)
    best = network.eval()(greedy.inputs).argmax(2)
    assert torch.equal(greedy.inputs[:, 1:][~prompt[:, 1:]], best[:, :-1][~prompt[:, 1:]])
    assert not torch.equal(new.inputs[:, 1:][~prompt[:, 1:]], network(new.inputs).argmax(2)[:, :-1][~prompt[:, 1:]])


def test_a_sequence_does_not_depend_on_the_others_of_its_batch() -> None:
    network, rows = model(1), torch.tensor([7, 2])
    whole = rewrite(network, BATCH, torch.arange(12), Writing(), seed=3)
    few = rewrite(network, Batch(TOKENS[rows], rows, LABELS[rows]), torch.arange(2), Writing(), seed=3)
    assert torch.equal(few.inputs, whole.inputs[rows])
    other = rewrite(network, BATCH, torch.arange(12), Writing(), seed=4)
    assert not torch.equal(other.inputs, whole.inputs)


def test_masks_and_bare_prompts() -> None:
    network = model(1)
    expected = rewrite(network, BATCH, torch.arange(12), Writing(), seed=3)
    mask = rewrite(network, Batch(BATCH.inputs, BATCH.index, LABELS[:12] != -100), torch.arange(12), Writing(), seed=3)
    assert torch.equal(mask.labels, expected.labels)
    bare = rewrite(network, Batch(BATCH.inputs, BATCH.index), torch.arange(6), Writing(prompt=3), seed=3)
    assert torch.equal(bare.inputs[:6, :3], TOKENS[:6, :3])
    assert bool((bare.labels[:6, 3:] >= 0).all())
    assert bool((bare.labels[6:] == -100).all())
    assert torch.equal(bare.inputs[6:], TOKENS[6:12])


class LikeTransformers(nn.Module):
    """Called by name, gives an object, and does not see what is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model(1)
        self.masks: list[Tensor] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        self.masks.append(attention_mask)
        return SimpleNamespace(logits=self.inner(input_ids))


def test_inputs_by_name_get_a_mask_that_fits_what_was_written() -> None:
    network = LikeTransformers()
    end = 2
    inputs = {"input_ids": TOKENS[:12], "attention_mask": (LABELS[:12] == -100).long()}
    new = rewrite(network, Batch(inputs, BATCH.index, LABELS[:12]), torch.arange(12), Writing(end=end, pad=5), seed=3)
    plain = rewrite(network.inner, BATCH, torch.arange(12), Writing(end=end, pad=5), seed=3)
    assert isinstance(new.inputs, dict)
    assert torch.equal(new.inputs["input_ids"], plain.inputs)
    counts = (LABELS[:12] == -100) | (new.labels != -100)
    assert torch.equal(new.inputs["attention_mask"].bool(), counts)
    assert not bool(counts.all())
    assert bool((new.inputs["input_ids"][~counts] == 5).all())
    assert [mask.shape[1] for mask in network.masks] == list(range(1, LENGTH))
    assert torch.equal(inputs["attention_mask"], (LABELS[:12] == -100).long())


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (Batch(torch.zeros(3, 4), torch.arange(3), torch.zeros(3, dtype=torch.long)), "float32 of shape"),
        (Batch((TOKENS[:3],), torch.arange(3)), "tuple"),
        (Batch(TOKENS[:3], torch.arange(3), torch.arange(3)), r"a label for each of their \(3, 8\) tokens"),
        (Batch(TOKENS[:3], torch.arange(3)), "Set the `prompt`"),
    ],
    ids=["images", "tuple", "classes", "no labels"],
)
def test_what_cannot_be_gone_on_with_is_refused(batch: Batch, says: str) -> None:
    with pytest.raises(DataError, match=says):
        rewrite(model(1), batch, torch.arange(3), Writing(), seed=0)


def test_a_share_of_the_sequences_is_written_and_both_networks_see_them() -> None:
    student, teacher = model(1), model(2, dim=12)
    on_policy = OnPolicy(of="student", share=0.5)
    made = flow(student, teacher, on_policy)
    batch, written = on_policy.rewrite(student, BATCH, seed=11)
    assert 2 <= int(written.sum()) <= 10
    assert torch.equal(batch.inputs[~written], BATCH.inputs[~written])
    passed = made(BATCH, 0.0, view_seed=11)
    soft = OverTokens(objective=SoftTargets(temperature=1.0, divergence=ReverseKL()))
    with torch.no_grad():
        expected = soft(student(batch.inputs), (teacher(batch.inputs), batch.labels)).mean()
        given = soft(student(BATCH.inputs), (teacher(BATCH.inputs), BATCH.labels)).mean()
        hard = OverTokens(objective=CrossEntropy())(student(batch.inputs), (BATCH.labels, BATCH.labels))
    assert float(passed.losses[0]) == pytest.approx(float(expected), rel=1e-5)
    assert float(passed.losses[0]) != pytest.approx(float(given), rel=1e-3)
    # What the student wrote is no label; the others count as they did.
    assert float(passed.losses[1]) == pytest.approx(float((hard * ~written).mean()), rel=1e-5)
    assert float(made(BATCH, 0.0, training=False).losses[0]) == pytest.approx(float(given), rel=1e-5)
    made.close()


def test_what_a_teacher_writes_is_a_label() -> None:
    student, teacher = model(1), model(2, dim=12)
    on_policy = OnPolicy(of="teacher", share=1.0)
    passed = flow(student, teacher, on_policy)(BATCH, 0.0, view_seed=11)
    batch, written = on_policy.rewrite(teacher, BATCH, seed=11)
    assert bool(written.all())
    with torch.no_grad():
        expected = OverTokens(objective=CrossEntropy())(student(batch.inputs), (batch.labels, batch.labels)).mean()
    assert float(passed.losses[1]) == pytest.approx(float(expected), rel=1e-5)


def test_share_0_is_the_same_as_none() -> None:
    trained = []
    for on_policy in (None, OnPolicy(of="student", share=0.0), OnPolicy(of="student", share=1.0)):
        student = model(1)
        run([stage(student, model(2, dim=12), on_policy)], data(), progress=False, device="cpu")
        trained.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(trained[0], trained[1])
    assert not torch.allclose(trained[0], trained[2])


def test_validation_measures_the_sequences_as_they_were_given() -> None:
    student, teacher = model(1), model(2, dim=12)
    history = run([stage(student, teacher, OnPolicy(of="student"))], data(), progress=False, device="cpu")
    held = data().validation.fetch(torch.arange(4))
    with torch.no_grad():
        out, next_ones = student(held.inputs)[:, :-1], held.labels[:, 1:]
    counts = next_ones != -100
    nll = float(nn.functional.cross_entropy(out[counts], next_ones[counts]))
    right = float((out.argmax(-1) == next_ones)[counts].double().mean())
    figures = history.validations[-1]["figures"]["student"]
    assert figures == pytest.approx({"perplexity": math.exp(nll), "nll": nll, "accuracy": 100 * right}, rel=1e-5)


def test_parts_of_a_batch_do_not_change_what_is_written() -> None:
    trained = []
    for accumulate in (1, 2):
        student = model(1)
        made = stage(student, model(2, dim=12), OnPolicy(of="student", share=0.5), accumulate=accumulate)
        run([made], data(), progress=False, device="cpu")
        trained.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.allclose(*trained, atol=1e-5)


def test_resume_equals_no_interruption(tmp_path: Path) -> None:
    def train(folder: str, stops: list[int]) -> Tensor:
        for stop in [*stops, 99]:
            student = model(1)
            made = stage(student, model(2, dim=12), OnPolicy(of="student", share=0.7), epochs=4, checkpoint_steps=1)
            steps = Course([made], data(), folder=tmp_path / folder, device="cpu", resume=True).steps()
            for _, _ in zip(range(stop), steps, strict=False):
                pass
            steps.close()
        return torch.cat([p.detach().flatten() for p in student.parameters()])

    whole = train("whole", [])
    assert torch.equal(train("stopped", [1, 4]), whole)


def test_the_scheme_hands_it_on() -> None:
    cast = {"teacher": model(2), "student": model(1)}
    soft = OverTokens()
    scheme = Offline(knowledge=(soft,), labels=0.0, on_policy=OnPolicy(of="student"))
    (made,) = scheme.stages(cast)
    assert made.graph.nodes[-1] == OnPolicy(of="student")
    validate(made, BATCH)
    assert draw([made])[0]["nodes"][-1]["share"] == 0.5


def test_what_cannot_be_written_is_found_before_the_first_step() -> None:
    classes = Batch(TOKENS[:3], torch.arange(3), torch.arange(3))
    with pytest.raises(DataError, match="a label for each"):
        validate(stage(model(1), model(2), OnPolicy(of="student")), classes)


def test_words_that_make_no_sense() -> None:
    with pytest.raises(GraphError, match=r"no node 'studnt'.*on_policy"):
        validate(stage(model(1), model(2), OnPolicy(of="studnt")), BATCH)
    with pytest.raises(GraphError, match=r"labels.*it needs a network"):
        validate(stage(model(1), model(2), OnPolicy(of="labels")), BATCH)
    made = Stage(name="s", graph=graph(model(1), model(2), OnPolicy(of="student"), cache=Cache()), epochs=1)
    with pytest.raises(GraphError, match="cached, but with on_policy"):
        validate(made, BATCH)


@pytest.mark.parametrize("end", ["source", "target"])
def test_what_makes_the_batch_has_no_value(end: str) -> None:
    made = graph(model(1), model(2), OnPolicy(of="student"))
    edges = [*made.edges, dataclasses.replace(made.edges[0], **{end: "on_policy"})]
    with pytest.raises(GraphError, match="'on_policy', which makes a part of the batch and has no value"):
        validate(Stage(name="s", graph=Graph(nodes=made.nodes, edges=edges), epochs=1), BATCH)
