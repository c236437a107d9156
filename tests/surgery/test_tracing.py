"""Networks of PyTorch's own layers are traced, whatever those look at to be quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import transformer
from torch.utils._sympy import interp, value_ranges
from torch.utils._sympy.functions import FloorDiv, Max, Mod
from torch.utils._sympy.value_ranges import ValueRanges

from lessen.core import Context
from lessen.deploy import export_onnx
from lessen.deploy.deployment import file_axes
from lessen.operations import PruneChannels
from lessen.surgery import tracing

WORDS, WIDTH = 20, 16
WALK = value_ranges.sympy_interp


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


class Same(nn.Module):
    """Convolutions with "same" padding, worked out in the code from the size (N, 3, H, W) that comes in."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, stride=2 if number < 5 else 1) for number in range(layers))

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            stride = layer.stride[0]
            pads = [max((-(-size // stride) - 1) * stride + 3 - size, 0) for size in images.shape[-2:]]
            images = layer(nn.functional.pad(images, (0, pads[1], 0, pads[0])))
        return images.mean((2, 3))


def test_sizes_with_too_many_terms_are_fixed_and_that_is_said(tmp_path: Path) -> None:
    few, many, images = Same(2).eval(), Same(12).eval(), torch.rand(2, 3, 64, 64)
    assert file_axes(few, images).free == ["height", "width"]
    axes = file_axes(many, images)
    assert axes.free == []
    assert "in more than 1,000 terms" in str(axes.reason)
    path = export_onnx(many, images, tmp_path / "n.onnx")
    given = onnxruntime.InferenceSession(str(path)).run(None, {"images": images[:1].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), many(images[:1]), atol=1e-5, rtol=1e-5)
    assert not getattr(SymNode.__init__, "limits_terms", False)


def test_a_size_is_bounded_as_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part once, with the same bounds as if each were bounded as often as it occurs."""
    seen, handle = [], interp._run_sympy_handler

    def counting(analysis: Any, args: Any, size: Any, **settings: Any) -> Any:
        seen.append(size)
        return handle(analysis, args, size, **settings)

    monkeypatch.setattr(interp, "_run_sympy_handler", counting)
    a, b = sympy.symbols("a b", integer=True, positive=True)
    sizes = [FloorDiv(a + 1, 2), Mod(a * b, 7), Max(0, 3 - FloorDiv(a, 2)) + a, a * b - 2 * a]
    for _ in range(3):
        sizes += [FloorDiv(size + Max(0, 5 - size), 2) for size in sizes[-4:]]
    ranges = {a: ValueRanges(2, 40), b: ValueRanges(3, 9)}
    alone = [value_ranges.bound_sympy(size, ranges) for size in sizes]
    seen.clear()
    value_ranges.bound_sympy(sizes[-1], ranges)
    assert len(seen) > len(set(seen))
    with tracing.traceable():
        seen.clear()
        value_ranges.bound_sympy(sizes[-1], ranges)
        assert len(seen) == len(set(seen))
        assert [value_ranges.bound_sympy(size, ranges) for size in sizes] == alone
        other = {a: ValueRanges(5, 6), b: ValueRanges(3, 9)}
        assert value_ranges.bound_sympy(sizes[0], other) == ValueRanges(3, 3)
    assert value_ranges.sympy_interp is WALK
