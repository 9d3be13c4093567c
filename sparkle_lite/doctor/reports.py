"""Checks of what comes in and what is made of it: clients, rules, lists of others, backups."""

from collections.abc import Sequence
from functools import partial

from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.registry import ANONYMOUS
from sparkle_lite.backups import newest_at
from sparkle_lite.clock import date
from sparkle_lite.db import accounts, checkup, decisions, reviews
from sparkle_lite.doctor.findings import CheckFinding
from sparkle_lite.doctor.installation import InstalledServer
from sparkle_lite.doctor.patience import on_thread
from sparkle_lite.ingest import trouble
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.imports import Imports
from sparkle_lite.rules.offers import unpacked
from sparkle_lite.rules.protected import Protected
from sparkle_lite.texts import phrase
from sparkle_lite.units import DAY_MS

# Who comes and sends nothing for so long, or doesn't come, is named.
_SILENT_MS = 7 * DAY_MS
_NEW_MS = DAY_MS
# So many are named, the rest counted.
_NAMED = 5


async def check_clients(place: InstalledServer) -> list[CheckFinding] | None:
    """Applications whose reports come to nothing: rejected, none at all, or nobody there."""
    if place.database is None:
        return None
    async with place.database.reader() as reader:
        names = {user.id: user.name for user in await accounts.users(reader) if user.banned_at is None}
        rows = await accounts.userapps(reader)
    apps = [
        app
        for app in rows
        if app.deleted_at is None and app.banned_at is None and names.get(app.user, ANONYMOUS) != ANONYMOUS
    ]
    troubles = await trouble.sentences(place.database, place.now_ms)
    shown = {app.id: f"{app.app_id} ({names[app.user]})" for app in apps}
    found = [
        CheckFinding("warn", phrase("doctor.client", app=name, why=troubles[number]))
        for number, name in shown.items()
        if number in troubles
    ]
    since = place.now_ms - _SILENT_MS
    old = [app for app in apps if app.created_at < place.now_ms - _NEW_MS and app.id not in troubles]
    senders = await on_thread(partial(checkup.senders, place.database.path, since, served=place.is_served))
    here = {app.id for app in old if app.last_access_at is not None and app.last_access_at >= since}
    silent = [shown[app.id] for app in old if app.id in here and app.id not in senders]
    gone = [shown[app.id] for app in old if app.id not in here]
    if silent:
        found.append(CheckFinding("warn", phrase("doctor.silent", apps=_named(silent)), phrase("doctor_mend.silent")))
    if gone:
        found.append(CheckFinding("note", phrase("doctor.gone", apps=_named(gone)), phrase("doctor_mend.gone")))
    if not found:
        found.append(CheckFinding("ok", phrase("doctor.clients", count=len(apps))))
    return found


def _named(names: Sequence[str]) -> str:
    rest = f" + {len(names) - _NAMED}" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


async def check_rules(place: InstalledServer) -> list[CheckFinding] | None:
    """What waits for an administrator, and what is kept back to protect somebody."""
    if place.database is None:
        return None
    async with place.database.reader() as reader:
        counts = await decisions.count_by_state(reader, place.now_ms)
        asked = await reviews.count_open(reader)
    waiting = sum(count for (_, state), count in counts.items() if state == "held")
    found = []
    if waiting:
        found.append(CheckFinding("warn", phrase("doctor.waiting", count=waiting), phrase("doctor_mend.waiting")))
    if asked:
        found.append(CheckFinding("warn", phrase("doctor.reviews", count=asked), phrase("doctor_mend.reviews")))
    held = place.readiness.get("rules_held") if place.readiness else 0
    if held:
        found.append(CheckFinding("note", phrase("doctor.held", count=held), phrase("doctor_mend.held")))
    return found


async def check_imports(place: InstalledServer) -> list[CheckFinding] | None:
    """Lists of others that stay as they were, because what came last was held back or failed."""
    database, config = place.database, place.config
    if database is None or config is None:
        return None
    clock = partial(int, place.now_ms)
    audit = Audit(database, clock)
    imports = Imports(
        database=database,
        decisions=Decisions(database, audit, clock, Protected(set())),
        audit=audit,
        config=lambda: config,
        clock=clock,
    )
    found = []
    for status in await imports.all():
        if status.state_now in ("held", "failed") and status.last is not None and status.last.why is not None:
            key = "doctor.list_held" if status.state_now == "held" else "doctor.list_failed"
            mend = phrase(f"doctor_mend.list_{status.state_now}")
            found.append(CheckFinding("warn", phrase(key, name=status.entry.name, why=unpacked(status.last.why)), mend))
    return found


async def check_backups(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether there is a backup, and none is overdue."""
    if place.database is None or place.config is None:
        return None
    section = place.config.backup
    newest = await on_thread(partial(newest_at, section.path))
    if not section.every:
        return [] if newest else [CheckFinding("note", phrase("doctor.no_backups"), phrase("doctor_mend.no_backups"))]
    if newest is not None and newest + 2 * section.every >= place.now_ms:
        return []
    key = "doctor.backup_missing" if newest is None else "doctor.backup_old"
    said = phrase(key, folder=section.path, every=str(section.every), at=date(newest))
    return [CheckFinding("warn", said, phrase("doctor_mend.backup_old"))]
