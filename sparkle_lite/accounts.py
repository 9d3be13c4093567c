"""People, their applications and their sessions: who may come in, and everything that an account can go through.

The registry of credentials is in memory, so that letting a known application in costs no query. It is read again when
this or another process changes an account. Every change is audited in the transaction that makes it.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import re
import secrets
import time
import unicodedata
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple, Protocol, TypeVar

import jwt

from sparkle_lite.buckets import Buckets, place
from sparkle_lite.config import Auth
from sparkle_lite.db import accounts as store
from sparkle_lite.db import troubles
from sparkle_lite.db.accounts import AuditFilter, AuditRow, CredentialRow, SessionRow, UserappRow, UserRow, Visit
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Command, Database
from sparkle_lite.db.orders import Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.wire.credentials import Presented

T = TypeVar("T")
Role = Literal["user", "admin"]

LOGIN_LINK_MS = 30 * 60_000
OAUTH_STATE_MS = 10 * 60_000
# A little under the minute, so that a job that runs every minute never just misses it.
FLUSH_MS = 55_000
MEMBER_MS = 14 * 86_400_000
USER_AGENT_LENGTH = 256
# The owner of every application that a client without credentials was given.
ANONYMOUS = "anonymous"

_JWT_KEY = "jwt_key"
# No secret has this hash: what an unknown id is compared with, so that it takes as long as a known one.
_NOBODY = bytes(32)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Write(Protocol):
    """Runs a command in a transaction of its own: Database.write, or Writer.write in a server."""

    def __call__(self, command: Command[T], /) -> Awaitable[T]: ...


class Userapp(NamedTuple):
    """An application that was let in: its row id, its public id, its owner's row id."""

    id: int
    app_id: str
    user: int


class Actor(NamedTuple):
    """Who does something to an account: a signed-in user, or the operator (`user` None), named by `by`."""

    user: int | None
    admin: bool
    address: str | None = None
    user_agent: str | None = None
    by: str = ""

    @classmethod
    def of(cls, user: UserRow, address: str | None = None, user_agent: str | None = None) -> "Actor":
        """A user who is signed in."""
        return cls(user.id, user.role == "admin", address, user_agent)


COMMAND_LINE = Actor(None, True, by="command line")
_FIRST_START = Actor(None, True, by="first start")


class NewSecret(NamedTuple):
    """An application with its secret, which is known only now."""

    userapp: UserappRow
    secret: str


class GitHubUser(NamedTuple):
    """An account of GitHub as GitHub vouches for it: `id` never changes, everything else may; `email` is verified."""

    id: int
    login: str
    nickname: str | None = None
    avatar: str | None = None
    email: str | None = None


class OAuthStart(NamedTuple):
    """A login that begins: `state` and `challenge` travel through GitHub, `verifier` stays in the browser's cookie."""

    state: str
    verifier: str
    challenge: str


class Session(NamedTuple):
    """A session of a user, and whether it is the one that asks."""

    row: SessionRow
    current: bool


class FirstStart(NamedTuple):
    """What the operator of a new server needs to know, once."""

    app_id: str
    secret: str
    login_token: str


def now_ms() -> int:
    """The time in ms since the epoch."""
    return time.time_ns() // 1_000_000


def hash_secret(text: str) -> bytes:
    """The SHA-256 of a secret: nothing slower is needed for 256 random bits."""
    return hashlib.sha256(text.encode()).digest()


def new_secret() -> str:
    """256 random bits as 43 characters of A-Z, a-z, 0-9, "_" and "-"."""
    return secrets.token_urlsafe(32)


def peerbanhelper_lines(base_url: str, app_id: str, secret: str) -> str:
    """What to paste into PeerBanHelper's config.yml, as YAML."""
    # A JSON string is a double-quoted YAML string.
    return "\n".join(
        (
            "btn:",
            "  enabled: true",
            "  submit: true",
            f"  config-url: {json.dumps(base_url + '/ping/config')}",
            f"  app-id: {json.dumps(app_id)}",
            f"  app-secret: {json.dumps(secret)}",
        )
    )


