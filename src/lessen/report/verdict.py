"""The one sentence at the top: what was gained, what it cost, and what a reader must be warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lessen.core.record import Record
from lessen.report.entries import Entry, entries, targets
from lessen.report.metrics import CLOSENESS, quality_change, word
from lessen.report.numbers import digits, human, interval, times

ENOUGH_INTEGER = 95.0
"""Percent of the multiply-adds in integer kernels from which on a file counts as int8."""


@dataclass(frozen=True)
class Verdict:
    """Before, after, and what to say of the two.

    Args:
        before: The teacher: its own file in the same runtime where there is one, else the network in PyTorch.
        after: The file that is recommended, else the network after the last step; None where nothing was measured.
        sentence: The verdict.
        warnings: What a reader must know before using the result.
    """

    before: Entry | None
    after: Entry | None
    sentence: str
    warnings: tuple[str, ...]


def judge(records: Sequence[Record]) -> Verdict:
    """Compare what is shipped with the teacher."""
    found = entries(records)
    networks = [entry for entry in found if entry.file is None]
    files = [entry for entry in found if entry.file is not None]
    teacher = next((entry for entry in networks if entry.step == 0), None)
    shipped = next((entry for entry in files if entry.recommended), None)
    warnings = [*_training(records), *_busy(found), *_warnings(files, shipped, targets(records))]
    if shipped is not None and shipped.step == 0:
        said = f"No step has made the network smaller; the {shipped.recommended} verified file of it is {shipped.name}."
        return Verdict(teacher, shipped, said, tuple(warnings))
    if shipped is not None:
        before = _reference(shipped, files) or teacher
        return Verdict(before, shipped, _sentence(before, shipped, teacher), tuple(warnings))
    last = networks[-1] if networks and networks[-1].step > 0 else None
    if last is None:
        said = "Nothing has been measured yet." if teacher is None else "Only the teacher has been measured so far."
        return Verdict(teacher, None, said, tuple(warnings))
    if not files:
        warnings.insert(0, "No file was exported: these values are those of the network in PyTorch.")
    return Verdict(teacher, last, _sentence(teacher, last, teacher), tuple(warnings))


def speedup(after: Entry, before: Entry | None) -> Record | None:
    """How many times faster: the interleaved record where there is one, else the quotient of the medians."""
    if (paired := after.get("speedup")) is not None:
        return paired
    now, was = after.value("latency"), None if before is None else before.value("latency")
    if not now or not was:
        return None
    return Record(subject=after.name, figure="speedup", value=was / now, unit="1")


def _sentence(before: Entry | None, after: Entry, teacher: Entry | None) -> str:
    what = f"The {after.recommended} verified file, {after.name}," if after.file else "The network after the last step"
    parts = [part for part in (_smaller(before, after), _faster(before, after)) if part]
    cost = _cost(after, teacher)
    if not parts and not cost:
        return f"{what} has not been measured against the teacher."
    against = " than the teacher"
    if before is not None and before.file:
        against = f" than the teacher's own file, {before.name}" if before.step == 0 else f" than {before.name}"
    said = f"{what} is {' and '.join(parts)}{against}" if parts else what
    if cost:
        if cost.startswith("its"):
            said += f"{', and ' if parts else ': '}{cost}"
        else:
            said += cost if cost.startswith(",") else f"{', and ' if parts else ' is '}{cost}"
    return said + "."


def _smaller(before: Entry | None, after: Entry) -> str:
    was, now = None if before is None else before.value("bytes"), after.value("bytes")
    if not was or not now:
        return ""
    return times(was, now)


def _faster(before: Entry | None, after: Entry) -> str:
    ratio = speedup(after, before)
    if ratio is None or not ratio.value:
        return ""
    if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
        return f"not measurably faster ({interval(ratio, 'ratio')} times)"
    if ratio.value >= 1:
        spread = interval(ratio, "ratio")
        return f"{digits(ratio.value)} times faster" + (f" ({spread})" if spread else "")
    return f"{digits(1 / ratio.value)} times slower"


def _cost(after: Entry, teacher: Entry | None) -> str:
    change = quality_change(after, teacher)
    if change is None or change.value is None:
        return _closeness(after)
    name = change.figure.removesuffix("_change")
    if change.unit != "points":
        now, was = after.value(name), None if teacher is None else teacher.value(name)
        if now is None or was is None:
            return ""
        return f", with {_a(word(name))} of {digits(now)} where the teacher has {digits(was)}"
    if name == "accuracy":
        more = "more" if change.value > 0 else "less"
        said = "exactly as accurate" if change.value == 0 else f"{abs(change.value):.2f} points {more} accurate"
    else:
        more = "higher" if change.value > 0 else "lower"
        same = "the same" if change.value == 0 else f"{abs(change.value):.2f} points {more}"
        said = f"its {word(name)} is {same}"
    if change.low is None or change.high is None:
        return said
    said += f" (change {interval(change)})"
    return said + (", which is within the margin of error" if change.value and change.low <= 0 <= change.high else "")


def _closeness(after: Entry) -> str:
    """How close outputs are to the teacher's, where no label tells more."""
    for name in CLOSENESS:
        record = after.get(name)
        if record is not None and record.value is not None:
            return (
                f", with {_a(word(name))} of {human(record.value, record.unit if record.unit != '1' else '').strip()}"
            )
    return ""


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _reference(shipped: Entry, files: list[Entry]) -> Entry | None:
    record = shipped.get("speedup")
    name = None if record is None else record.settings.get("reference")
    for entry in files:
        if entry.file == name:
            return entry
    return next((entry for entry in files if entry.step == 0 and entry.runtime == shipped.runtime), None)


