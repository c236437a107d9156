"""Whole numbers instead of floating point: observe ranges, put pairs on every edge, store the plan."""
