"""The command line. Every command runs beside a server on the same database, in short transactions of its own.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration. What a command needs is imported when it runs, so that
none waits for the server's libraries.
"""

import argparse
import asyncio
import io
import json
import os
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sparkle_lite import __version__
from sparkle_lite.errors import ConfigError, SparkleError

if TYPE_CHECKING:
    from sparkle_lite.accounts.actors import Actor
    from sparkle_lite.accounts.apps import NewSecret
    from sparkle_lite.accounts.parts import Accounts
    from sparkle_lite.config import Config
    from sparkle_lite.db.accounts import UserappRow, UserRow
    from sparkle_lite.db.database import Database

T = TypeVar("T")
P = ParamSpec("P")
Run = Callable[[argparse.Namespace], None]
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status; wrong usage raises SystemExit as argparse does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding doesn't know is shown escaped.
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except ConfigError as error:
        complain(*error.lines)
        return 2
    except SparkleError as error:
        complain(error.message)
        return 1
    except BrokenPipeError:
        # The reader has gone (`| head`); what is buffered would only fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def complain(*lines: str) -> None:
    for line in lines:
        print(f"sparkle-lite: {line}", file=sys.stderr)


# --- Usage ------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparkle-lite",
        description="A BTN server in one light process on SQLite. Without a command it serves.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_config_option(parser)
    parser.set_defaults(run=_serve, host=None, port=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    serve = add_command(commands, "serve", _serve, "run the server in the foreground")
    serve.add_argument("--host", metavar="H", help="address to listen on, instead of server.host")
    serve.add_argument("--port", metavar="P", type=_port, help="port to listen on, instead of server.port; 0: any free")
    add_user_commands(add_group(commands, "user", "people who may sign in and own applications"))
    add_app_commands(add_group(commands, "app", "user applications: the credentials of BTN clients"))
    config = add_group(commands, "config", "the configuration")
    add_command(config, "check", _config_check, "validate the configuration and name every mistake")
    add_command(config, "show", _config_show, "print the effective configuration, secrets masked")
    # It builds on this module.
    from sparkle_lite.cli import rules as cli_rules

    cli_rules.add_commands(commands)
    return parser


def add_user_commands(user: Any) -> None:
    add = add_command(user, "add", _user_add, "add a user", "name")
    add.add_argument("--admin", action="store_true", help="may manage everything")
    add_json_option(add_command(user, "list", _user_list, "list the users"))
    ban = add_command(user, "ban", _user_ban, "lock a user out, with all applications and sessions", "name")
    _reason_option(ban)
    add_command(user, "unban", _user_unban, "let a user in again", "name")
    add_command(user, "token", _user_token, "print a session token for the REST API", "name")
    add_command(user, "login-link", _user_login_link, "print a one-time login URL, valid 30 minutes", "name")


def add_app_commands(app: Any) -> None:
    add = add_command(app, "add", _app_add, "add an application and print its secret, once")
    add.add_argument("--user", metavar="NAME", required=True, help="the user who owns it")
    add.add_argument("--comment", metavar="T", default="Added on the command line", help="what it is for")
    add_json_option(add)
    listing = add_command(app, "list", _app_list, "list the applications")
    listing.add_argument("--anonymous", action="store_true", help="only those of clients without credentials")
    add_json_option(listing)
    add_json_option(add_command(app, "reset", _app_reset, "make a new secret and print it, once", "app_id"))
    _reason_option(add_command(app, "ban", _app_ban, "refuse an application", "app_id"))
    add_command(app, "unban", _app_unban, "let an application in again", "app_id")
    add_command(app, "delete", _app_delete, "delete an application; what it reported stays", "app_id")
    purge = add_command(
        app, "purge-anonymous", _app_purge_anonymous, "delete unused applications of clients without credentials"
    )
    purge.add_argument(
        "--older-than", metavar="DURATION", type=_duration, required=True, help='unused for so long, such as "30d"'
    )
    purge.add_argument("--yes", action="store_true", help="do it; without, only tell how many")


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


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def _reason_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="T", required=True, help="shown to whoever is refused")


