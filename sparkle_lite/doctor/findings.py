"""What a check finds: how bad it is, a sentence, and its mend (catalogues: doctor.*, doctor_mend.*)."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from sparkle_lite.db.faults import FileFault
from sparkle_lite.errors import SaidError
from sparkle_lite.texts import Phrase, phrase

# From good to bad; the first two need nobody.
Level = Literal["ok", "note", "warn", "bad"]
LEVELS: tuple[Level, ...] = get_args(Level)


class CheckFinding(NamedTuple):
    """One thing that a check says; `mend` is what to do about it, where there is something to do."""

    level: Level
    said: Phrase
    mend: Phrase | None = None


class CheckResult(NamedTuple):
    """A check by its name, and what it found."""

    check: str
    findings: tuple[CheckFinding, ...]


def worst(results: Iterable[CheckResult]) -> Level:
    """The worst level of all findings."""
    levels = (LEVELS.index(finding.level) for result in results for finding in result.findings)
    return LEVELS[max(levels, default=0)]


def refused(error: SaidError, level: Level = "bad") -> CheckFinding:
    """What an error says, whose sentence has the mend in it."""
    # What is told over the network names no file.
    return CheckFinding(level, phrase("doctor.error", why=error.told if isinstance(error, FileFault) else error.said))
