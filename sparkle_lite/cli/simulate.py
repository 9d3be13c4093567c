"""The command `simulate`: a circle of clients with known good and bad peers, and what the rules made of them."""

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import add_command, add_json_option

if TYPE_CHECKING:
    from sparkle_lite.simulation.connection import Target

# With a server of one's own days take seconds; in real time a whole one is long.
_DAYS, _REAL_DAYS = 8.0, 1.0
# As the simulation and the configuration have them, which a command that is only declared does not load.
_STYLES = ("collude", "varied", "sleeper", "trickle", "whitewash", "forge", "many", "hostile", "mixed")
_PRESETS = ("solo", "friends", "tracker", "public")
_HOW = (
    "collude (alike; the default), varied (no two alike), sleeper (honest for half of the time), trickle (three victims"
    " at a time), whitewash (they praise bad peers), forge (traffic and private flags), many (one person with all their"
    " applications), hostile (texts with lines and markup), mixed"
)


def add_simulate_command(commands: Any) -> None:
    """Declare `simulate`."""
    parser = add_command(commands, "simulate", print)
    parser.set_defaults(run=partial(_simulate, parser))
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        type=_url,
    )
    parser.add_argument("--people", metavar="N", type=_number(2, 500), default=30)
    parser.add_argument("--days", metavar="D", type=_days)
    parser.add_argument("--seed", metavar="S", type=_number(0, 1 << 31), default=1)
    parser.add_argument("--poison", metavar="F", type=_share, default=0.0)
    parser.add_argument("--style", metavar="NAME", choices=_STYLES, default="collude")
    parser.add_argument("--preset", choices=_PRESETS, default="friends")
    add_json_option(parser)
    parser.add_argument("--truth", metavar="FILE", type=Path)
    parser.add_argument("--token", metavar="T")
    parser.add_argument("--really", action="store_true")


# --- Options ----------------------------------------------------------------------------------------------------------


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def _between(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {least:g} to {most:g}")
    return value


def _days(text: str) -> float:
    return _between(text, 0.01, 365, "a number of days")


def _share(text: str) -> float:
    return _between(text, 0, 1, "a share")


def _url(text: str) -> str:
    from sparkle_lite.simulation.connection import target_of

    try:
        target_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


# --- Running it -------------------------------------------------------------------------------------------------------


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace, target: "Target | None") -> None:
    """End the command where options don't go together."""
    from sparkle_lite.simulation.connection import is_here

    if target is None:
        alone = [name for name, value in (("--token", args.token), ("--really", args.really)) if value]
        if alone:
            parser.error(f"{alone[0]} belongs to a URL; without one the command plays against a server of its own")
    elif not args.really and not is_here(target.host):
        parser.error(
            f"{target.host} is not this machine: simulated clients report invented peers there;"
            " if the server is yours and for tests, add --really"
        )
    elif not args.token:
        parser.error("against a URL the command needs --token, an administrator's (sparkle-lite user token NAME)")
    if args.truth is not None and not args.truth.absolute().parent.is_dir():
        parser.error(f"there is no folder {args.truth.absolute().parent} for --truth")


def _simulate(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    from sparkle_lite.http.lifecycle import loop_factory
    from sparkle_lite.simulation import report
    from sparkle_lite.simulation.connection import target_of
    from sparkle_lite.simulation.judge import truth
    from sparkle_lite.simulation.play import Order, play_against, play_own

    target = None if args.url is None else target_of(args.url)
    _check(parser, args, target)
    order = Order(
        people=args.people,
        days=args.days or (_DAYS if target is None else _REAL_DAYS),
        seed=args.seed,
        poison=args.poison,
        style=args.style,
        preset=args.preset,
    )
    with _quiet_logs(), _progress() as progress, asyncio.Runner(loop_factory=loop_factory()) as runner:
        outcome, world, victims = runner.run(
            play_own(order, progress) if target is None else play_against(target, args.token, order, progress)
        )
    if args.truth is not None:
        args.truth.write_text(json.dumps(truth(world, victims), indent=1), "utf-8")
    if args.json:
        print(json.dumps(report.document(outcome)))
    else:
        print("\n".join(report.text(outcome)))
    if outcome.was_interrupted and target is None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """The log of the simulation's own server is nobody's; what fails there stands in the report."""
    logger, handler = logging.getLogger("sparkle"), logging.NullHandler()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """How far it is, on one line of a terminal, or now and then a line where none is looking."""
    is_terminal = sys.stderr.isatty()
    shown = [0.0]

    def show(share: float, text: str) -> None:
        now = time.monotonic()
        if now - shown[0] < (0.2 if is_terminal else 15.0):
            return
        shown[0] = now
        line = f"{min(share, 1):4.0%}  {text}"
        print(f"\r{line:<60}" if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if is_terminal:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
