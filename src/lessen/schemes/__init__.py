"""Schemes: known arrangements of teachers and students, as settings that return stages."""

from lessen.schemes.assistant_chain import AssistantChain, assistant_chain
from lessen.schemes.at import At, at
from lessen.schemes.borrowed_head import borrow_head, feature_lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.mutual import Mutual, mutual
from lessen.schemes.offline import Offline, offline
from lessen.schemes.pattern import InTurn, Pattern, one_stage, pattern_of
from lessen.schemes.scheme import BaseScheme, Cast, Counts, Scheme, TrainedScheme, count, role, roles
from lessen.schemes.self_branches import SelfBranches, self_branches
from lessen.schemes.self_snapshot import SelfSnapshot, self_snapshot
from lessen.schemes.several_teachers import SeveralTeachers, several_teachers
from lessen.schemes.staged import Staged, staged
from lessen.schemes.supervised import Supervised, supervised
from lessen.surgery.taps import Tap, Taps, taps

__all__ = [
    "AssistantChain",
    "At",
    "BaseScheme",
    "Cast",
    "Counts",
    "InTurn",
    "LabelledScheme",
    "Mutual",
    "Offline",
    "Pattern",
    "Scheme",
    "SelfBranches",
    "SelfSnapshot",
    "SeveralTeachers",
    "Staged",
    "Supervised",
    "Tap",
    "Taps",
    "TrainedScheme",
    "assistant_chain",
    "at",
    "borrow_head",
    "count",
    "feature_lesson",
    "mutual",
    "offline",
    "one_stage",
    "pattern_of",
    "role",
    "roles",
    "self_branches",
    "self_snapshot",
    "several_teachers",
    "staged",
    "supervised",
    "taps",
]
