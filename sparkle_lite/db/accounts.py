"""SQL of accounts: users, applications, their addresses, sessions, logins under way, audit, settings."""

import json
import unicodedata
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple

from sparkle_lite.config import MEMBER_MS
from sparkle_lite.db.connection import Connection, fetch_all, fetch_one
from sparkle_lite.db.orders import Position, by_id, in_order
from sparkle_lite.units import INT64_MAX

# An application that comes from more addresses than this keeps the latest.
ADDRESSES_PER_USERAPP = 256
# Logins with GitHub that may be under way at once; beyond it the oldest are given up.
OAUTH_STATES = 10_000


class UserRow(NamedTuple):
    """A person. Times in ms; `registered_by` says who made the account, `vouched_at` since when its word counts anyway.

    `name` is unique and never changes; `nickname` is what GitHub shows, if that is nobody else's name here.
    """

    id: int
    name: str
    role: Literal["user", "admin"]
    registered_by: Literal["admin", "self"]
    github_id: int | None
    github_login: str | None
    avatar: str | None
    email: str | None
    registered_at: int
    last_seen_at: int | None
    banned_at: int | None
    banned_reason: str | None
    nickname: str | None
    vouched_at: int | None

    @property
    def speaks(self) -> bool:
        """Whether their word counts from the start: nobody needs to vouch for an administrator."""
        return self.role == "admin" or self.vouched_at is not None


class UserappRow(NamedTuple):
    """An installation of a client. `secret_hash` is the SHA-256 of its secret; times in ms."""

    id: int
    app_id: str
    secret_hash: bytes
    user: int
    comment: str
    created_at: int
    last_access_at: int | None
    user_agent: str | None
    banned_at: int | None
    banned_reason: str | None
    deleted_at: int | None


class SessionRow(NamedTuple):
    """A live session. Times in ms; `origin` says what made it."""

    jti_hash: bytes
    created_at: int
    expires_at: int
    origin: str


class AuditRow(NamedTuple):
    """Who did what (ms), and whether it was done. `details` is JSON."""

    id: int
    at: int
    action: str
    success: int
    user: int | None
    address: str | None
    user_agent: str | None
    details: str


class AuditFilter(NamedTuple):
    """Which audit rows; None asks for nothing. Times in ms, inclusive."""

    action: str | None = None
    user: int | None = None
    success: bool | None = None
    time_from: int | None = None
    time_to: int | None = None


class CredentialRow(NamedTuple):
    """What it takes to let an application in or to refuse it."""

    userapp: int
    app_id: str
    secret_hash: bytes
    user: int
    app_banned_reason: str | None
    user_banned_reason: str | None
    known: bool
    user_key: str


# An administrator knows who it is: they added the account, made it one of theirs, or vouch for it.
_KNOWN = "(u.registered_by='admin' OR u.role='admin' OR u.vouched_at IS NOT NULL)"
_USER = f"SELECT {', '.join(UserRow._fields)} FROM user"
_USERAPP = f"SELECT {', '.join(UserappRow._fields)} FROM userapp"
_CREDENTIAL = (
    "SELECT a.id, a.app_id, a.secret_hash, a.user,"
    " CASE WHEN a.banned_at IS NOT NULL THEN coalesce(a.banned_reason, '') END,"
    f" CASE WHEN u.banned_at IS NOT NULL THEN coalesce(u.banned_reason, '') END, {_KNOWN}, u.name_key"
    " FROM userapp a JOIN user u ON u.id = a.user WHERE a.deleted_at IS NULL"
)


async def data_version(connection: Connection) -> int:
    """A number that changes when another connection or process has changed the database, whatever it changed."""
    row = await fetch_one(connection, "PRAGMA data_version")
    return int(row[0]) if row else 0


async def credentials(connection: Connection) -> list[CredentialRow]:
    """Every application that is not deleted."""
    return [CredentialRow(*row) for row in await fetch_all(connection, _CREDENTIAL)]


