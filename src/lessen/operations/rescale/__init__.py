"""Scales that move from one layer to another; the function of the network does not change."""
