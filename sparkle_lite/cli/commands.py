"""What the commands have in common: how one is declared, where it finds its database, how it prints."""

import argparse
import asyncio
import json
import os
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparkle_lite.errors import SparkleError

if TYPE_CHECKING:
    from sparkle_lite.accounts.actors import Actor
    from sparkle_lite.accounts.parts import Accounts
    from sparkle_lite.config import Config
    from sparkle_lite.db.database import Database

T = TypeVar("T")
# What a command does; it may give its exit status.
Run = Callable[[argparse.Namespace], int | None]


class CommandParser(argparse.ArgumentParser):
    """A parser that tells what was declared to it: its arguments, and the parsers of the commands below it by name."""

    @property
    def arguments(self) -> list[argparse.Action]:
        """Its arguments in order, without the choice of a command."""
        return [action for action in self._actions if not isinstance(action.choices, dict)]

    @property
    def below(self) -> "dict[str, CommandParser]":
        """The commands of a group, in order."""
        return {
            name: parser
            for action in self._actions
            if isinstance(action.choices, dict)
            for name, parser in action.choices.items()
        }


def complain(*lines: str) -> None:
    for line in lines:
        print(f"sparkle-lite: {line}", file=sys.stderr)


def add_group(commands: Any, name: str, text: str) -> Any:
    group = commands.add_parser(name, help=text, description=_sentence(text), allow_abbrev=False)
    add_config_option(group)
    return group.add_subparsers(metavar="COMMAND", title="commands", required=True)


def add_command(commands: Any, name: str, run: Run, text: str, *arguments: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=_sentence(text), allow_abbrev=False
    )
    add_config_option(parser)
    for argument in arguments:
        parser.add_argument(argument, metavar=argument.upper())
    parser.set_defaults(run=run)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def add_config_option(parser: argparse.ArgumentParser) -> None:
    # No default: a parser further down would overwrite with it what was given further up.
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS,
        help="configuration file (default: config.toml in the working directory if there is one)",
    )


def port(text: str) -> int:
    """The type of an option that names a port; 0 is any free one."""
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def config_path(args: argparse.Namespace) -> Path | None:
    given: Path | None = getattr(args, "config", None)
    default = Path("config.toml")
    return given if given is not None or not default.exists() else default


def load(args: argparse.Namespace, *, rules: bool = False) -> "Config":
    """The configuration; `rules`: its rules must be right too, which only a server needs."""
    from sparkle_lite import config
    from sparkle_lite.analyses.registry import SCHEMA

    if not rules:
        return config.load(SCHEMA, config_path(args), os.environ)
    from sparkle_lite.rules import operator

    return config.load(SCHEMA, config_path(args), os.environ, check=operator.check)


# --- The database -----------------------------------------------------------------------------------------------------


def run_on_accounts(
    args: argparse.Namespace, command: "Callable[[Accounts, Actor], Awaitable[T]]", *, create: bool = False
) -> T:
    """Run a command on the accounts as the operator. Raises SparkleError if there is no database, unless `create`."""
    from sparkle_lite.accounts.actors import COMMAND_LINE

    async def run(database: "Database", config: "Config") -> T:
        return await command(await accounts_of(database, config), COMMAND_LINE)

    return with_database(args, run, create=create)


async def accounts_of(database: "Database", config: "Config") -> "Accounts":
    """The accounts in a database."""
    from sparkle_lite.accounts.audit import Audit
    from sparkle_lite.accounts.parts import Accounts
    from sparkle_lite.clock import now_ms
    from sparkle_lite.timekeeping import believed

    # A link must not be over for a server that goes by a later time.
    now = now_ms()
    ahead = await believed(database, now) - now

    def clock() -> int:
        return now_ms() + ahead

    return Accounts.on(database, Audit(database, clock), lambda: config.auth, clock)


def with_database(
    args: argparse.Namespace, command: "Callable[[Database, Config], Awaitable[T]]", *, create: bool = False
) -> T:
    """Run something on the database. Raises SparkleError if there is none, unless `create`."""
    from sparkle_lite.db.database import Database, is_there

    config = load(args)
    path = config.database.file
    if not create and not is_there(path):
        raise no_database(path)

    async def run() -> T:
        database = Database(path, config.database.synchronous)
        await database.open()
        try:
            return await command(database, config)
        finally:
            await database.close()

    return asyncio.run(run())


async def in_effect(args: argparse.Namespace, database: "Database", written: "Config") -> "Config":
    """The configuration with what was set on pages."""
    from sparkle_lite import config
    from sparkle_lite.accounts.audit import Audit
    from sparkle_lite.analyses.registry import SCHEMA
    from sparkle_lite.clock import now_ms
    from sparkle_lite.settings import Settings

    given = config.given(SCHEMA, config_path(args), os.environ)
    settings = Settings(database, Audit(database, now_ms), written, given)
    await settings.load()
    return settings.config


def run_or_nothing(args: argparse.Namespace, command: "Callable[[Accounts, Actor], Awaitable[list[T]]]") -> list[T]:
    """Run a command that lists; without a database there is nothing to list, and that is said."""
    from sparkle_lite.db.database import is_there

    path = load(args).database.file
    if not is_there(path):
        complain(no_database(path).message)
        return []
    return run_on_accounts(args, command)


def no_database(path: Path) -> SparkleError:
    return SparkleError("not_found", "database.none", path=path)


def print_json(value: Sequence[Mapping[str, object]] | Mapping[str, object]) -> None:
    print(json.dumps(value))


def when(at: int | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, or nothing when there is no row."""
    lines = [head, *rows] if rows else []
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _width(text: str) -> int:
    """Columns on a terminal: a Chinese character takes two, a combining mark none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