async def credential(connection: Connection, app_id: str) -> CredentialRow | None:
    """One application by its public id, through the index."""
    row = await fetch_one(connection, f"{_CREDENTIAL} AND a.app_id=?", (app_id,))
    return CredentialRow(*row) if row else None


async def users(connection: Connection) -> list[UserRow]:
    """All users, oldest first."""
    return [UserRow(*row) for row in await fetch_all(connection, f"{_USER} ORDER BY id")]


async def users_page(connection: Connection, page: int, size: int) -> list[UserRow]:
    """One page of all users, oldest first; pages count from 0."""
    rows = await fetch_all(connection, f"{_USER} ORDER BY id LIMIT ? OFFSET ?", (size, _offset(page, size)))
    return [UserRow(*row) for row in rows]


def _offset(page: int, size: int) -> int:
    """How many rows come before a page; no more than SQLite can count."""
    return min(page * size, INT64_MAX)


async def count_users(connection: Connection) -> int:
    """How many users there are."""
    return await _count(connection, "SELECT count(*) FROM user")


async def count_other_admins(connection: Connection, user: int) -> int:
    """How many administrators who aren't banned there are beside a user."""
    return await _count(
        connection, "SELECT count(*) FROM user WHERE role='admin' AND banned_at IS NULL AND id<>?", (user,)
    )


async def _count(connection: Connection, sql: str, parameters: tuple[Any, ...] = ()) -> int:
    row = await fetch_one(connection, sql, parameters)
    return int(row[0]) if row else 0


async def has_users(connection: Connection) -> bool:
    """Whether there is any user."""
    return await fetch_one(connection, "SELECT 1 FROM user LIMIT 1") is not None


async def has_vouched(connection: Connection) -> bool:
    """Whether somebody vouches for anybody who is no administrator and not banned."""
    sql = "SELECT 1 FROM user WHERE vouched_at IS NOT NULL AND role<>'admin' AND banned_at IS NULL LIMIT 1"
    return await fetch_one(connection, sql) is not None


async def user_by_name(connection: Connection, name: str) -> UserRow | None:
    """A user by name; case and width of the letters don't matter."""
    row = await fetch_one(connection, f"{_USER} WHERE name_key=?", (name_key(name),))
    return UserRow(*row) if row else None


async def users_called(connection: Connection, name: str) -> dict[int, str]:
    """The users (row ids) who have a name or are shown by it, with their names; case and width don't matter."""
    key = name_key(name)
    rows = await fetch_all(
        connection, "SELECT id, name, name_key, nickname FROM user WHERE name_key=? OR nickname IS NOT NULL", (key,)
    )
    return {row[0]: row[1] for row in rows if row[2] == key or (row[3] is not None and name_key(row[3]) == key)}


def name_key(name: str) -> str:
    """A name without differences of case and width."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


async def user_by_id(connection: Connection, user: int) -> UserRow | None:
    """A user by row id."""
    row = await fetch_one(connection, f"{_USER} WHERE id=?", (user,))
    return UserRow(*row) if row else None


async def user_by_github_id(connection: Connection, github_id: int) -> UserRow | None:
    """A user by GitHub's number of the account, which never changes hands."""
    row = await fetch_one(connection, f"{_USER} WHERE github_id=?", (github_id,))
    return UserRow(*row) if row else None


async def set_github(
    connection: Connection,
    user: int,
    *,
    github_id: int,
    login: str,
    nickname: str | None,
    avatar: str | None,
    email: str | None,
) -> None:
    """What GitHub says of a user now."""
    await connection.execute(
        "UPDATE user SET github_id=?, github_login=?, nickname=?, avatar=?, email=? WHERE id=?",
        (github_id, login, nickname, avatar, email, user),
    )


async def set_nickname(connection: Connection, user: int, nickname: str | None) -> None:
    """Give a user a name to be shown, or take it away."""
    await connection.execute("UPDATE user SET nickname=? WHERE id=?", (nickname, user))


async def set_user_role(connection: Connection, user: int, role: str) -> None:
    """Make a user an administrator, or no longer."""
    await connection.execute("UPDATE user SET role=? WHERE id=?", (role, user))


