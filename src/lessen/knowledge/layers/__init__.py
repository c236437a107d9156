"""Objectives on relations between layers, and on which layers are paired."""