def _duration(text: str) -> int:
    """A duration as the configuration writes it, in ms."""
    from sparkle_lite.config.values import Duration

    try:
        return int(Duration.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


# --- serve, config ----------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> None:
    config = load(args, rules=True)
    from sparkle_lite import app

    app.serve(config, config_path=lambda: config_path(args), host=args.host, port=args.port)


def _config_check(args: argparse.Namespace) -> None:
    loaded = load(args, rules=True)
    from sparkle_lite import config
    from sparkle_lite.analyses.registry import SCHEMA
    from sparkle_lite.clock import now_ms
    from sparkle_lite.config.notes import notes
    from sparkle_lite.rules import omissions

    found = (*notes(loaded), *omissions.notes(loaded, now_ms()))
    for line in config.explain(found, config.source(SCHEMA, config_path(args), os.environ)):
        print(f"note: {line}")
    print("OK")


def _config_show(args: argparse.Namespace) -> None:
    from sparkle_lite import config

    print(config.show(load(args)), end="")


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
    from sparkle_lite.rules import rendering as rulebook

    return config.load(SCHEMA, config_path(args), os.environ, check=rulebook.check)


# --- user -------------------------------------------------------------------------------------------------------------


def _user_add(args: argparse.Namespace) -> None:
    role: Any = "admin" if args.admin else "user"
    row = run_on_accounts(args, lambda accounts, actor: accounts.users.add(args.name, role, actor), create=True)
    print(f"Added the {'administrator' if args.admin else 'user'} {row.name}.")


def _user_list(args: argparse.Namespace) -> None:
    users = run_or_nothing(args, lambda accounts, _: accounts.users.all())
    if args.json:
        print_json([_pick(row, _USER_KEYS) for row in users])
        return
    rows = [(row.name, row.role, when(row.registered_at), when(row.last_seen_at), _state(row)) for row in users]
    print_table(("NAME", "ROLE", "REGISTERED (UTC)", "LAST SEEN (UTC)", "STATE"), rows)


def _user_ban(args: argparse.Namespace) -> None:
    user, _ = run_on_accounts(
        args, lambda accounts, actor: _to_user(accounts, args.name, accounts.users.ban, args.reason, actor)
    )
    print(f"Banned {user.name}.")


def _user_unban(args: argparse.Namespace) -> None:
    user, _ = run_on_accounts(args, lambda accounts, actor: _to_user(accounts, args.name, accounts.users.unban, actor))
    print(f"Lifted the ban of {user.name}.")


def _user_login_link(args: argparse.Namespace) -> None:
    _, token = run_on_accounts(args, lambda accounts, _: _to_user(accounts, args.name, accounts.sessions.login_link))
    print(f"{_base_url(load(args))}/login?token={token}")


async def _to_user(
    accounts: "Accounts",
    name: str,
    act: Callable[Concatenate[int, P], Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> "tuple[UserRow, T]":
    """Do something to the user (row id) of this name; the user, and what came of it."""
    user = await accounts.users.named(name)
    return user, await act(user.id, *args, **kwargs)


def _user_token(args: argparse.Namespace) -> None:
    print(run_on_accounts(args, lambda accounts, actor: _token_of(accounts, args.name, actor)))


async def _token_of(accounts: "Accounts", name: str, actor: "Actor") -> str:
    return await accounts.sessions.sign_in(await accounts.users.named(name), "command line", actor)


def _base_url(config: "Config") -> str:
    """Where a browser on this machine reaches the server."""
    server = config.server
    if server.public_url:
        return server.public_url
    host = _ANY_ADDRESS.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"


# --- app --------------------------------------------------------------------------------------------------------------


def _app_add(args: argparse.Namespace) -> None:
    _, new = run_on_accounts(
        args, lambda accounts, actor: _to_user(accounts, args.user, accounts.apps.add, args.comment, actor)
    )
    _print_secret(args, new)


def _app_reset(args: argparse.Namespace) -> None:
    _print_secret(args, run_on_accounts(args, lambda accounts, actor: accounts.apps.reset(args.app_id, actor)))


def _print_secret(args: argparse.Namespace, new: "NewSecret") -> None:
    from sparkle_lite.accounts.apps import peerbanhelper_lines

    app_id = new.userapp.app_id
    if args.json:
        print_json({"app_id": app_id, "app_secret": new.secret})
        return
    print("For PeerBanHelper's config.yml (the secret is shown only now):\n")
    print(peerbanhelper_lines(_base_url(load(args)), app_id, new.secret))


def _app_list(args: argparse.Namespace) -> None:
    apps = run_or_nothing(args, lambda accounts, _: _owned_apps(accounts, only_anonymous=args.anonymous))
    troubles = _troubles(args) if apps else {}
    if args.json:
        print_json([{"user": name, **_pick(row, _APP_KEYS), "trouble": troubles.get(row.id)} for name, row in apps])
        return
    rows = [
        (
            row.app_id,
            name,
            when(row.created_at),
            when(row.last_access_at),
            row.user_agent or "-",
            _state(row),
            row.comment,
        )
        for name, row in apps
    ]
    print_table(
        ("APP ID", "USER", "CREATED (UTC)", "LAST ACCESS (UTC)", "USER AGENT", "STATE", "COMMENT"),
        rows,
    )
    for _, row in apps:
        if row.id in troubles:
            print(f"\nTrouble with {row.app_id} ({row.comment}): {troubles[row.id]}")


def _troubles(args: argparse.Namespace) -> dict[int, str]:
    """What is wrong with what applications (row ids) send, of each that is in trouble."""
    from sparkle_lite.clock import now_ms
    from sparkle_lite.ingest.trouble import sentences

    found = with_database(args, lambda database, _: sentences(database, now_ms()))
    return {userapp: sentence.text("en") for userapp, sentence in found.items()}


async def _owned_apps(accounts: "Accounts", *, only_anonymous: bool) -> "list[tuple[str, UserappRow]]":
    """The applications, newest first, with the names of their owners."""
    from sparkle_lite.accounts.registry import ANONYMOUS

    names = {user.id: user.name for user in await accounts.users.all()}
    apps = [(names[row.user], row) for row in await accounts.apps.all()]
    return [(owner, row) for owner, row in apps if owner == ANONYMOUS] if only_anonymous else apps


def _app_ban(args: argparse.Namespace) -> None:
    run_on_accounts(args, lambda accounts, actor: accounts.apps.ban(args.app_id, args.reason, actor))
    print(f"Banned {args.app_id}.")


def _app_unban(args: argparse.Namespace) -> None:
    run_on_accounts(args, lambda accounts, actor: accounts.apps.unban(args.app_id, actor))
    print(f"Lifted the ban of {args.app_id}.")


def _app_delete(args: argparse.Namespace) -> None:
    run_on_accounts(args, lambda accounts, actor: accounts.apps.delete(args.app_id, actor))
    print(f"Deleted {args.app_id}.")


def _app_purge_anonymous(args: argparse.Namespace) -> None:
    if args.yes:
        gone = run_on_accounts(args, lambda accounts, actor: accounts.apps.purge_anonymous(args.older_than, actor))
        print(f"Deleted {_clients(len(gone))}; what they reported stays.")
        return
    idle = run_on_accounts(args, lambda accounts, _: accounts.apps.idle_anonymous(args.older_than))
    print(f"{_clients(len(idle)).capitalize()} would be deleted; add --yes to do it.")


def _clients(count: int) -> str:
    return f"{count or 'no'} client{'' if count == 1 else 's'} without credentials"


# --- The database -----------------------------------------------------------------------------------------------------


def run_on_accounts(
    args: argparse.Namespace, command: "Callable[[Accounts, Actor], Awaitable[T]]", *, create: bool = False
) -> T:
    """Run a command on the accounts as the operator. Raises SparkleError if there is no database, unless `create`."""
    from sparkle_lite.accounts.actors import COMMAND_LINE
    from sparkle_lite.accounts.audit import Audit
    from sparkle_lite.accounts.parts import Accounts
    from sparkle_lite.clock import now_ms

    return with_database(
        args,
        lambda database, config: command(
            Accounts.on(database, Audit(database, now_ms), lambda: config.auth, now_ms), COMMAND_LINE
        ),
        create=create,
    )


def with_database(
    args: argparse.Namespace, command: "Callable[[Database, Config], Awaitable[T]]", *, create: bool = False
) -> T:
    """Run something on the database. Raises SparkleError if there is none, unless `create`."""
    from sparkle_lite.db.database import Database

    config = load(args)
    path = config.database.file
    if not create and not path.exists():
        raise no_database(path)

    async def run() -> T:
        database = Database(path, config.database.synchronous)
        await database.open()
        try:
            return await command(database, config)
        finally:
            await database.close()

    return asyncio.run(run())


def run_or_nothing(args: argparse.Namespace, command: "Callable[[Accounts, Actor], Awaitable[list[T]]]") -> list[T]:
    """Run a command that lists; without a database there is nothing to list, and that is said."""
    path = load(args).database.file
    if not path.exists():
        complain(no_database(path).message)
        return []
    return run_on_accounts(args, command)


def no_database(path: Path) -> SparkleError:
    return SparkleError("not_found", "database.none", path=path)


# --- Printing ---------------------------------------------------------------------------------------------------------

_USER_KEYS = ("id", "name", "role", "registered_at", "last_seen_at", "banned_at", "banned_reason")
_APP_KEYS = ("app_id", "comment", "created_at", "last_access_at", "user_agent", "banned_at", "banned_reason")


def _pick(row: "UserRow | UserappRow", keys: Iterable[str]) -> dict[str, object]:
    """What may be shown of a row."""
    return {key: getattr(row, key) for key in keys}


def print_json(value: Sequence[Mapping[str, object]] | Mapping[str, object]) -> None:
    print(json.dumps(value))


def when(at: int | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _state(row: "UserRow | UserappRow") -> str:
    return "active" if row.banned_at is None else f"banned {when(row.banned_at)}: {row.banned_reason}"


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