async def set_users_seen(connection: Connection, seen: Iterable[tuple[int, int]]) -> None:
    """Note when users (row ids) were here last."""
    await connection.executemany(
        "UPDATE user SET last_seen_at=max(coalesce(last_seen_at, 0), ?) WHERE id=?", [(at, user) for user, at in seen]
    )


async def add_user(connection: Connection, name: str, role: str, registered_by: str, now_ms: int) -> int:
    """Add a local user; its row id. Raises sqlite3.IntegrityError for a name that is taken."""
    cursor = await connection.execute(
        "INSERT INTO user (name, name_key, role, registered_by, registered_at) VALUES (?,?,?,?,?)",
        (name, name_key(name), role, registered_by, now_ms),
    )
    return int(cursor.lastrowid or 0)


async def set_vouched(connection: Connection, user: int, vouched_at: int | None) -> None:
    """Note since when somebody vouches for a user, or with None that nobody does."""
    await connection.execute("UPDATE user SET vouched_at=? WHERE id=?", (vouched_at, user))


async def set_user_ban(connection: Connection, user: int, banned_at: int | None, reason: str | None) -> None:
    """Ban a user, or lift the ban with None."""
    await connection.execute("UPDATE user SET banned_at=?, banned_reason=? WHERE id=?", (banned_at, reason, user))


async def userapps(connection: Connection, user: int | None = None) -> list[UserappRow]:
    """The applications that are not deleted, of one user or of all, newest first."""
    condition = "" if user is None else " AND user=?"
    parameters = () if user is None else (user,)
    sql = f"{_USERAPP} WHERE deleted_at IS NULL{condition} ORDER BY created_at DESC, id DESC"
    return [UserappRow(*row) for row in await fetch_all(connection, sql, parameters)]


async def userapps_page(connection: Connection, page: int, size: int) -> list[tuple[UserappRow, UserRow]]:
    """One page of the applications that are not deleted, newest first, each with its owner; pages count from 0."""
    apps = ", ".join(f"a.{name}" for name in UserappRow._fields)
    owners = ", ".join(f"u.{name}" for name in UserRow._fields)
    rows = await fetch_all(
        connection,
        f"SELECT {apps}, {owners} FROM userapp a JOIN user u ON u.id = a.user WHERE a.deleted_at IS NULL"
        " ORDER BY a.created_at DESC, a.id DESC LIMIT ? OFFSET ?",
        (size, _offset(page, size)),
    )
    width = len(UserappRow._fields)
    return [(UserappRow(*row[:width]), UserRow(*row[width:])) for row in rows]


async def count_all_userapps(connection: Connection) -> int:
    """How many applications are not deleted."""
    return await _count(connection, "SELECT count(*) FROM userapp WHERE deleted_at IS NULL")


async def userapp_by_app_id(connection: Connection, app_id: str) -> UserappRow | None:
    """An application that is not deleted, by its public id."""
    row = await fetch_one(connection, f"{_USERAPP} WHERE app_id=? AND deleted_at IS NULL", (app_id,))
    return UserappRow(*row) if row else None


async def is_app_id_used(connection: Connection, app_id: str) -> bool:
    """Whether there is or was an application with this public id."""
    return await fetch_one(connection, "SELECT 1 FROM userapp WHERE app_id=?", (app_id,)) is not None


async def count_userapps(connection: Connection, user: int) -> int:
    """How many applications of a user are not deleted."""
    return await _count(connection, "SELECT count(*) FROM userapp WHERE user=? AND deleted_at IS NULL", (user,))


async def add_userapp(
    connection: Connection, app_id: str, secret_hash: bytes, *, user: int, comment: str, now_ms: int
) -> int:
    """Add an application; its row id."""
    cursor = await connection.execute(
        "INSERT INTO userapp (app_id, secret_hash, user, comment, created_at) VALUES (?,?,?,?,?)",
        (app_id, secret_hash, user, comment, now_ms),
    )
    return int(cursor.lastrowid or 0)


