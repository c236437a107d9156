"""Data sets: settings objects that load, and one function that takes whatever a person has."""

from lessen.data.digits import Digits
from lessen.data.load import load

__all__ = ["Digits", "load"]
