"""Our operators in PyTorch's own, so that a program runs where lessen is not installed."""

from __future__ import annotations

from typing import Any

import torch

from lessen.operations.quantize import fake, found, stepped


def decompositions() -> dict[Any, Any]:
    """From each operator to a function of operators of PyTorch."""
    ours: Any = torch.ops.lessen
    return {
        ours.fake_quantize.default: fake.plain_fake_quantize,
        ours.quantize_weight.default: fake.plain_quantize_weight,
        ours.quantize_weight_by.default: stepped.plain_quantize_weight_by,
        ours.quantize_by_step.default: stepped.plain_quantize_by_step,
        ours.quantize_by_offset.default: stepped.plain_quantize_by_offset,
        ours.quantize_by_clip.default: stepped.plain_quantize_by_clip,
        ours.quantize_dynamically.default: found.plain_quantize_dynamically,
    }
