"""What the commands have in common: how one is declared, where it finds its database, how it prints."""

import argparse
import asyncio
import copy
import json
import os
import re
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
    """A parser whose --help speaks the environment's language, and that tells what was declared to it.

    What is said of a command and of its arguments stands in the catalogues, by the words that lead to it and the names
    of the arguments (help.*); a declaration says nothing.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, formatter_class=_SpokenFormatter, add_help=False, allow_abbrev=False)
        # Behind the name of the program.
        self._place = _place(self.prog.split()[1:])
        self.description = f"help.{self._place}.about"
        self.add_argument("-h", "--help", action="help", default=argparse.SUPPRESS)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Declare an argument, as argparse does; `help` is known by its name."""
        action = super().add_argument(*args, **kwargs)
        action.help = f"help.{self._place}.{action.dest}"
        return action

    def add_subparsers(self, **kwargs: Any) -> Any:
        """Declare that commands follow; what comes back knows which words lead to them."""
        group: Any = super().add_subparsers(**kwargs)
        group.words = self.prog.split()[1:]
        return group

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


def _place(words: Sequence[str]) -> str:
    """The part of a key that says which command it is about."""
    return "_".join(word.replace("-", "_") for word in words) or "program"


def help_text(key: str | None, language: str) -> str:
    """What is said of an argument or a command; nothing where its name says enough."""
    from sparkle_lite.texts import catalogue

    if key is None:
        return ""
    texts = catalogue(language)
    return texts.get(key) or texts.get(f"help.any.{key.rpartition('.')[2]}", "")


class _SpokenFormatter(argparse.HelpFormatter):
    """Lays out --help; what it is given as texts are keys. The catalogues are read only where somebody asks."""

    def __init__(self, prog: str) -> None:
        from sparkle_lite.texts import spoken

        super().__init__(prog)
        self._language = spoken(os.environ)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """The first line."""
        if prefix is None:
            prefix = f"{help_text('help_heading.usage', self._language)}: "
        super().add_usage(usage, actions, groups, prefix)

    def start_section(self, heading: str | None) -> None:
        """A heading, by argparse's own word for it or ours."""
        key = {"positional arguments": "positional"}.get(heading or "", heading)
        super().start_section(help_text(f"help_heading.{key}", self._language))

    def add_text(self, text: str | None) -> None:
        """What stands between; the description is a sentence."""
        if text and text.startswith("help."):
            text = sentence(help_text(text, self._language), self._language)
        super().add_text(text)

    def add_argument(self, action: argparse.Action) -> None:
        """An argument, by its name alone where that says enough."""
        if not help_text(action.help, self._language):
            action = copy.copy(action)
            action.help = None
        super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        return help_text(action.help, self._language).replace("%", "%%")

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(text, width) if text.isascii() else list(_wide_lines(text, width))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.isascii():
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in _wide_lines(text, width - len(indent)))


def sentence(text: str, language: str) -> str:
    """What is said of a command, as a sentence."""
    from sparkle_lite.texts import phrase

    return phrase("language.sentence", text=f"{text[:1].upper()}{text[1:]}").text(language)


def _wide_lines(text: str, width: int) -> Iterator[str]:
    """A text without blanks between its words in lines of so many columns; only words of ASCII are kept whole."""
    line = ""
    for piece in re.findall(r"[!-~]+|.", text):
        if line and _width(line) + _width(piece) > width:
            yield line.rstrip()
            line = ""
        if line or piece != " ":
            line += piece
    if line:
        yield line.rstrip()


def complain(*lines: str) -> None:
    for line in lines:
        print(f"sparkle-lite: {line}", file=sys.stderr)


def add_group(commands: Any, name: str) -> Any:
    group = _add_parser(commands, name)
    return group.add_subparsers(metavar="COMMAND", title="commands", required=True)


def add_command(commands: Any, name: str, run: Run, *arguments: str) -> CommandParser:
    parser = _add_parser(commands, name)
    for argument in arguments:
        parser.add_argument(argument, metavar=argument.upper())
    parser.set_defaults(run=run)
    return parser


def _add_parser(commands: Any, name: str) -> CommandParser:
    parser: CommandParser = commands.add_parser(name, help=f"help.{_place([*commands.words, name])}.about")
    add_config_option(parser)
    return parser


def add_config_option(parser: argparse.ArgumentParser) -> None:
    # No default: a parser further down would overwrite with it what was given further up.
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS,
    )


def port(text: str) -> int:
    """The type of an option that names a port; 0 is any free one."""
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")


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
