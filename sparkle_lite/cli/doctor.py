"""The commands that look after a server."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import add_command, in_effect, when, with_database

if TYPE_CHECKING:
    from sparkle_lite.analyses.runs import Wanting
    from sparkle_lite.config import Config
    from sparkle_lite.db.database import Database


def add_doctor_commands(doctor: Any) -> None:
    """The group `doctor`."""
    text = "say that the time of this machine is right, so that retention and expiry go by it again at once"
    add_command(doctor, "accept-clock", _accept_clock, text)
    text = "name whom to vouch for, where a list waits because the words of those who reported don't count yet"
    add_command(doctor, "words", _words, text)


def _accept_clock(args: argparse.Namespace) -> None:
    from sparkle_lite import timekeeping
    from sparkle_lite.clock import now_ms

    now = now_ms()
    with_database(args, lambda database, _: timekeeping.accept(database, now))
    print(f"The time is taken as right: {when(now)} UTC")


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