def _warnings(files: list[Entry], shipped: Entry | None, asked: list[Record]) -> list[str]:
    said = []
    if files and shipped is None:
        said.append("No file is recommended: none passed verification, or the run has not ended.")
    for record in asked:
        unit, name = str(record.detail.get("unit", "")), record.figure.removeprefix("target_").replace("_", " ")
        limit, found = (human(record.detail.get(key), unit) for key in ("asked", "found"))
        if record.value is None:
            said.append(f"A target could not be checked: {name}: {limit} required, but {record.detail.get('reason')}.")
        elif not record.value:
            said.append(f"A target was missed: {name}: {limit} required, {found} measured.")
    for entry in files:
        if entry.verified is False:
            said.append(f"{entry.name} did not pass verification and must not be used: {reason(entry)}")
        ratio = entry.get("speedup")
        if ratio is not None and ratio.high is not None and ratio.high < 1:
            said.append(f"{entry.name} is slower than {ratio.settings.get('reference', 'the reference')}: "
                        f"{digits(ratio.value or 0)} times its speed.")  # fmt: skip
        if entry.integer:
            said += _int8(entry, files)
    return said


def _training(records: Sequence[Record]) -> list[str]:
    """What went wrong in a training, step by step."""
    rows = [record for record in records if record.figure == "training_warning" and record.detail.get("says")]
    return [f"{'Training' if row.step == 0 else f'Step {row.step}'}: {row.detail['says']}" for row in rows]


def _busy(found: list[Entry]) -> list[str]:
    """That the machine was too busy to time some of them, in one sentence."""
    names = [entry.name for entry in found if entry.busy]
    if not names:
        return []
    which = "anything" if len(names) == sum(entry.get("latency") is not None for entry in found) else ", ".join(names)
    why = next(entry.busy for entry in found if entry.busy)
    return [f"The machine was too busy to time {which}: {why}. Measure again when nothing else runs on it."]


def _int8(entry: Entry, files: list[Entry]) -> list[str]:
    """What an int8 file must own up to: floating-point kernels, and a plain file that is as fast."""
    said = []
    share = entry.value("integer_share")
    if share is not None and share < ENOUGH_INTEGER:
        said.append(f"{entry.name}: only {share:.0f} % of the multiply-adds run in integer kernels.")
    plain = [
        other
        for other in files
        if not other.integer and other.runtime == entry.runtime and 0 < other.step <= max(entry.step, 1)
    ]
    rival = max(plain, key=lambda other: other.step, default=None)
    mine, best = entry.get("latency"), None if rival is None else rival.get("latency")
    known = mine is not None and mine.value is not None and best is not None and best.value is not None
    if rival is not None and mine is not None and best is not None and known and _slower_or_equal(mine, best):
        word = "not measurably faster" if _overlap(mine, best) else "slower"
        said.append(
            f"int8 does not pay here: {entry.name} is {word} than {rival.name} in 32 bits, "
            f"{human(mine.value, 'ms')} against {human(best.value, 'ms')}."
        )
    return said


def _slower_or_equal(mine: Record, best: Record) -> bool:
    return (mine.value or 0) >= (best.value or 0) or _overlap(mine, best)


def _overlap(one: Record, other: Record) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def reason(entry: Entry) -> str:
    """Why a file was, or was not, verified."""
    record = entry.get("verified")
    given = None if record is None else record.detail.get("reason")
    return str(given or "no reason was recorded.")