class Accounts:
    """The accounts of one server or one command."""

    def __init__(
        self, database: Database, write: Write, auth: Callable[[], Auth], clock: Callable[[], int] = now_ms
    ) -> None:
        self._database = database
        self._write = write
        self._auth = auth
        self._clock = clock
        self._entries: dict[str, tuple[CredentialRow, Userapp]] = {}
        self._generation = 0
        self._version: int | None = None
        self._refreshing = asyncio.Lock()
        self._members: set[bytes] = set()
        self._visits: dict[int, dict[bytes, Visit]] = {}
        self._flushed_at = 0
        self._made_key = ""
        # A client with wrong credentials asks about every minute; thirty at once are a small swarm behind one address.
        self._look_ups = Buckets(burst=30, per_minute=60)
        self._welcomes = Buckets(burst=5, per_minute=0.1)
        self._notes = Buckets(burst=3, per_minute=0.1)
        self._all_notes = Buckets(burst=60, per_minute=6)
        # A household signs in from one address.
        self._logins = Buckets(burst=30, per_minute=10)
        self._seen_users: dict[int, int] = {}

    # --- The registry -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Fill the registry; a server does it once at start, a command that lets nobody in never."""
        self._version = await store.data_version(self._database.main)
        await self.refresh()
        await self._load_members()

    async def poll(self) -> bool:
        """Read the registry again if another process changed the database; whether it did. Costs next to nothing."""
        version = await store.data_version(self._database.main)
        if version == self._version:
            return False
        await self.refresh()
        # Only now: a refresh that failed is tried again.
        self._version = version
        return True

    async def refresh(self) -> None:
        """Read the registry again."""
        async with self._refreshing:
            async with self._database.reader() as connection:
                rows = await store.credentials(connection)
            self._entries = {row.app_id: _entry(row) for row in rows}
            self._generation += 1

    async def _change(self, command: Command[T]) -> T:
        result = await self._write(command)
        if self._version is not None:
            await self.refresh()
        return result

    # --- Letting clients in -------------------------------------------------------------------------------------------

    def known(self, presented: Presented) -> Userapp | None:
        """The application, if memory alone lets it in; else `authenticate` decides."""
        answer = self._recall(presented)
        return None if isinstance(answer, SparkleError) else answer

    def _recall(self, presented: Presented) -> Userapp | SparkleError | None:
        if not presented.app_id:
            refusal = self._nameless(presented)
            if refusal is not None:
                return refusal
            presented = _anonymous(presented.installation_id)
        entry = self._entries.get(presented.app_id)
        if entry is None or not hmac.compare_digest(hash_secret(presented.secret), entry[0].secret_hash):
            return None
        return _admit(entry)

    async def authenticate(self, presented: Presented, address: str, *, register: bool = True) -> Userapp:
        """Let an application in.

        A client without credentials gets one of its own; a new one gets row id 0 where `register` is False. What memory
        doesn't know costs one read by primary key and is remembered only if it is right; `address` may cause thirty of
        those at once, then one a second. Raises SparkleError: forbidden, or too_many.
        """
        answer = self._recall(presented)
        if answer is None:
            answer = await self._look_up(presented, address, register)
        if isinstance(answer, SparkleError):
            raise answer
        return answer

    def _nameless(self, presented: Presented) -> SparkleError | None:
        if not presented.installation_id:
            return _placeholder() if presented.placeholder else _nothing()
        return None if self._auth().anonymous_apps else _no_anonymous()

    async def _look_up(self, presented: Presented, address: str, register: bool) -> Userapp | SparkleError:
        source = place(address)
        wait = self._look_ups.take(source, self._clock())
        if wait:
            return _too_many(wait)
        generation = self._generation
        nameless = not presented.app_id
        if nameless:
            presented = _anonymous(presented.installation_id)
        async with self._database.reader() as connection:
            row = await store.credential(connection, presented.app_id)
            if row is None and nameless and not register:
                is_void = await store.is_app_id_used(connection, presented.app_id)
                return _no_anonymous() if is_void else Userapp(0, presented.app_id, 0)
        if row is None and nameless:
            row = await self._welcome(presented, source)
        right = hmac.compare_digest(hash_secret(presented.secret), row.secret_hash if row else _NOBODY)
        if row is None or not right:
            return _no_anonymous() if nameless else _wrong()
        entry = _entry(row)
        if generation == self._generation:
            self._entries[presented.app_id] = entry
        return _admit(entry)

    async def _welcome(self, presented: Presented, source: Hashable) -> CredentialRow | None:
        """The row of a client without credentials, made when it is new: such clients open with several requests."""

        async def command(connection: Connection) -> CredentialRow | None:
            row = await store.credential(connection, presented.app_id)
            if row is not None:
                return row
            wait = self._welcomes.take(source, self._clock())
            if wait:
                raise _too_many(wait)
            owner = await store.user_by_name(connection, ANONYMOUS)
            user = owner.id if owner else await store.add_user(connection, ANONYMOUS, "user", "self", self._clock())
            if not await store.is_app_id_used(connection, presented.app_id):
                secret_hash, comment = hash_secret(presented.secret), "Client without credentials"
                await store.add_userapp(connection, presented.app_id, secret_hash, user, comment, self._clock())
            return await store.credential(connection, presented.app_id)

        return await self._write(command)

    async def note_refusal(
        self, action: str, presented: Presented, address: str, user_agent: str, error: SparkleError
    ) -> None:
        """Audit a refused request of a client.

        Of the credentials only an id that looks like one is noted: people paste secrets into the wrong field.
        """
        await self.note_failure(action, Actor(None, False, address, user_agent), error, **_named(presented.app_id))

    async def note_failure(self, action: str, actor: Actor, error: SparkleError, **details: object) -> None:
        """Audit what was refused: a few for each address, about six an hour after that, and bounded over all."""
        now = self._clock()
        if self._notes.take(place(actor.address or ""), now) or self._all_notes.take("all", now):
            return
        details["error"] = error.message
        await self._write(lambda connection: self._audit(connection, action, actor, details, success=False))

    @asynccontextmanager
    async def _noting(self, action: str, actor: Actor, **details: object) -> AsyncIterator[None]:
        """Audit what the block does in the case that it is refused; what it does itself is audited where it is done."""
        try:
            yield
        except SparkleError as error:
            if error.code in ("forbidden", "quota"):
                await self.note_failure(action, actor, error, **details)
            raise

    # --- What clients leave behind ------------------------------------------------------------------------------------

    def saw(self, userapp: Userapp, address: bytes, user_agent: str) -> bool:
        """Note a request of an application; whether its address is new among those of the last 14 days.

        A new one must not be in the published rules: they never list a member's address.
        """
        visits = self._visits.setdefault(userapp.id, {})
        if address not in visits and len(visits) >= store.ADDRESSES_PER_USERAPP:
            return False
        visits[address] = Visit(userapp.id, self._clock(), address, user_agent[:USER_AGENT_LENGTH])
        if address in self._members:
            return False
        self._members.add(address)
        return True

    async def flush(self, *, now: bool = False) -> None:
        """Write who was here, at most once a minute unless `now`; a failed write is tried again next time."""
        if not (self._visits or self._seen_users) or (self._clock() - self._flushed_at < FLUSH_MS and not now):
            return
        self._flushed_at = self._clock()
        visits, self._visits = self._visits, {}
        seen, self._seen_users = self._seen_users, {}
        rows = [
            visit._replace(user_agent=_printable(visit.user_agent)) for app in visits.values() for visit in app.values()
        ]

        async def command(connection: Connection) -> None:
            await store.write_access(connection, rows)
            await store.set_users_seen(connection, seen.items())

        try:
            await self._write(command)
        except BaseException:
            self._seen_users = seen | self._seen_users
            for userapp, addresses in visits.items():
                self._visits[userapp] = addresses | self._visits.get(userapp, {})
            raise
        await self._load_members()

    async def _load_members(self) -> None:
        async with self._database.reader() as connection:
            addresses = await store.member_addresses(connection, self._clock() - MEMBER_MS)
        self._members = {*addresses, *(address for app in self._visits.values() for address in app)}

    def last_visit(self, userapp: int) -> Visit | None:
        """The latest request of an application (row id) that is not in the database yet."""
        return max(self._visits.get(userapp, {}).values(), key=lambda visit: visit.at, default=None)

    # --- Users --------------------------------------------------------------------------------------------------------

    async def first_start(self) -> FirstStart | None:
        """On a database without users: the user "admin" and an application of theirs, in one transaction."""
        async with self._database.reader() as connection:
            if await store.has_users(connection):
                return None

        async def command(connection: Connection) -> FirstStart | None:
            if await store.has_users(connection):
                return None
            user = await self._add_user(connection, "admin", "admin", _FIRST_START)
            app = await self._add_app(connection, user, "First start", _FIRST_START)
            token = new_secret()
            await store.add_login_link(connection, hash_secret(token), user.id, self._clock() + LOGIN_LINK_MS)
            return FirstStart(app.userapp.app_id, app.secret, token)

        return await self._change(command)

    async def users(self) -> list[UserRow]:
        """All users, oldest first."""
        async with self._database.reader() as connection:
            return await store.users(connection)

    async def users_page(self, page: int, size: int) -> tuple[list[UserRow], int]:
        """One page of all users, oldest first, and how many there are; pages count from 0."""
        async with self._database.reader() as connection:
            rows = await store.users_page(connection, _offset(page, size), size)
            return rows, await store.count_users(connection)

    async def user(self, user: int) -> UserRow:
        """A user by row id. Raises SparkleError: not_found."""
        async with self._database.reader() as connection:
            return await _user(connection, user)

    async def user_named(self, name: str) -> UserRow:
        """A user by name, whatever its case. Raises SparkleError: not_found."""
        async with self._database.reader() as connection:
            row = await store.user_by_name(connection, _storable(name))
        if row is None:
            raise SparkleError("not_found", f"There is no user named {name!r}.", f"没有名为 {name!r} 的用户。")
        return row

    async def add_user(self, name: str, role: Role, actor: Actor) -> UserRow:
        """Add a local user: 1-64 characters. Raises SparkleError: bad_request, conflict, forbidden."""
        _admins_only(actor)
        if store.name_key(name) == ANONYMOUS:
            raise SparkleError(
                "bad_request", f"The name {ANONYMOUS!r} is reserved; choose another.", "此名称已被保留。"
            )
        return await self._change(lambda connection: self._add_user(connection, name, role, actor))

    async def _add_user(self, connection: Connection, name: str, role: Role, actor: Actor) -> UserRow:
        _check_name(name)
        taken = await store.user_by_name(connection, name)
        if taken is not None:
            raise SparkleError(
                "conflict", f"There is a user named {taken.name!r} already.", f"已有名为 {taken.name!r} 的用户。"
            )
        user = await store.add_user(connection, name, role, "admin", self._clock())
        await self._audit(connection, "USER_CREATE", actor, {"user": user, "name": name, "role": role})
        return await _user(connection, user)

    async def rename(self, user: int, nickname: str, actor: Actor) -> None:
        """Change what a user is called on pages ("": their name).

        Raises SparkleError: bad_request, forbidden, conflict where it is somebody else's.
        """
        if actor.user != user:
            _admins_only(actor)
        wanted = nickname.strip()
        if wanted:
            _check_name(wanted)

        async def command(connection: Connection) -> None:
            row = await _user(connection, user)
            owner = await store.user_by_name(connection, wanted) if wanted else None
            if store.name_key(wanted) == ANONYMOUS or (owner is not None and owner.id != user):
                raise SparkleError(
                    "conflict", f"There is already a user named {wanted}.", f"已存在名为 {wanted} 的用户。"
                )
            shown = wanted if wanted != row.name else ""
            await store.set_nickname(connection, user, shown or None)
            await self._audit(connection, "USER_RENAME", actor, {"user": row.id, "name": row.name, "nickname": shown})

        await self._write(command)

    async def ban_user(self, user: int, reason: str, actor: Actor) -> None:
        """Lock a user out everywhere: sessions end, login links and applications are void until `unban_user`."""
        _admins_only(actor)
        text = _line(reason, "reason", "封禁原因")

        async def command(connection: Connection) -> None:
            row = await _user(connection, user)
            await _not_the_last_admin(connection, row, actor)
            await store.set_user_ban(connection, user, self._clock(), text)
            await store.delete_sessions_of(connection, user)
            await self._audit(connection, "USER_BAN", actor, {"user": user, "name": row.name, "reason": text})

        await self._change(command)

    async def unban_user(self, user: int, actor: Actor) -> None:
        """Let a user in again."""
        _admins_only(actor)

        async def command(connection: Connection) -> None:
            row = await _user(connection, user)
            await store.set_user_ban(connection, user, None, None)
            await self._audit(connection, "USER_UNBAN", actor, {"user": user, "name": row.name})

        await self._change(command)

    async def set_role(self, user: int, role: Role, actor: Actor) -> None:
        """Make a user an administrator, or no longer. Raises conflict for the last one, unless the operator asks."""
        _admins_only(actor)

        async def command(connection: Connection) -> None:
            row = await _user(connection, user)
            if role != "admin":
                await _not_the_last_admin(connection, row, actor)
            await store.set_user_role(connection, user, role)
            await self._audit(connection, "USER_ROLE", actor, {"user": user, "name": row.name, "role": role})

        await self._change(command)

    # --- Applications -------------------------------------------------------------------------------------------------

    async def apps(self, user: int | None = None) -> list[UserappRow]:
        """The applications of a user, or all, newest first."""
        async with self._database.reader() as connection:
            return await store.userapps(connection, user)

    async def apps_page(self, page: int, size: int) -> tuple[list[tuple[UserappRow, UserRow]], int]:
        """One page of all applications, newest first, with their owners, and how many there are."""
        async with self._database.reader() as connection:
            rows = await store.userapps_page(connection, _offset(page, size), size)
            return rows, await store.count_all_userapps(connection)

    async def app(self, app_id: str, actor: Actor) -> UserappRow:
        """One application of the actor's own, or any for an administrator. Raises not_found, forbidden."""
        async with self._database.reader() as connection:
            return await _app(connection, app_id, actor)

    async def add_app(self, user: int, comment: str, actor: Actor) -> NewSecret:
        """Give a user an application; comments have 1-255 characters. Raises SparkleError: quota among others."""
        text = _line(comment, "comment", "备注")

        async def command(connection: Connection) -> NewSecret:
            owner = await _user(connection, user)
            if actor.user != owner.id:
                _admins_only(actor)
            if await store.count_userapps(connection, user) >= self._auth().max_apps_per_user:
                raise _quota(owner.name, self._auth().max_apps_per_user)
            return await self._add_app(connection, owner, text, actor)

        async with self._noting("USERAPP_CREATE", actor, userId=actor.user):
            return await self._change(command)

    async def _add_app(self, connection: Connection, owner: UserRow, comment: str, actor: Actor) -> NewSecret:
        app_id, secret = str(uuid.uuid4()), new_secret()
        await store.add_userapp(connection, app_id, hash_secret(secret), owner.id, comment, self._clock())
        row = await _app(connection, app_id, actor)
        await self._audit_app(connection, "USERAPP_CREATE", row, actor, userAppId=row.id)
        return NewSecret(row, secret)

    async def edit_app(self, app_id: str, comment: str, actor: Actor) -> UserappRow:
        """Change an application's comment (1-255 characters)."""
        text = _line(comment, "comment", "备注")

        async def command(connection: Connection) -> UserappRow:
            row = await _app(connection, app_id, actor)
            await store.set_userapp_comment(connection, row.id, text)
            await self._audit_app(connection, "USERAPP_EDIT", row, actor, userAppOld=row.comment, userAppNew=text)
            return row._replace(comment=text)

        async with self._noting("USERAPP_EDIT", actor, **_named(app_id)):
            return await self._change(command)

    async def reset_app(self, app_id: str, actor: Actor) -> NewSecret:
        """A new secret for an application; the old one is void at once."""
        secret = new_secret()

        async def command(connection: Connection) -> NewSecret:
            row = await _app(connection, app_id, actor)
            await store.set_userapp_secret(connection, row.id, hash_secret(secret))
            await self._audit_app(connection, "USERAPP_RESET_SECRET", row, actor)
            return NewSecret(row._replace(secret_hash=hash_secret(secret)), secret)

        async with self._noting("USERAPP_RESET_SECRET", actor, **_named(app_id)):
            return await self._change(command)

    async def ban_app(self, app_id: str, reason: str, actor: Actor) -> None:
        """Refuse an application until `unban_app`."""
        _admins_only(actor)
        text = _line(reason, "reason", "封禁原因")

        async def command(connection: Connection) -> None:
            row = await _app(connection, app_id, actor)
            await store.set_userapp_ban(connection, row.id, self._clock(), text)
            await self._audit_app(connection, "USERAPP_BAN", row, actor, reason=text)

        await self._change(command)

    async def unban_app(self, app_id: str, actor: Actor) -> None:
        """Let an application in again."""
        _admins_only(actor)

        async def command(connection: Connection) -> None:
            row = await _app(connection, app_id, actor)
            await store.set_userapp_ban(connection, row.id, None, None)
            await self._audit_app(connection, "USERAPP_UNBAN", row, actor)

        await self._change(command)

    async def delete_app(self, app_id: str, actor: Actor) -> None:
        """Delete an application; its reports keep their origin. Its owner can't shed a ban like that."""

        async def command(connection: Connection) -> None:
            row = await _app(connection, app_id, actor)
            if row.banned_at is not None and not actor.admin:
                raise _app_banned(row.banned_reason or "")
            await store.delete_userapp(connection, row.id, self._clock())
            await troubles.forget(connection, [row.id])
            await self._audit_app(connection, "USERAPP_DELETE", row, actor, userAppId=row.id)

        async with self._noting("USERAPP_DELETE", actor, **_named(app_id)):
            await self._change(command)

    async def idle_anonymous(self, unused_ms: int) -> list[UserappRow]:
        """Applications of clients without credentials that nobody used for so long (ms), newest first."""
        async with self._database.reader() as connection:
            return await self._idle_anonymous(connection, unused_ms)

    async def purge_anonymous(self, unused_ms: int, actor: Actor) -> list[UserappRow]:
        """Delete those applications; a client that comes back is welcomed as a new one. What they were."""
        _admins_only(actor)

        async def command(connection: Connection) -> list[UserappRow]:
            rows = await self._idle_anonymous(connection, unused_ms)
            if rows:
                await store.purge_userapps(connection, (row.id for row in rows), self._clock())
                await troubles.forget(connection, (row.id for row in rows))
                await self._audit(connection, "USERAPP_PURGE", actor, {"userApps": len(rows), "unusedMs": unused_ms})
            return rows

        return await self._change(command)

    async def _idle_anonymous(self, connection: Connection, unused_ms: int) -> list[UserappRow]:
        owner = await store.user_by_name(connection, ANONYMOUS)
        return await store.idle_userapps(connection, owner.id, self._clock() - unused_ms) if owner else []

    async def _audit_app(
        self, connection: Connection, action: str, row: UserappRow, actor: Actor, **more: object
    ) -> None:
        details = {"appId": row.app_id, "userAppOwner": row.user, "userId": actor.user, **more}
        await self._audit(connection, action, actor, details)

    # --- Sessions -----------------------------------------------------------------------------------------------------

    async def session_token(self, user: UserRow, origin: str, actor: Actor | None = None) -> str:
        """Sign a user in: a JWT that lives for `session_lifetime`.

        `origin` says how it was shown who they are; without `actor` they did it themselves. Raises SparkleError:
        forbidden.
        """
        key = await self._key()
        claims = await self._write(lambda connection: self._begin(connection, user.id, origin, actor))
        return jwt.encode(claims, key, algorithm="HS256")

    async def _begin(self, connection: Connection, user: int, origin: str, actor: Actor | None) -> dict[str, str | int]:
        """Begin a session; what its token says."""
        jti, now = new_secret(), self._clock()
        expires_at = now + self._auth().session_lifetime
        row = _let_in(await _user(connection, user))
        await store.add_session(connection, hash_secret(jti), row.id, now, expires_at, origin)
        details = {
            "user": row.id,
            "name": row.name,
            "github": row.github_id,
            "githubLogin": row.github_login,
            "origin": origin,
        }
        known = {key: value for key, value in details.items() if value is not None}
        await self._audit(connection, "USER_LOGIN", actor or Actor.of(row), known)
        return {"sub": str(row.id), "jti": jti, "iat": now // 1000, "exp": expires_at // 1000}

    async def session_user(self, token: str, *, note: bool = True) -> UserRow:
        """Whose session this is, and `note` that they were here.

        Raises SparkleError (forbidden) when it is none, is over, or its user is banned.
        """
        claims = await self._claims(token)
        if claims is None:
            raise _not_signed_in()
        async with self._database.reader() as connection:
            row = await store.session_user(connection, hash_secret(claims["jti"]), self._clock())
            if row is None or str(row.id) != claims["sub"]:
                raise await _why_over(connection, claims["sub"])
        if note:
            self._seen_users[row.id] = self._clock()
        return _let_in(row)

    async def sessions(self, token: str) -> list[Session]:
        """The sessions of whose session this is, newest first."""
        claims = await self._claims(token)
        if claims is None:
            raise _not_signed_in()
        async with self._database.reader() as connection:
            rows = await store.sessions(connection, int(claims["sub"]), self._clock())
        return [Session(row, row.jti_hash == hash_secret(claims["jti"])) for row in rows]

    async def log_out_others(self, token: str, actor: Actor) -> int:
        """End all sessions of a user but this one; how many."""
        claims = await self._claims(token)
        if claims is None:
            raise _not_signed_in()
        user, jti_hash = int(claims["sub"]), hash_secret(claims["jti"])

        async def command(connection: Connection) -> int:
            row = await _user(connection, user)
            ended = await store.delete_other_sessions(connection, user, jti_hash)
            await self._audit(connection, "LOGOUT", actor, {"user": user, "name": row.name, "others": ended})
            return ended

        return await self._write(command)

    async def sessions_of(self, user: int) -> list[SessionRow]:
        """The sessions of somebody, newest first."""
        async with self._database.reader() as connection:
            return await store.sessions(connection, user, self._clock())

    async def log_out_user(self, user: int, actor: Actor) -> None:
        """End all sessions of somebody and void their login links. Raises SparkleError: forbidden, not_found."""
        _admins_only(actor)

        async def command(connection: Connection) -> None:
            row = await _user(connection, user)
            ended = len(await store.sessions(connection, user, self._clock()))
            await store.delete_sessions_of(connection, user)
            await self._audit(connection, "LOGOUT", actor, {"user": user, "name": row.name, "sessions": ended})

        await self._write(command)

    async def log_out(self, token: str, actor: Actor) -> None:
        """End a session; one that is over already is fine."""
        claims = await self._claims(token)
        if claims is None:
            return
        jti_hash = hash_secret(claims["jti"])

        async def command(connection: Connection) -> None:
            row = await store.session_user(connection, jti_hash, self._clock())
            await store.delete_session(connection, jti_hash)
            if row is not None:
                await self._audit(connection, "LOGOUT", actor._replace(user=row.id), {"user": row.id, "name": row.name})

        await self._write(command)

    async def _claims(self, token: str) -> dict[str, str] | None:
        """The claims of a token that we signed. Its end is the session row's business, so that one clock decides."""
        options: jwt.types.Options = {
            "require": ["sub", "jti", "iat", "exp"],
            "verify_exp": False,
            "verify_iat": False,
        }
        key = await self._known_key()
        if not key:
            return None
        try:
            return jwt.decode(token, key, algorithms=["HS256"], options=options)
        except (jwt.InvalidTokenError, ValueError):
            return None

    async def _key(self) -> str:
        """What signs the tokens: from the configuration, else made once and kept in the database."""
        key = await self._known_key()
        if not key:
            made = new_secret()
            key = str(await self._write(lambda connection: store.keep_setting(connection, _JWT_KEY, made)))
        return key

    async def _known_key(self) -> str:
        """The same, but "" as long as none was made: then there is no token to read."""
        configured = self._auth().jwt_secret
        if configured:
            return configured
        if not self._made_key:
            async with self._database.reader() as connection:
                self._made_key = str(await store.setting(connection, _JWT_KEY) or "")
        return self._made_key

    async def login_link(self, user: int, actor: Actor = COMMAND_LINE) -> str:
        """The token of a login link: good once, for 30 minutes."""
        _admins_only(actor)
        token = new_secret()

        async def command(connection: Connection) -> None:
            row = _let_in(await _user(connection, user))
            await store.add_login_link(connection, hash_secret(token), user, self._clock() + LOGIN_LINK_MS)
            await self._audit(connection, "LOGIN_LINK_CREATE", actor, {"user": row.id, "name": row.name})

        await self._write(command)
        return token

    async def use_login_link(self, token: str) -> UserRow:
        """Whose login link this is; it is used up by this. Raises SparkleError: forbidden."""

        async def command(connection: Connection) -> UserRow | None:
            user = await store.take_login_link(connection, hash_secret(_storable(token)), self._clock())
            return None if user is None else await _user(connection, user)

        return _owner(await self._write(command))

    async def login_link_user(self, token: str) -> UserRow:
        """Whose login link this is, without using it up. Raises SparkleError: forbidden."""
        async with self._database.reader() as connection:
            user = await store.login_link(connection, hash_secret(_storable(token)), self._clock())
            return _owner(None if user is None else await _user(connection, user))

    def limit_login(self, address: str) -> None:
        """Count an attempt to sign in. Raises SparkleError (too_many) beyond thirty at once or ten a minute."""
        wait = self._logins.take(place(address), self._clock())
        if wait:
            raise _too_many_logins(wait)

    async def start_oauth(self, *, keep: bool = True) -> OAuthStart:
        """Begin a login with GitHub, to be ended by `finish_oauth` within 10 minutes unless `keep` is False.

        The verifier of PKCE (RFC 7636) is also what binds the login to the browser: only its cookie has it, here
        stands its SHA-256, which is the challenge.
        """
        state, verifier = new_secret(), new_secret()
        digest, now = hash_secret(verifier), self._clock()
        if keep:
            until = now + OAUTH_STATE_MS
            await self._write(
                lambda connection: store.add_oauth_state(connection, hash_secret(state), digest, until, now)
            )
        return OAuthStart(state, verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())

    async def finish_oauth(self, state: str, verifier: str) -> None:
        """Use up a login's state. Raises SparkleError (forbidden) unless this browser began it, and not long ago."""
        digest = await self._write(
            lambda connection: store.take_oauth_state(connection, hash_secret(_storable(state)), self._clock())
        )
        _require_verifier(verifier, digest)

    async def check_oauth(self, state: str, verifier: str) -> None:
        """Raises as `finish_oauth` does, and uses nothing up."""
        async with self._database.reader() as connection:
            digest = await store.oauth_state(connection, hash_secret(_storable(state)), self._clock())
        _require_verifier(verifier, digest)

    async def sign_in_github(self, github: GitHubUser, actor: Actor) -> str:
        """The session token of whoever has this account of GitHub, who is registered when new.

        Only the numeric id counts: a login name changes hands. Raises SparkleError (forbidden) for a banned user.
        """
        key = await self._key()

        async def command(connection: Connection) -> dict[str, str | int]:
            row = await store.user_by_github_id(connection, github.id)
            user = await self._register(connection, github, actor) if row is None else _let_in(row).id
            nickname = await _nickname(connection, github, user)
            await store.set_github(
                connection, user, github.id, _clean(github.login), nickname, github.avatar, github.email
            )
            await store.set_users_seen(connection, [(user, self._clock())])
            return await self._begin(connection, user, "GitHub", actor._replace(user=user))

        return jwt.encode(await self._write(command), key, algorithm="HS256")

    async def _register(self, connection: Connection, github: GitHubUser, actor: Actor) -> int:
        name = await _free_name(connection, _clean(github.login) or "github")
        user = await store.add_user(connection, name, "user", "self", self._clock())
        details = {"user": user, "name": name, "role": "user", "github": github.id}
        await self._audit(connection, "USER_CREATE", actor._replace(user=user), details)
        return user

    # --- Audit --------------------------------------------------------------------------------------------------------

    async def _audit(
        self, connection: Connection, action: str, actor: Actor, details: dict[str, object], *, success: bool = True
    ) -> None:
        if actor.by:
            details = {**details, "by": actor.by}
        agent = None if actor.user_agent is None else _printable(actor.user_agent[:USER_AGENT_LENGTH])
        await store.add_audit(connection, self._clock(), action, success, actor.user, actor.address, agent, details)

    async def audit(self, wanted: AuditFilter, position: Position[int], limit: int) -> list[AuditRow]:
        """What was done and refused, at a position (of ids), newest first."""
        async with self._database.reader() as connection:
            return await store.audit(connection, wanted, position, limit)


def _anonymous(installation_id: str) -> Presented:
    """The credentials that stand for an installation id.

    No header can hold the line break, so nobody can present them as those of a named application.
    """
    secret = f"\n{installation_id}"
    return Presented(str(uuid.UUID(bytes=hash_secret(f"installation{secret}")[:16], version=5)), secret)


def _entry(row: CredentialRow) -> tuple[CredentialRow, Userapp]:
    return row, Userapp(row.userapp, row.app_id, row.user)


def _admit(entry: tuple[CredentialRow, Userapp]) -> Userapp | SparkleError:
    row, userapp = entry
    if row.user_banned_reason is not None:
        return _user_banned(row.user_banned_reason)
    if row.app_banned_reason is not None:
        return _app_banned(row.app_banned_reason)
    return userapp


def _owner(row: UserRow | None) -> UserRow:
    """Whose login link it was or is. Raises SparkleError: forbidden."""
    if row is None:
        raise _used_up()
    return _let_in(row)


def _require_verifier(verifier: str, digest: bytes | None) -> None:
    """Refuse a verifier that doesn't have this hash; None is that of no login."""
    right = hmac.compare_digest(hash_secret(_storable(verifier)), digest or _NOBODY)
    if digest is None or not right:
        raise _other_login()


async def _user(connection: Connection, user: int) -> UserRow:
    row = await store.user_by_id(connection, user) if 0 < user < 1 << 63 else None
    if row is None:
        raise SparkleError("not_found", "Unable to find requested user")
    return row


async def _app(connection: Connection, app_id: str, actor: Actor) -> UserappRow:
    row = await store.userapp_by_app_id(connection, _storable(app_id))
    if row is None:
        raise SparkleError("not_found", "The requested user application doesn't exist.", "请求的用户应用程序不存在")
    if actor.user != row.user:
        _admins_only(actor)
    return row


def _admins_only(actor: Actor) -> None:
    if not actor.admin:
        raise SparkleError("forbidden", "Access denied: this takes an administrator.", "拒绝访问")


async def _not_the_last_admin(connection: Connection, row: UserRow, actor: Actor) -> None:
    """Keep somebody who can undo it; the operator's command line always can."""
    if actor.user is None or row.role != "admin" or await store.count_other_admins(connection, row.id):
        return
    raise SparkleError(
        "conflict",
        f"{row.name} is the last administrator; make somebody else one first.",
        f"{row.name} 是最后一名管理员，请先指定其他管理员。",
    )


async def _why_over(connection: Connection, subject: str) -> SparkleError:
    """Why a token that we signed has no session: a ban ends sessions and should be told."""
    if subject.isascii() and subject.isdecimal() and len(subject) < 19:
        row = await store.user_by_id(connection, int(subject))
        if row is not None and row.banned_at is not None:
            return _user_banned(row.banned_reason or "")
    return _not_signed_in()


async def _free_name(connection: Connection, wanted: str) -> str:
    """A name that nobody has: the wanted one, or with a number behind it."""
    for number in itertools.count(1):
        name = wanted if number == 1 else f"{wanted[:50]}-{number}"
        if store.name_key(name) != ANONYMOUS and await store.user_by_name(connection, name) is None:
            return name
    raise AssertionError("numbers don't end")


async def _nickname(connection: Connection, github: GitHubUser, user: int) -> str | None:
    """What to show instead of the name, unless it is somebody else's."""
    for text in (_clean(github.nickname or ""), _clean(github.login)):
        if text and store.name_key(text) != ANONYMOUS:
            owner = await store.user_by_name(connection, text)
            if owner is None or owner.id == user:
                return text
    return None


def _let_in(user: UserRow) -> UserRow:
    if user.banned_at is not None:
        raise _user_banned(user.banned_reason or "")
    return user


# --- Texts ------------------------------------------------------------------------------------------------------------


def _is_line(text: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def _clean(text: str) -> str:
    """A name from elsewhere as one that `_check_name` takes, or ""."""
    return "".join(char for char in _printable(text) if unicodedata.category(char) != "Cf")[:64].strip()


def _named(app_id: str) -> dict[str, object]:
    return {"appId": app_id} if _UUID.fullmatch(app_id) else {}


def _offset(page: int, size: int) -> int:
    """How many rows come before a page; no more than SQLite can count."""
    return min(page * size, (1 << 63) - 1)


def _printable(text: str) -> str:
    return "".join(char for char in text if _is_line(char)).strip()


def _storable(text: str) -> str:
    """Text for a look-up: SQLite refuses lone surrogates, and nothing is stored under a text that has one."""
    return text.encode(errors="replace").decode()


def _check_name(name: str) -> None:
    # Cf: marks that can't be seen, with which a name looks like another one.
    fits = 1 <= len(name) <= 64 and name == name.strip() and _is_line(name)
    if not fits or any(unicodedata.category(char) == "Cf" for char in name):
        raise SparkleError(
            "bad_request",
            "A user's name has 1 to 64 characters, no control characters and no blank at its begin or end.",
            "用户名须为 1 至 64 个字符，不能包含控制字符，首尾不能是空格。",
        )


def _line(text: str, name: str, name_zh: str) -> str:
    stripped = text.strip()
    if not 1 <= len(stripped) <= 255 or not _is_line(stripped):
        raise SparkleError(
            "bad_request",
            f"The {name} must have 1 to 255 characters and no control characters.",
            f"{name_zh}须为 1 至 255 个字符，且不能包含控制字符。",
        )
    return stripped


# --- Refusals: made anew each time, because raising an error twice makes its traceback grow ---------------------------


def _nothing() -> SparkleError:
    return SparkleError(
        "forbidden",
        "Access denied: the request carries no credentials; put this server's app-id and app-secret into the client.",
        "拒绝访问：请求未携带凭据，请在客户端中填写本服务器的 app-id 和 app-secret。",
    )


def _placeholder() -> SparkleError:
    return SparkleError(
        "forbidden",
        "Access denied: replace the example credentials in the client by an app-id and app-secret of this server.",
        "拒绝访问：请将客户端中的示例凭据替换为本服务器的 app-id 和 app-secret。",
    )


def _no_anonymous() -> SparkleError:
    return SparkleError(
        "forbidden",
        "Access denied: this server takes no anonymous clients; get an app-id and app-secret on its page or from its "
        "operator and put both into the client.",
        "拒绝访问：本服务器不接受匿名客户端，请在服务器页面或向管理员获取 app-id 和 app-secret，并填写到客户端中。",
    )


def _wrong() -> SparkleError:
    return SparkleError(
        "forbidden",
        "Access denied: this app-id and app-secret are not valid here.",
        "拒绝访问：app-id 或 app-secret 无效。",
    )


def _too_many(seconds: int) -> SparkleError:
    return SparkleError(
        "too_many",
        "Too many requests with unknown credentials came from this address; try again later.",
        "来自此地址的无效凭据请求过多，请稍后再试。",
        retry_after=seconds,
    )


def _too_many_logins(seconds: int) -> SparkleError:
    return SparkleError(
        "too_many",
        "Too many attempts to sign in came from this address; try again later.",
        "来自此地址的登录尝试过多，请稍后再试。",
        retry_after=seconds,
    )


def _other_login() -> SparkleError:
    return SparkleError(
        "forbidden",
        "This sign-in was not begun in this browser, is older than 10 minutes, or was used already; begin again.",
        "此登录请求并非由本浏览器发起、已超过 10 分钟或已被使用，请重新登录。",
    )


def _app_banned(reason: str) -> SparkleError:
    return SparkleError(
        "forbidden",
        f"This user application was banned by an administrator ({reason}).",
        f"UserApplication 已被管理员封禁，请与服务器管理员联系（原因：{reason}）。",
    )


def _user_banned(reason: str) -> SparkleError:
    return SparkleError(
        "forbidden",
        f"This user was banned by an administrator ({reason}).",
        f"此用户已被管理员停用，请与系统管理员联系以获取更多信息（原因：{reason}）。",
    )


def _quota(name: str, limit: int) -> SparkleError:
    return SparkleError(
        "quota",
        f"{name} has reached the limit of {limit} user applications (auth.max_apps_per_user).",
        "您所拥有的用户应用程序数量已达上限",
    )


def _not_signed_in() -> SparkleError:
    return SparkleError(
        "forbidden",
        "You are not signed in, or the session is over; sign in again.",
        "未登录或会话已过期，请转到首页登录",
    )


def _used_up() -> SparkleError:
    return SparkleError(
        "forbidden",
        "This login link was used already or is older than 30 minutes; ask for a new one.",
        "此登录链接已被使用或已超过 30 分钟，请重新获取。",
    )