async def idle_userapps(connection: Connection, user: int, before_ms: int) -> list[UserappRow]:
    """The applications of a user that are not deleted and were neither made nor used since then, newest first."""
    sql = (
        f"{_USERAPP} WHERE deleted_at IS NULL AND user=? AND coalesce(last_access_at, created_at)<?"
        " ORDER BY created_at DESC, id DESC"
    )
    return [UserappRow(*row) for row in await fetch_all(connection, sql, (user, before_ms))]


async def purge_userapps(connection: Connection, userapps: Iterable[int], now_ms: int) -> None:
    """Delete applications softly and give up their public ids: who comes back with one is somebody new."""
    await connection.executemany(
        "UPDATE userapp SET deleted_at=?, app_id='purged-' || id WHERE id=?",
        [(now_ms, userapp) for userapp in userapps],
    )


async def set_userapp_secret(connection: Connection, userapp: int, secret_hash: bytes) -> None:
    """Replace an application's secret; the old one is void at once."""
    await connection.execute("UPDATE userapp SET secret_hash=? WHERE id=?", (secret_hash, userapp))


async def set_userapp_comment(connection: Connection, userapp: int, comment: str) -> None:
    """Change an application's comment."""
    await connection.execute("UPDATE userapp SET comment=? WHERE id=?", (comment, userapp))


async def set_userapp_ban(connection: Connection, userapp: int, banned_at: int | None, reason: str | None) -> None:
    """Ban an application, or lift the ban with None."""
    await connection.execute("UPDATE userapp SET banned_at=?, banned_reason=? WHERE id=?", (banned_at, reason, userapp))


async def delete_userapp(connection: Connection, userapp: int, now_ms: int) -> None:
    """Delete an application softly: what it reported keeps its origin."""
    await connection.execute("UPDATE userapp SET deleted_at=? WHERE id=?", (now_ms, userapp))


class Visit(NamedTuple):
    """An application was here: when (ms), from which address, and what it calls itself."""

    userapp: int
    at: int
    address: bytes
    user_agent: str


async def write_access(connection: Connection, visits: Iterable[Visit]) -> None:
    """Note last access and user agent of each application, and the addresses that it came from."""
    rows = sorted(visits, key=lambda visit: visit.at)
    latest = {visit.userapp: visit for visit in rows}.values()
    await connection.executemany(
        "UPDATE userapp SET last_access_at=?, user_agent=? WHERE id=?",
        [(visit.at, visit.user_agent, visit.userapp) for visit in latest],
    )
    await connection.executemany(
        "UPDATE user SET last_seen_at=max(coalesce(last_seen_at, 0), ?) WHERE id=(SELECT user FROM userapp WHERE id=?)",
        [(visit.at, visit.userapp) for visit in latest],
    )
    await connection.executemany(
        "INSERT INTO userapp_address VALUES (?,?,?,?)"
        " ON CONFLICT (userapp, address) DO UPDATE SET last_seen_at=excluded.last_seen_at",
        [(visit.userapp, visit.address, visit.at, visit.at) for visit in rows],
    )


async def member_addresses(connection: Connection, now_ms: int, earned: Collection[int]) -> set[bytes]:
    """The addresses of members: those that applications came from within `MEMBER_MS`.

    Banned and deleted applications and banned users are no members; of who registered themselves only those users (row
    ids) are who have `earned` it.
    """
    rows = await fetch_all(
        connection,
        "SELECT DISTINCT s.address FROM userapp_address s JOIN userapp a ON a.id=s.userapp JOIN user u ON u.id=a.user"
        " WHERE s.last_seen_at>=? AND a.banned_at IS NULL AND a.deleted_at IS NULL AND u.banned_at IS NULL"
        f" AND ({_KNOWN} OR u.id IN (SELECT value FROM json_each(?)))",
        (now_ms - MEMBER_MS, json.dumps(sorted(earned))),
    )
    return {row[0] for row in rows}


