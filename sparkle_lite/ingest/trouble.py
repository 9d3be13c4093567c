"""What is wrong with what an application sends: judged from each submission, kept, and told with its cure.

A client shows its person little: a body whose rows are all rejected is a 200 to it. So whatever was wrong with the last
submissions stands on the application's page and in `app list`, and in the log once an hour. An application that sends
fine things costs a few comparisons here, and the database is written only when something begins, changes or ends, or
an hour after it was.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec

from sparkle_lite.accounts.registry import Userapp
from sparkle_lite.db import troubles as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.db.dictionaries import DAILY_QUOTA
from sparkle_lite.db.troubles import TroubleRow
from sparkle_lite.errors import Code, SparkleError
from sparkle_lite.ingest import quotas
from sparkle_lite.ingest.trouble_sentences import Details, join, sentence
from sparkle_lite.texts import ENGLISH, Phrase
from sparkle_lite.units import DAY_MS, HOUR_MS
from sparkle_lite.wire.dialect import Family, Traits

# The lists that a client sends; each is sent, and goes wrong, by itself.
ListName = Literal["peers", "bans", "histories", "swarms"]
Subject = Literal[ListName, "clock", "evidence", "requests"]

# In the order in which they are told.
_SUBJECTS = get_args(Subject)

# A clock that is wrong by less does no harm.
CLOCK_MS = DAY_MS

# What is no trouble before it has lasted so long: a first upload of years of history is old all through, and a client
# that has just begun has seen nobody cheat yet.
PATIENCE_MS: Mapping[str, int] = {"old_rows": DAY_MS, "no_peers": DAY_MS, "no_evidence": 3 * DAY_MS}

# Refused requests are forgotten when there has been none for so long.
_REQUESTS_MS = 2 * HOUR_MS

# Refusals that are the client's to mend; being overloaded, say, is ours.
_REFUSALS: frozenset[Code] = frozenset({"bad_request", "too_large", "unsupported", "timeout"})
logger = logging.getLogger("sparkle.trouble")


class Receipt(NamedTuple):
    """What a body that was stored shows of the client that sent it.

    `kept` counts the rows that were stored or known already, `rejected` the others by reason. `clock_off` is how far
    the client's clock is ahead (ms), from the newest time that it names where it doesn't name its own (`by_rows`); None
    where it names none. `has_evidence` says whether one of its bans counts for an analysis; None where there is no ban
    that the client judged by itself.
    """

    kept: int
    rejected: Mapping[str, int]
    are_networks: bool = False
    is_cut_off: bool = False
    clock_off: int | None = None
    by_rows: bool = False
    has_evidence: bool | None = None


class Diagnosis(NamedTuple):
    """What is wrong: a kind, and what its sentence says. Two with the same code and reason are the same trouble."""

    code: str
    details: Details

    def is_like(self, other: "Diagnosis") -> bool:
        """Whether this is the same trouble, whatever the numbers are."""
        return self.code == other.code and self.details.get("reason") == other.details.get("reason")


class Trouble(NamedTuple):
    """What is wrong with one subject of an application, and when that was seen first and last (ms)."""

    diagnosis: Diagnosis
    began_at: int
    last_at: int

    def is_due(self, now_ms: int) -> bool:
        """Whether it has lasted long enough to be worth a word."""
        return now_ms - self.began_at >= PATIENCE_MS.get(self.diagnosis.code, 0)


# --- Judging ----------------------------------------------------------------------------------------------------------


def judge(name: ListName, receipt: Receipt, traits: Traits) -> Iterator[tuple[Subject, Diagnosis | None]]:
    """What a body says about each subject: what is wrong with it, or None where it is fine."""
    yield name, _judge_list(name, receipt, traits)
    if receipt.clock_off is not None:
        yield "clock", _judge_clock(receipt.clock_off, by_rows=receipt.by_rows)
    if receipt.has_evidence is not None:
        family = traits.family.value
        yield "evidence", None if receipt.has_evidence else Diagnosis("no_evidence", {"family": family})


def _judge_list(name: ListName, receipt: Receipt, traits: Traits) -> Diagnosis | None:
    details: Details = {"list": name, "family": traits.family.value}
    rejected = receipt.rejected
    if receipt.is_cut_off and receipt.kept:
        return Diagnosis("cut_off", {**details, "rows": receipt.kept})
    if dropped := rejected.get("quota"):
        return Diagnosis("quota", {**details, "rows": dropped, "most": DAILY_QUOTA})
    if rejected and not receipt.kept:
        # What is beyond the most rows was not looked at.
        reason = max(rejected, key=lambda reason: (reason != "too_many_rows", rejected[reason]))
        if receipt.are_networks:
            reason = "networks"
        return Diagnosis("rejected", {**details, "rows": sum(rejected.values()), "reason": reason})
    if not receipt.kept and name == "peers" and traits.family is Family.QBCB:
        # It never empties its list, so it has collected nobody since it started.
        return Diagnosis("no_peers", details)
    return None


def _judge_clock(off_ms: int, *, by_rows: bool) -> Diagnosis | None:
    if abs(off_ms) < CLOCK_MS:
        return None
    return Diagnosis("old_rows" if by_rows and off_ms < 0 else "clock", {"off": off_ms})


# --- Keeping ----------------------------------------------------------------------------------------------------------


class Troubles:
    """The troubles of a server's applications: seven at the most for each, none for one that sends fine things."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self.database = database
        self._clock = clock
        self._open: dict[int, dict[str, Trouble]] = {}
        # What the database knows, and what of it is no longer so.
        self._stored: dict[tuple[int, str], Trouble] = {}
        self._changed: set[tuple[int, str]] = set()
        self._logged: dict[int, int] = {}

    async def load(self) -> None:
        """Take up what an earlier run has found."""
        async with self.database.reader() as connection:
            self._stored = {(row.userapp, row.subject): _trouble(row) for row in await store.all_rows(connection)}
        for (userapp, subject), trouble in self._stored.items():
            self._open.setdefault(userapp, {})[subject] = trouble

    def of(self, userapp: int) -> list[Phrase]:
        """What is wrong with what an application (row id) sends, a sentence for each subject."""
        return _sentences(self._open.get(userapp, {}), self._clock())

    def received(self, userapp: Userapp, name: ListName, receipt: Receipt, traits: Traits) -> None:
        """Judge a body that was stored."""
        is_troubled = False
        for subject, diagnosis in judge(name, receipt, traits):
            is_troubled |= diagnosis is not None
            self._note(userapp.id, subject, diagnosis)
        if is_troubled:
            self._log(userapp)

    def refused(self, userapp: Userapp, name: ListName, error: SparkleError) -> None:
        """Note that a body could not be read, or came beyond the day's share."""
        if error.code in _REFUSALS or error.said.key in quotas.REFUSALS:
            said = {"key": error.said.key, "values": error.said.values}
            self._note(userapp.id, name, Diagnosis("refused", {"list": name, "reason": error.code, **said}))
            self._log(userapp)

    def limited(self, userapp: Userapp, per_minute: int) -> None:
        """Note that a request came beyond so many a minute."""
        self._note(userapp.id, "requests", Diagnosis("too_many", {"most": per_minute}))
        self._log(userapp)

    def _note(self, userapp: int, subject: Subject, diagnosis: Diagnosis | None) -> None:
        troubles = self._open.get(userapp)
        if diagnosis is None:
            if troubles and troubles.pop(subject, None):
                self._changed.add((userapp, subject))
                if not troubles:
                    del self._open[userapp]
            return
        now = self._clock()
        troubles = self._open.setdefault(userapp, {})
        known = troubles.get(subject)
        is_known = known is not None and known.diagnosis.is_like(diagnosis)
        troubles[subject] = Trouble(diagnosis, known.began_at if known and is_known else now, now)
        written = self._stored.get((userapp, subject))
        if not is_known or written is None or now - written.last_at >= HOUR_MS:
            self._changed.add((userapp, subject))

    def _log(self, userapp: Userapp) -> None:
        """One line an hour for an application, in which all that is wrong stands."""
        now = self._clock()
        if userapp.id in self._logged and 0 <= now - self._logged[userapp.id] < HOUR_MS:
            return
        due = [trouble for trouble in self._open.get(userapp.id, {}).values() if trouble.is_due(now)]
        if due:
            self._logged[userapp.id] = now
            codes = dict.fromkeys(trouble.diagnosis.code for trouble in due)
            fields = {"app_id": userapp.app_id, "trouble": ",".join(codes)}
            logger.warning("an application is in trouble: %s", join(self.of(userapp.id)).text(ENGLISH), extra=fields)

    async def flush(self) -> None:
        """Write what has changed; a failed write is tried again next time."""
        self._forget_old()
        if not self._changed:
            return
        changed, self._changed = self._changed, set()
        now_open = {
            (userapp, subject): trouble
            for userapp, subject in changed
            if (trouble := self._open.get(userapp, {}).get(subject)) is not None
        }
        put = {key: trouble for key, trouble in now_open.items() if self._is_news(key, trouble)}
        gone = [key for key in changed if key not in now_open and key in self._stored]
        if not put and not gone:
            return
        try:
            await self._write(gone, [_row(key, trouble) for key, trouble in put.items()])
        except BaseException:
            self._changed |= changed
            raise
        self._stored |= put
        for key in gone:
            self._stored.pop(key, None)

    @transacted
    async def _write(
        self, connection: Connection, gone: Sequence[tuple[int, str]], rows: Sequence[store.TroubleRow]
    ) -> None:
        await store.remove(connection, gone)
        await store.put(connection, rows)

    def _is_news(self, key: tuple[int, str], trouble: Trouble) -> bool:
        written = self._stored.get(key)
        is_same = written is not None and written.diagnosis.is_like(trouble.diagnosis)
        return written is None or not is_same or trouble.last_at - written.last_at >= HOUR_MS

    def _forget_old(self) -> None:
        now = self._clock()
        self._logged = {userapp: at for userapp, at in self._logged.items() if 0 <= now - at < HOUR_MS}
        quiet = [
            userapp
            for userapp, troubles in self._open.items()
            if (limited := troubles.get("requests")) is not None and now - limited.last_at >= _REQUESTS_MS
        ]
        for userapp in quiet:
            self._note(userapp, "requests", None)


