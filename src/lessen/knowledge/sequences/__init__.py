"""Objectives on sequences of tokens."""