async def add_session(
    connection: Connection, jti_hash: bytes, user: int, *, now_ms: int, expires_at: int, origin: str
) -> None:
    """Add a session; `origin` says what made it."""
    await connection.execute("INSERT INTO session VALUES (?,?,?,?,?)", (jti_hash, user, now_ms, expires_at, origin))


async def session_user(connection: Connection, jti_hash: bytes, now_ms: int) -> UserRow | None:
    """The user of a live session."""
    row = await fetch_one(
        connection,
        f"{_USER} WHERE id=(SELECT user FROM session WHERE jti_hash=? AND expires_at>?)",
        (jti_hash, now_ms),
    )
    return UserRow(*row) if row else None


async def sessions(connection: Connection, user: int, now_ms: int) -> list[SessionRow]:
    """The live sessions of a user, newest first."""
    rows = await fetch_all(
        connection,
        f"SELECT {', '.join(SessionRow._fields)} FROM session WHERE user=? AND expires_at>? ORDER BY created_at DESC",
        (user, now_ms),
    )
    return [SessionRow(*row) for row in rows]


async def delete_other_sessions(connection: Connection, user: int, jti_hash: bytes) -> int:
    """End all sessions of a user but one; how many."""
    cursor = await connection.execute("DELETE FROM session WHERE user=? AND jti_hash<>?", (user, jti_hash))
    return cursor.rowcount


async def delete_session(connection: Connection, jti_hash: bytes) -> None:
    """End one session."""
    await connection.execute("DELETE FROM session WHERE jti_hash=?", (jti_hash,))


async def delete_sessions_of(connection: Connection, user: int) -> None:
    """End all sessions and void all login links of a user."""
    await connection.execute("DELETE FROM session WHERE user=?", (user,))
    await connection.execute("DELETE FROM login_link WHERE user=?", (user,))


async def add_login_link(connection: Connection, token_hash: bytes, user: int, expires_at: int) -> None:
    """Add a one-time login link."""
    await connection.execute("INSERT INTO login_link VALUES (?,?,?)", (token_hash, user, expires_at))


async def take_login_link(connection: Connection, token_hash: bytes, now_ms: int) -> int | None:
    """The user of a login link, which is used up by this."""
    row = await fetch_one(
        connection, "DELETE FROM login_link WHERE token_hash=? RETURNING user, expires_at", (token_hash,)
    )
    return int(row[0]) if row and row[1] > now_ms else None


async def login_link(connection: Connection, token_hash: bytes, now_ms: int) -> int | None:
    """The user of a login link."""
    row = await fetch_one(
        connection, "SELECT user FROM login_link WHERE token_hash=? AND expires_at>?", (token_hash, now_ms)
    )
    return int(row[0]) if row else None


async def add_oauth_state(
    connection: Connection, state_hash: bytes, verifier_hash: bytes, expires_at: int, now_ms: int
) -> None:
    """Add a login that is under way, and delete what is over or too many."""
    await connection.execute("DELETE FROM oauth_state WHERE expires_at<=?", (now_ms,))
    await connection.execute(
        "DELETE FROM oauth_state WHERE state_hash IN"
        " (SELECT state_hash FROM oauth_state ORDER BY expires_at DESC LIMIT -1 OFFSET ?)",
        (OAUTH_STATES - 1,),
    )
    await connection.execute("INSERT INTO oauth_state VALUES (?,?,?)", (state_hash, verifier_hash, expires_at))


async def take_oauth_state(connection: Connection, state_hash: bytes, now_ms: int) -> bytes | None:
    """The hash of the verifier that belongs to a state, which is used up by this."""
    row = await fetch_one(
        connection, "DELETE FROM oauth_state WHERE state_hash=? RETURNING verifier_hash, expires_at", (state_hash,)
    )
    return bytes(row[0]) if row and row[1] > now_ms else None


async def oauth_state(connection: Connection, state_hash: bytes, now_ms: int) -> bytes | None:
    """The hash of the verifier that belongs to a state."""
    row = await fetch_one(
        connection, "SELECT verifier_hash FROM oauth_state WHERE state_hash=? AND expires_at>?", (state_hash, now_ms)
    )
    return bytes(row[0]) if row else None


