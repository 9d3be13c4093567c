"""The commands that look after a server."""

import argparse
from typing import Any

from sparkle_lite.cli.commands import add_command, when, with_database


def add_doctor_commands(doctor: Any) -> None:
    """The group `doctor`."""
    text = "say that the time of this machine is right, so that retention and expiry go by it again at once"
    add_command(doctor, "accept-clock", _accept_clock, text)


def _accept_clock(args: argparse.Namespace) -> None:
    from sparkle_lite import timekeeping
    from sparkle_lite.clock import now_ms

    now = now_ms()
    with_database(args, lambda database, _: timekeeping.accept(database, now))
    print(f"The time is taken as right: {when(now)} UTC")
