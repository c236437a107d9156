"""Objectives on labels, and any function of one's own."""
