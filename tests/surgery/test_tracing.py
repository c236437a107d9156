"""Networks of PyTorch's own layers are traced, whatever those look at to be quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import transformer

from lessen.core import Context
from lessen.deploy import export_onnx
from lessen.operations import PruneChannels
from lessen.surgery import tracing

WORDS, WIDTH = 20, 16


def below(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf).triu(1)


class Writer(nn.Module):
    """Tokens (N, L) to logits (N, L, 20), by layers of PyTorch that get a mask in some way."""

    def __init__(self, mask: Callable[[Writer, int], Tensor | None], *, hint: bool | None = None) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.mask, self.hint = mask, hint
        self.register_buffer("kept", below(64))

    def forward(self, tokens: Tensor) -> Tensor:
        mask = self.mask(self, tokens.shape[1])
        logits: Tensor = self.head(self.layers(self.embed(tokens), mask=mask, is_causal=self.hint))
        return logits


class Pair(nn.Module):
    """The same with a decoder that reads its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.layers = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True), 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        logits: Tensor = self.head(self.layers(x, x, tgt_mask=below(tokens.shape[1])))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "made in forward": lambda: Writer(lambda _, length: below(length)),
    "of PyTorch": lambda: Writer(lambda _, length: nn.Transformer.generate_square_subsequent_mask(length)),
    "a buffer": lambda: Writer(lambda own, length: own.kept[:length, :length]),
    "boolean": lambda: Writer(lambda _, length: below(length).isinf()),
    "said to be causal": lambda: Writer(lambda _, length: below(length), hint=True),
    "none": lambda: Writer(lambda _, __: None),
    "a decoder": Pair,
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_causal_mask_does_not_stop_it(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, tokens = NETWORKS[kind]().eval(), torch.randint(WORDS, (2, 8))
    small = PruneChannels(keep=0.5).plan(network, Context(inputs=tokens)).apply(network).eval()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    session = onnxruntime.InferenceSession(export_onnx(small, tokens, tmp_path / "m.onnx"))
    for length in (8, 5, 13):
        other = torch.randint(WORDS, (3, length))
        (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), small(other), atol=1e-5), length


def test_what_pytorch_looks_at_is_as_before_afterwards() -> None:
    before = transformer._detect_is_causal_mask
    facts = {**vars(ShapeEnv)}
    with tracing.traceable(), tracing.traceable():
        assert transformer._detect_is_causal_mask is not before
        assert vars(ShapeEnv).keys() > facts.keys()
    assert {**vars(ShapeEnv)} == facts
    assert transformer._detect_is_causal_mask is before
    assert before(below(4))


def test_what_is_known_of_sizes_can_be_asked_of_a_program_later() -> None:
    with tracing.traceable():
        program = torch.export.export(
            nn.Linear(4, 2), (torch.rand(3, 4),), dynamic_shapes={"input": {0: torch.export.Dim.DYNAMIC}}
        )
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    size = node.meta["val"].shape[0]
    assert size.node.shape_env._resimplify_floor_div_axioms in {True, False}
    assert bool(size > 1)
