"""Steps in order, from a trained network to files that run; the folder of a run, and how to resume and load it."""

from lessen.pipeline.compress import Compressed, compress, resume
from lessen.pipeline.folder import RunFolder
from lessen.pipeline.load import load
from lessen.pipeline.measuring import Measuring
from lessen.pipeline.packed import Packed, build_of, pack, pack_run, unpack
from lessen.pipeline.plans import known_settings, read_plans, replay
from lessen.pipeline.preflight import preflight
from lessen.pipeline.roles import Roles
from lessen.pipeline.targets import Targets

__all__ = [
    "Compressed",
    "Measuring",
    "Packed",
    "Roles",
    "RunFolder",
    "Targets",
    "build_of",
    "compress",
    "known_settings",
    "load",
    "pack",
    "pack_run",
    "preflight",
    "read_plans",
    "replay",
    "resume",
    "unpack",
]
