"""Schemes: known arrangements of who teaches whom, as settings that return stages."""

from lessen.schemes.at import At, at
from lessen.schemes.offline import Offline, offline
from lessen.schemes.scheme import Cast, Scheme
from lessen.schemes.supervised import Supervised, supervised

__all__ = ["At", "Cast", "Offline", "Scheme", "Supervised", "at", "offline", "supervised"]
