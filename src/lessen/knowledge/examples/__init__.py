"""Objectives on relations between examples."""
