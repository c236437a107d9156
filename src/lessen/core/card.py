"""The card of a method: what it is, what it costs and when it fails, next to its code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader of the catalogue must know about one method.

    Args:
        row: Its place in the taxonomy, as "knowledge / indirect features" or "operations / pruning".
        paper: The source: an arXiv number, or authors, venue and year.
        says: One sentence: what it does.
        costs: What it costs in training and in the shipped model.
        fails_when: The case in which it does not help, or does harm.
        differs: Where this differs from the paper or from released code, and why. Empty if it does not.
    """

    row: str
    paper: str
    says: str
    costs: str
    fails_when: str
    differs: str = ""
