"""Objectives on features: the values of layers themselves, and what is derived from them."""
