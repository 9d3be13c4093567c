"""The commands `user`, `app` and `feed-key`: people, and the credentials of their clients."""

import argparse
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sparkle_lite.cli.commands import (
    accounts_of,
    add_command,
    add_json_option,
    in_effect,
    load,
    print_json,
    print_table,
    run_on_accounts,
    run_or_nothing,
    when,
    with_database,
)

if TYPE_CHECKING:
    from sparkle_lite.accounts.actors import Actor
    from sparkle_lite.accounts.apps import NewSecret
    from sparkle_lite.accounts.feed_keys import FeedKeyRow
    from sparkle_lite.accounts.parts import Accounts
    from sparkle_lite.config import Config
    from sparkle_lite.db.accounts import UserappRow, UserRow
    from sparkle_lite.db.database import Database

T = TypeVar("T")
P = ParamSpec("P")
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


def add_user_commands(user: Any) -> None:
    add = add_command(user, "add", _user_add, "name")
    add.add_argument("--admin", action="store_true")
    add.add_argument(
        "--vouch",
        action=argparse.BooleanOptionalAction,
    )
    add_json_option(add_command(user, "list", _user_list))
    ban = add_command(user, "ban", _user_ban, "name")
    _reason_option(ban)
    add_command(user, "unban", _user_unban, "name")
    add_command(user, "vouch", _user_vouch, "name")
    add_command(user, "unvouch", _user_unvouch, "name")
    add_command(user, "token", _user_token, "name")
    add_command(user, "login-link", _user_login_link, "name")


def add_app_commands(app: Any) -> None:
    add = add_command(app, "add", _app_add)
    add.add_argument("--user", metavar="NAME", required=True)
    add.add_argument("--comment", metavar="T", default="Added on the command line")
    add_json_option(add)
    listing = add_command(app, "list", _app_list)
    listing.add_argument("--anonymous", action="store_true")
    add_json_option(listing)
    add_json_option(add_command(app, "reset", _app_reset, "app_id"))
    _reason_option(add_command(app, "ban", _app_ban, "app_id"))
    add_command(app, "unban", _app_unban, "app_id")
    add_command(app, "delete", _app_delete, "app_id")
    purge = add_command(app, "purge-anonymous", _app_purge_anonymous)
    purge.add_argument("--older-than", metavar="DURATION", type=_duration, required=True)
    purge.add_argument("--yes", action="store_true")


def add_feed_key_commands(feed_key: Any) -> None:
    add_command(feed_key, "add", _feed_key_add, "name")
    add_json_option(add_command(feed_key, "list", _feed_key_list))
    revoke = add_command(feed_key, "revoke", _feed_key_revoke, "name")
    revoke.add_argument("--user", metavar="NAME")


def _reason_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="T", required=True)


def _duration(text: str) -> int:
    """A duration as the configuration writes it, in ms."""
    from sparkle_lite.config.values import Duration

    try:
        return int(Duration.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- user -------------------------------------------------------------------------------------------------------------


def _user_add(args: argparse.Namespace) -> None:
    row = with_database(args, lambda database, config: _add_user(args, database, config), create=True)
    print(f"Added the {'administrator' if args.admin else 'user'} {row.name}.")


async def _add_user(args: argparse.Namespace, database: "Database", config: "Config") -> "UserRow":
    from sparkle_lite.accounts.actors import COMMAND_LINE
    from sparkle_lite.accounts.users import vouches

    vouched = args.vouch
    if vouched is None:
        vouched = vouches((await in_effect(args, database, config)).analysis.preset)
    users = (await accounts_of(database, config)).users
    return await users.add(args.name, "admin" if args.admin else "user", COMMAND_LINE, vouched=vouched)


def _user_list(args: argparse.Namespace) -> None:
    users = run_or_nothing(args, lambda accounts, _: _with_words(accounts))
    if args.json:
        print_json([{**_pick(row, _USER_KEYS), "vouched": row.speaks, "word": word} for row, word in users])
        return
    rows = [
        (row.name, row.role, _word(row, word), when(row.registered_at), when(row.last_seen_at), _state(row))
        for row, word in users
    ]
    print_table(("NAME", "ROLE", "WORD", "REGISTERED (UTC)", "LAST SEEN (UTC)", "STATE"), rows)


async def _with_words(accounts: "Accounts") -> "list[tuple[UserRow, float | None]]":
    """The users, oldest first, with what their words are worth."""
    words: Mapping[int, float] = await accounts.users.words()
    return [(row, 1.0 if row.speaks else words.get(row.id)) for row in await accounts.users.all()]


def _word(row: "UserRow", word: float | None) -> str:
    return "vouched" if row.speaks else "-" if word is None else f"{word:.2f}"


def _user_vouch(args: argparse.Namespace) -> None:
    user, _ = run_on_accounts(args, lambda accounts, actor: _to_user(accounts, args.name, accounts.users.vouch, actor))
    print(f"{user.name}'s word counts from the start.")


def _user_unvouch(args: argparse.Namespace) -> None:
    user, _ = run_on_accounts(
        args, lambda accounts, actor: _to_user(accounts, args.name, accounts.users.unvouch, actor)
    )
    print(f"{user.name}'s word is worth what it earns.")


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

    phrases = with_database(args, lambda database, _: sentences(database, now_ms()))
    return {userapp: phrase.text("en") for userapp, phrase in phrases.items()}


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


# --- feed-key ---------------------------------------------------------------------------------------------------------


def _feed_key_add(args: argparse.Namespace) -> None:
    _, key = run_on_accounts(args, lambda accounts, actor: accounts.feed_keys.add(None, args.name, actor))
    print(key)


def _feed_key_list(args: argparse.Namespace) -> None:
    keys = run_or_nothing(args, lambda accounts, _: accounts.feed_keys.all())
    if args.json:
        print_json([{"user": key.owner, **_pick(key.row, _FEED_KEY_KEYS)} for key in keys])
        return
    rows = [(key.row.name, key.owner or "-", when(key.row.created_at), when(key.row.used_at)) for key in keys]
    print_table(("NAME", "USER", "CREATED (UTC)", "LAST USED (UTC)"), rows)


def _feed_key_revoke(args: argparse.Namespace) -> None:
    key = run_on_accounts(args, lambda accounts, actor: accounts.feed_keys.revoke_named(args.name, args.user, actor))
    print(f"Revoked the key {key.row.name}{f' of {key.owner}' if key.owner else ''}.")


# --- Printing ---------------------------------------------------------------------------------------------------------

_USER_KEYS = ("id", "name", "role", "registered_at", "last_seen_at", "banned_at", "banned_reason")
_APP_KEYS = ("app_id", "comment", "created_at", "last_access_at", "user_agent", "banned_at", "banned_reason")

_FEED_KEY_KEYS = ("id", "name", "created_at", "used_at")


def _pick(row: "UserRow | UserappRow | FeedKeyRow", keys: Iterable[str]) -> dict[str, object]:
    """What may be shown of a row."""
    return {key: getattr(row, key) for key in keys}


def _state(row: "UserRow | UserappRow") -> str:
    return "active" if row.banned_at is None else f"banned {when(row.banned_at)}: {row.banned_reason}"