async def sentences(database: Database, now_ms: int) -> dict[int, Phrase]:
    """What is wrong with each application (row id) that is in trouble, as a server has stored it."""
    async with database.reader() as connection:
        rows = await store.all_rows(connection)
    troubles: dict[int, dict[str, Trouble]] = {}
    for row in rows:
        troubles.setdefault(row.userapp, {})[row.subject] = _trouble(row)
    sentences = {userapp: _sentences(each, now_ms) for userapp, each in troubles.items()}
    return {userapp: join(each) for userapp, each in sentences.items() if each}


def _sentences(troubles: Mapping[str, Trouble], now_ms: int) -> list[Phrase]:
    return [
        sentence(trouble.diagnosis.code, trouble.diagnosis.details, trouble.began_at)
        for subject in _SUBJECTS
        if (trouble := troubles.get(subject)) is not None and trouble.is_due(now_ms)
    ]


def _row(key: tuple[int, str], trouble: Trouble) -> TroubleRow:
    userapp, subject = key
    return TroubleRow(
        userapp=userapp,
        subject=subject,
        code=trouble.diagnosis.code,
        details=msgspec.json.encode(trouble.diagnosis.details).decode(),
        began_at=trouble.began_at,
        last_at=trouble.last_at,
    )


def _trouble(row: TroubleRow) -> Trouble:
    return Trouble(Diagnosis(row.code, msgspec.json.decode(row.details)), row.began_at, row.last_at)
