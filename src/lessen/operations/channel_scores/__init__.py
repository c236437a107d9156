"""Scores of whole channels: what is asked of a filter, its normalisation or its activation, not of single weights.

Nothing is imported here: `prune_channels` reads the contract, and some scores read `prune_channels`.
"""
