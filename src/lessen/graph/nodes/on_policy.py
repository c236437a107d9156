"""A node that makes a part of the batch: sequences that a network of the graph has just generated.

The student generates: Agarwal et al., On-policy distillation of language models (GKD), ICLR 2024, arXiv:2306.13649,
algorithm 1. The teacher generates: Kim & Rush, Sequence-level knowledge distillation, EMNLP 2016, arXiv:1606.07947.

Shapes: N sequences, L positions. Labels are aligned with tokens; -100 where a token does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core.data import IGNORED, Batch, Inputs, call, map_inputs
from lessen.core.errors import DataError, GraphError
from lessen.core.seeds import derive, uniforms
from lessen.core.settings import encode, settings
from lessen.functional.writing import continue_sequences
from lessen.graph.nodes.node import Node, find, is_network
from lessen.graph.nodes.unit import Making, Now, Unit
from lessen.surgery.taps import tensor_of


@settings
class Writing:
    """How a causal language model continues a sequence; the result has the length of the sequence that it replaces.

    Args:
        temperature: Divides the logits; 0 takes the most probable token.
        end: The token that ends a sequence; None: all continue to the last position.
        pad: The token that fills positions after the end; these do not count.
        prompt: How many tokens of each sequence are given. None: all before the first whose label counts.
    """

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    end: int | None = None
    pad: int = 0
    prompt: Annotated[int, Field(ge=1)] | None = None


@settings
class OnPolicy(Node):
    """A network of the graph generates part of the sequences of a training batch from their prompts, before all else.

    All nodes and edges see the generated sequences; their labels are the generated tokens. Only the `Labels` node
    ignores the tokens that a learning network generated: they do not count there. The choice of sequences, and the
    random numbers, follow from the seed, the epoch and the index of the example.

    Args:
        of: The network node that generates, in eval mode and without gradient: the student, or a teacher.
        share: The probability that a sequence is generated.
        writing: How.
        name: Of this node, in drawings and errors.
    """

    of: str
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    writing: Writing = Writing()
    name: str = "on_policy"

    has_layers: ClassVar[bool] = False
    has_output: ClassVar[bool] = False
    writes: ClassVar[bool] = True

    def check(self, nodes: Mapping[str, Node]) -> None:
        find(self.of, nodes, f"the node {self.name!r}", is_network, "a network")
        if not nodes[self.of].takes_batch:
            raise GraphError(
                f"The node {self.of!r} does not take the batch as it is, so {self.name!r} cannot let it generate. "
                "Leave its reads out."
            )
        for node in nodes.values():
            if node.cache is not None:
                raise GraphError(
                    f"The node {node.name!r} is cached, but with {self.name} it sees newly generated sequences. Leave "
                    "the cache out."
                )

    def unit(self, making: Making) -> Unit:
        return OnPolicyUnit(self, making.nodes[self.of])

    def drawn(self, short: Any) -> dict[str, Any]:
        return {"of": [self.of], "share": self.share, "writing": encode(self.writing)}

    def rewrite(self, network: nn.Module, batch: Batch, *, seed: int) -> tuple[Batch, Tensor]:
        """The batch with some generated sequences, and which they are, shape (N,), bool.

        Args:
            network: The module of the node `of`.
            batch: Of the data.
            seed: Of this pass over the data.

        Raises:
            DataError: the batch holds no sequences of tokens, or it is not known where their prompts end.
        """
        drawn_N = uniforms(batch.index, 1, seed=derive(seed, "on policy"))[:, 0]
        chosen_N = (drawn_N < self.share).to(batch.index.device)
        return rewrite(network, batch, chosen_N.nonzero()[:, 0], self.writing, seed=seed), chosen_N


class OnPolicyUnit(Unit):
    """Writes some of the sequences of a batch."""

    kind = "writer"
    draws = False

    def __init__(self, node: OnPolicy, of: Node) -> None:
        assert of.network is not None
        self.name, self.node = node.name, node
        self.module, self._of_learner = of.network, of.can_learn()

    def write(self, now: Now) -> None:
        # Without labels nothing else than what is written says which tokens count.
        if not now.training and now.batch.labels is not None:
            return
        assert self.module is not None
        now.batch, written_N = self.node.rewrite(self.module, now.batch, seed=now.view_seed)
        if self._of_learner:
            now.written = written_N

    def compute(self, now: Now) -> None:
        """It has no value of its own."""


def rewrite(network: nn.Module, batch: Batch, rows: Tensor, writing: Writing, *, seed: int) -> Batch:
    """The batch with these rows continued by a network from their prompts; their labels are the generated tokens.

    Args:
        network: From tokens (N, L), or the mapping that the data gives, to logits (N, L, V), causal.
        batch: Tokens (N, L), or a mapping with `input_ids` and, maybe, `attention_mask`.
        rows: Which.
        writing: How.
        seed: With the indices of the examples, for sampling.

    Raises:
        DataError: the batch holds no sequences of tokens, or it is not known where their prompts end.
    """
    tokens_NL, labels_NL = _tokens(batch.inputs), batch.labels
    if labels_NL is not None and (labels_NL.shape != tokens_NL.shape or labels_NL.is_floating_point()):
        raise DataError(
            f"Sequences have a label for each of their {tuple(tokens_NL.shape)} tokens, but the labels are "
            f"{labels_NL.dtype} of shape {tuple(labels_NL.shape)}."
        )
    if labels_NL is None and writing.prompt is None:
        raise DataError("The data has no labels that tell where prompts end. Set the `prompt` of Writing.")
    labels_NL = _as_tokens(labels_NL, tokens_NL)
    if not len(rows):
        return Batch(batch.inputs, batch.index, labels_NL)
    given_RL, inputs_R = tokens_NL[rows], map_inputs(batch.inputs, lambda value: value[rows])
    start_R = _starts(labels_NL[rows], writing)
    draws_RL = uniforms(batch.index[rows], given_RL.shape[1], seed=derive(seed, "writing")).to(given_RL.device)
    behind_RL = torch.arange(given_RL.shape[1], device=given_RL.device) >= start_R[:, None]

    def next_logits(prefix_RL: Tensor) -> Tensor:
        output: Tensor = tensor_of(call(network, _with(inputs_R, prefix_RL, behind_RL)))
        return output[:, -1]

    with torch.no_grad(), _in_eval_mode(network):
        new_RL, written_RL = continue_sequences(
            next_logits,
            given_RL,
            start_R,
            draws_RL,
            temperature=writing.temperature,
            end=writing.end,
            pad=writing.pad,
        )
    labels_RL = torch.where(written_RL, new_RL, IGNORED).to(labels_NL.dtype)
    new_R = _with(inputs_R, new_RL, written_RL, ended=behind_RL & ~written_RL)
    return Batch(_put(batch.inputs, rows, new_R), batch.index, labels_NL.index_copy(0, rows, labels_RL))


def _tokens(inputs: Inputs) -> Tensor:
    tokens = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        shown = (
            f"{tokens.dtype} of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(inputs).__name__
        )
        raise DataError(
            "Only sequences of tokens can be generated: integers (N, L), or a mapping with `input_ids`. These "
            f"are {shown}."
        )
    return tokens


def _as_tokens(labels_NL: Tensor | None, tokens_NL: Tensor) -> Tensor:
    """Labels that are tokens, where there is a mask of those that count, or nothing."""
    if labels_NL is None:
        return torch.full_like(tokens_NL, IGNORED)
    return torch.where(labels_NL, tokens_NL, IGNORED) if labels_NL.dtype == torch.bool else labels_NL


def _starts(labels_RL: Tensor, writing: Writing) -> Tensor:
    """Where each sequence is gone on with; L where no label counts. The first token is always given."""
    length = labels_RL.shape[1]
    if writing.prompt is not None:
        return torch.full((len(labels_RL),), min(writing.prompt, length), device=labels_RL.device)
    counts_RL = labels_RL != IGNORED
    first_R = counts_RL.long().argmax(1).clamp_min(1)
    return torch.where(counts_RL.any(1), first_R, length)


def _with(inputs: Inputs, tokens_RL: Tensor, seen_RL: Tensor, ended: Tensor | None = None) -> Inputs:
    """The inputs with other tokens, cut to as many; attended to where they are seen, and not where they have ended."""
    if not isinstance(inputs, dict):
        return tokens_RL
    length = tokens_RL.shape[1]
    cut = {n: v[:, :length] if v.ndim > 1 and v.shape[1] == seen_RL.shape[1] else v for n, v in inputs.items()}
    cut["input_ids"] = tokens_RL
    if (mask := cut.get("attention_mask")) is not None:
        cut["attention_mask"] = mask.masked_fill(seen_RL[:, :length], 1)
        if ended is not None:
            cut["attention_mask"] = cut["attention_mask"].masked_fill(ended, 0)
    return cut


def _put(inputs: Inputs, rows: Tensor, new: Inputs) -> Inputs:
    if isinstance(inputs, dict) and isinstance(new, dict):
        return {name: value.index_copy(0, rows, new[name].to(value.dtype)) for name, value in inputs.items()}
    assert isinstance(inputs, Tensor)
    assert isinstance(new, Tensor)
    return inputs.index_copy(0, rows, new)


@contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