async def add_audit(
    connection: Connection,
    *,
    at: int,
    action: str,
    success: bool,
    user: int | None,
    address: str | None,
    user_agent: str | None,
    details: dict[str, object],
) -> None:
    """Record who did what (ms); part of the transaction that does it. `details` holds no secret."""
    text = json.dumps(details, ensure_ascii=False, separators=(",", ":"))
    await connection.execute(
        "INSERT INTO audit (at, action, success, user, address, user_agent, details) VALUES (?,?,?,?,?,?,?)",
        (at, action, int(success), user, address, user_agent, text),
    )


async def audit(connection: Connection, wanted: AuditFilter, position: Position[int], limit: int) -> list[AuditRow]:
    """Audit rows at a position (of ids), newest first."""
    conditions = {
        "action=?": wanted.action,
        "user=?": wanted.user,
        "success=?": wanted.success,
        "at>=?": wanted.time_from,
        "at<=?": wanted.time_to,
    }
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    standing, key = by_id("id", position)
    sql = f"SELECT {', '.join(AuditRow._fields)} FROM audit WHERE {' AND '.join((*asked, standing))} LIMIT ?"
    rows = await fetch_all(connection, sql, (*asked.values(), key, limit))
    return in_order([AuditRow(*row) for row in rows], position)


async def setting(connection: Connection, name: str) -> str | int | None:
    """A value that the program keeps for itself."""
    row = await fetch_one(connection, "SELECT value FROM setting WHERE name=?", (name,))
    return row[0] if row else None


async def settings(connection: Connection, prefix: str) -> dict[str, str]:
    """All values whose names begin with a prefix, by the rest of the name."""
    sql = "SELECT substr(name, ?), value FROM setting WHERE substr(name, 1, ?)=?"
    rows = await fetch_all(connection, sql, (len(prefix) + 1, len(prefix), prefix))
    return {name: str(value) for name, value in rows}


async def set_setting(connection: Connection, name: str, value: str | int) -> None:
    """Store a value in place of the one that stood."""
    await connection.execute("INSERT OR REPLACE INTO setting VALUES (?,?)", (name, value))


async def delete_setting(connection: Connection, name: str) -> None:
    """Forget a value."""
    await connection.execute("DELETE FROM setting WHERE name=?", (name,))


async def has_visitors(connection: Connection) -> bool:
    """Whether any application was ever here."""
    return await fetch_one(connection, "SELECT 1 FROM userapp WHERE last_access_at IS NOT NULL LIMIT 1") is not None


async def keep_setting(connection: Connection, name: str, value: str | int) -> str | int:
    """Store a value unless there is one already; the one that stands."""
    await connection.execute("INSERT OR IGNORE INTO setting VALUES (?,?)", (name, value))
    stored = await setting(connection, name)
    assert stored is not None
    return stored


async def delete_expired(connection: Connection, now_ms: int, audit_before: int, limit: int) -> int:
    """Delete some expired sessions, links, old audit rows, and addresses that are too many; how many rows went."""
    gone = 0
    for sql, before in (
        (
            "userapp_address WHERE (userapp, address) IN (SELECT userapp, address FROM (SELECT userapp, address,"
            " row_number() OVER (PARTITION BY userapp ORDER BY last_seen_at DESC) AS place FROM userapp_address)"
            " WHERE place>?",
            ADDRESSES_PER_USERAPP,
        ),
        ("session WHERE jti_hash IN (SELECT jti_hash FROM session WHERE expires_at<?", now_ms),
        ("login_link WHERE token_hash IN (SELECT token_hash FROM login_link WHERE expires_at<?", now_ms),
        ("oauth_state WHERE state_hash IN (SELECT state_hash FROM oauth_state WHERE expires_at<?", now_ms),
        ("audit WHERE id IN (SELECT id FROM audit WHERE at<? ORDER BY at", audit_before),
    ):
        cursor = await connection.execute(f"DELETE FROM {sql} LIMIT {limit})", (before,))
        gone += cursor.rowcount
    return gone
