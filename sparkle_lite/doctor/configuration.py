"""Checks of what is configured, of the database as a whole, and of the time."""

from functools import partial

from sparkle_lite import config as configuration
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.clock import Clock
from sparkle_lite.config.notes import notes
from sparkle_lite.db import checkup
from sparkle_lite.doctor.findings import CheckFinding, refused
from sparkle_lite.doctor.installation import InstalledServer
from sparkle_lite.rules import omissions
from sparkle_lite.rules.cautions import cautions
from sparkle_lite.texts import phrase
from sparkle_lite.timekeeping import Timekeeping


async def check_configuration(place: InstalledServer) -> list[CheckFinding] | None:
    """Mistakes of the configuration, and notes on what may surprise its writer."""
    found = [
        CheckFinding("bad", phrase("doctor.mistake", line=line), phrase("doctor_mend.mistake"))
        for line in place.mistakes
    ]
    if place.config is None or place.mistakes:
        return found
    every = (*notes(place.config), *omissions.notes(place.config, place.now_ms), *cautions(place.config))
    lines = configuration.explain(every, configuration.source(SCHEMA, place.path, place.environ))
    return [CheckFinding("note", phrase("doctor.config_note", line=line)) for line in lines]


async def check_database(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether there is a database, and it can be read."""
    if place.trouble is not None:
        return [refused(place.trouble)]
    if place.config is None:
        return None
    if place.database is None:
        path = place.config.database.file
        return [CheckFinding("note", phrase("doctor.no_database", path=path), phrase("doctor_mend.no_database"))]
    return []


async def check_clock(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether the machine's time goes with what is stored, and what a running server thinks of it."""
    if place.database is None:
        return None
    said = place.readiness.get("clock", "ok") if place.readiness else "ok"
    if said != "ok":
        return [CheckFinding("bad", phrase("doctor.clock", why=said))]
    keeping = Timekeeping(place.database, Clock())
    await keeping.compare(partial(checkup.look_uri, served=place.is_served))
    if keeping.clock.doubt is not None:
        return [CheckFinding("bad", phrase("doctor.clock", why=keeping.said))]
    return []
