"""Which settings to try next."""

from lessen.search.study import Range, Study, Values, samplers

__all__ = ["Range", "Study", "Values", "samplers"]
