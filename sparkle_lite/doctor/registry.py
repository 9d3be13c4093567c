"""All checks in the order in which they are told, and how they are run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from sparkle_lite.doctor import configuration, files, network, reports
from sparkle_lite.doctor.findings import CheckFinding, CheckResult, refused
from sparkle_lite.doctor.installation import InstalledServer
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import phrase

# Nothing where there is nothing to look at.
Check = Callable[[InstalledServer], Awaitable[list[CheckFinding] | None]]

CHECKS: Mapping[str, Check] = {
    "configuration": configuration.check_configuration,
    "database": configuration.check_database,
    "clock": configuration.check_clock,
    "rights": files.check_rights,
    "room": files.check_room,
    "versions": files.check_versions,
    "integrity": files.check_integrity,
    "set_aside": files.check_set_aside,
    "server": network.check_server,
    "public_url": network.check_public_url,
    "clients": reports.check_clients,
    "rules": reports.check_rules,
    "imports": reports.check_imports,
    "backups": reports.check_backups,
}
# How long one check may take (s), and the same where all files are read.
_CHECK_S, _DEEP_S = files.QUICK_S + 10.0, files.DEEP_S + 10.0
logger = logging.getLogger("sparkle.doctor")


async def examine(place: InstalledServer) -> list[CheckResult]:
    """Run all checks that have something to look at; where all is in order one finding says so."""
    results = [CheckResult(name, await _run(check, place)) for name, check in CHECKS.items()]
    return [result for result in results if result.findings]


async def _run(check: Check, place: InstalledServer) -> tuple[CheckFinding, ...]:
    try:
        async with asyncio.timeout(_DEEP_S if place.deep else _CHECK_S):
            found = await check(place)
    except TimeoutError:
        return (CheckFinding("bad", phrase("doctor.timed_out"), phrase("doctor_mend.timed_out")),)
    except SparkleError as error:
        return (refused(error),)
    except Exception as error:
        logger.debug("a check failed", exc_info=error)
        return (CheckFinding("bad", phrase("doctor.fault", why=f"{type(error).__name__}: {error}")),)
    if found is None:
        return ()
    return tuple(found) or (CheckFinding("ok", phrase("doctor.ok")),)
