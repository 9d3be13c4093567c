"""The commands that look after a server."""

import argparse
import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import (
    add_command,
    add_json_option,
    config_path,
    in_effect,
    print_json,
    when,
    with_database,
)

if TYPE_CHECKING:
    from sparkle_lite.analyses.runs import Wanting
    from sparkle_lite.config import Config
    from sparkle_lite.db.adoption import Adopted
    from sparkle_lite.db.database import Database
    from sparkle_lite.doctor.findings import CheckResult

# How long a server may take to notice a file that was taken back (s).
_NOTICED_S, _LOOK_S = 8.0, 0.2


def add_doctor_command(commands: Any) -> None:
    """The command `doctor`, and those of its group."""
    doctor = add_command(commands, "doctor", _examine)
    add_json_option(doctor)
    doctor.add_argument("--deep", action="store_true")
    doctor.add_argument("--bundle", metavar="FILE", type=Path)
    doctor.add_argument("--log", metavar="FILE", type=Path)
    add_doctor_commands(doctor.add_subparsers(metavar="COMMAND", title="commands"))


def add_doctor_commands(doctor: Any) -> None:
    """The group `doctor`."""
    add_command(doctor, "adopt", _adopt, "file")
    add_command(doctor, "accept-clock", _accept_clock)
    add_command(doctor, "words", _words)


def _accept_clock(args: argparse.Namespace) -> None:
    from sparkle_lite import timekeeping
    from sparkle_lite.clock import now_ms

    now = now_ms()
    with_database(args, lambda database, _: timekeeping.accept(database, now))
    print(f"The time is taken as right: {when(now)} UTC")


# --- Checking ---------------------------------------------------------------------------------------------------------


def _examine(args: argparse.Namespace) -> int:
    from sparkle_lite.doctor.bundle import findings_as_json
    from sparkle_lite.doctor.findings import worst

    results = asyncio.run(_examined(args))
    if args.json:
        print_json(findings_as_json(results))
    else:
        _print(results)
    return int(worst(results) in ("warn", "bad"))


async def _examined(args: argparse.Namespace) -> "list[CheckResult]":
    from sparkle_lite.doctor.bundle import require_free, write_bundle
    from sparkle_lite.doctor.installation import looked_at
    from sparkle_lite.doctor.registry import examine

    if args.bundle is not None:
        # Checking may take long.
        require_free(args.bundle)
    async with looked_at(config_path(args), os.environ, deep=args.deep) as place:
        results = await examine(place)
        if args.bundle is not None:
            await write_bundle(args.bundle, place, results, args.log)
    return results


def _print(results: "list[CheckResult]") -> None:
    from sparkle_lite.doctor.registry import CHECKS
    from sparkle_lite.texts import phrase, spoken

    language = spoken(os.environ)
    width = max(map(len, CHECKS))
    for result in results:
        for finding in result.findings:
            print(f"{finding.level:<4}  {result.check:<{width}}  {finding.said.text(language)}")
            if finding.mend is not None:
                mend = phrase("doctor.mend", mend=finding.mend)
                print(f"{'':<{width + 8}}{mend.text(language)}")


# --- Taking back ------------------------------------------------------------------------------------------------------


def _adopt(args: argparse.Namespace) -> None:
    async def adopt(database: "Database", config: "Config") -> "Adopted":
        return await _adopted(args.file, database, config)

    adopted = with_database(args, adopt)
    state = "is served" if adopted.outcome == "served" else "is in its place; the server has not taken it up yet"
    print(f"{args.file} {state}: {adopted.segment.rows} rows")


async def _adopted(file: str, database: "Database", config: "Config") -> "Adopted":
    from sparkle_lite.clock import now_ms
    from sparkle_lite.db import adoption
    from sparkle_lite.db.lock import is_used

    served = is_used(config.database.file)
    adopted = await adoption.adopt(database, file, now_ms(), served=served)
    until = asyncio.get_running_loop().time() + _NOTICED_S
    while adopted.outcome == "waits" and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(_LOOK_S)
        if await adoption.is_served(database, adopted.segment):
            return adopted._replace(outcome="served")
    return adopted


# --- Words ------------------------------------------------------------------------------------------------------------


def _words(args: argparse.Namespace) -> None:
    from sparkle_lite.analyses.runs import WAITS

    wanting = with_database(args, partial(_wanting, args))
    for name in wanting.analyses:
        print(WAITS % name)
    if wanting.analyses:
        print(f"reported: {', '.join(wanting.people) or 'nobody of late'}")
    else:
        print("No list waits for want of words.")


async def _wanting(args: argparse.Namespace, database: "Database", written: "Config") -> "Wanting":
    from sparkle_lite.accounts.audit import Audit
    from sparkle_lite.analyses.runs import Runs
    from sparkle_lite.clock import now_ms
    from sparkle_lite.rules.decisions import Decisions
    from sparkle_lite.rules.protected import Protected

    config = await in_effect(args, database, written)
    protected = Protected(set())
    await protected.look_up(config)
    decisions = Decisions(database, Audit(database, now_ms), now_ms, protected)
    return await Runs(database, decisions, lambda: config.analysis).wanting()
