"""Sessions: how they begin (login links, GitHub) and end (signing out, in time; a ban: users.py), and their tokens."""

import base64
import hmac
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jwt

from sparkle_lite.accounts.actors import COMMAND_LINE, Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.registry import ANONYMOUS, Registry, user_banned
from sparkle_lite.accounts.secrets import DUMMY_HASH, hash_secret, new_secret
from sparkle_lite.accounts.texts import clean_name, storable
from sparkle_lite.accounts.users import find_user, require_not_banned
from sparkle_lite.config import AuthSection
from sparkle_lite.db import accounts as store
from sparkle_lite.db.accounts import SessionRow, UserRow
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.errors import SparkleError
from sparkle_lite.rate_limits import Buckets, client_key
from sparkle_lite.units import MINUTE_MS

LOGIN_LINK_MS = 30 * MINUTE_MS
OAUTH_STATE_MS = 10 * MINUTE_MS
_JWT_KEY = "jwt_key"
# Ours have some 250 characters.
_LONGEST_TOKEN = 1024

_Claims = dict[str, str | int]


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


class Sessions:
    """The sessions of one server or one command."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        registry: Registry,
        auth: Callable[[], AuthSection],
        clock: Callable[[], int],
    ) -> None:
        self.database = database
        self._audit = audit
        self._registry = registry
        self._auth = auth
        self._clock = clock
        self._made_key = ""
        # A household signs in from one address.
        self._logins = Buckets(burst=30, per_minute=10)

    # --- Tokens -------------------------------------------------------------------------------------------------------

    async def sign_in(self, user: UserRow, origin: str, actor: Actor | None = None) -> str:
        """Sign a user in: a JWT that lives for `session_lifetime`.

        `origin` says how it was shown who they are; without `actor` they did it themselves. Raises SparkleError:
        forbidden.
        """
        key = await self._key()
        return _signed(await self._begin(user.id, origin, actor), key)

    @transacted
    async def _begin(self, connection: Connection, user: int, origin: str, actor: Actor | None) -> _Claims:
        return await self._insert(connection, user, origin, actor)

    async def _insert(self, connection: Connection, user: int, origin: str, actor: Actor | None) -> _Claims:
        """Begin a session; what its token says."""
        jti, now = new_secret(), self._clock()
        expires_at = now + self._auth().session_lifetime
        row = require_not_banned(await find_user(connection, user))
        await store.add_session(connection, hash_secret(jti), row.id, now_ms=now, expires_at=expires_at, origin=origin)
        details = {
            "user": row.id,
            "name": row.name,
            "github": row.github_id,
            "githubLogin": row.github_login,
            "origin": origin,
        }
        known = {key: value for key, value in details.items() if value is not None}
        await self._audit.record(connection, actor or Actor.of(row), "USER_LOGIN", **known)
        return {"sub": str(row.id), "jti": jti, "iat": now // 1000, "exp": expires_at // 1000}

    async def user(self, token: str, *, note: bool = True) -> UserRow:
        """Whose session this is, and `note` that they were here.

        Raises SparkleError (forbidden) when it is none, is over, or its user is banned.
        """
        claims = await self._require_claims(token)
        async with self.database.reader() as connection:
            row = await store.session_user(connection, hash_secret(claims["jti"]), self._clock())
            if row is None or str(row.id) != claims["sub"]:
                raise await _why_ended(connection, claims["sub"])
        if note:
            self._registry.record_user_visit(row.id)
        return require_not_banned(row)

    async def all(self, token: str) -> list[Session]:
        """The sessions of whose session this is, newest first. Raises SparkleError: forbidden."""
        claims = await self._require_claims(token)
        rows = await self.of(int(claims["sub"]))
        return [Session(row, row.jti_hash == hash_secret(claims["jti"])) for row in rows]

    async def of(self, user: int) -> list[SessionRow]:
        """The sessions of somebody, newest first."""
        async with self.database.reader() as connection:
            return await store.sessions(connection, user, self._clock())

    async def log_out(self, token: str, actor: Actor) -> None:
        """End a session; one that is over already is fine."""
        claims = await self._claims(token)
        if claims is not None:
            await self._end(hash_secret(claims["jti"]), actor)

    @transacted
    async def _end(self, connection: Connection, jti_hash: bytes, actor: Actor) -> None:
        row = await store.session_user(connection, jti_hash, self._clock())
        await store.delete_session(connection, jti_hash)
        if row is not None:
            await self._audit.record(connection, actor._replace(user=row.id), "LOGOUT", user=row.id, name=row.name)

    async def log_out_others(self, token: str, actor: Actor) -> int:
        """End all sessions of a user but this one; how many. Raises SparkleError: forbidden."""
        claims = await self._require_claims(token)
        return await self._end_others(int(claims["sub"]), hash_secret(claims["jti"]), actor)

    @transacted
    async def _end_others(self, connection: Connection, user: int, jti_hash: bytes, actor: Actor) -> int:
        row = await find_user(connection, user)
        ended = await store.delete_other_sessions(connection, user, jti_hash)
        if ended:
            await self._audit.record(connection, actor, "LOGOUT", user=user, name=row.name, others=ended)
        return ended

    @transacted
    async def log_out_user(self, connection: Connection, user: int, actor: Actor) -> None:
        """End all sessions of somebody and void their login links. Raises SparkleError: forbidden, not_found."""
        actor.require_admin()
        row = await find_user(connection, user)
        ended = len(await store.sessions(connection, user, self._clock()))
        await store.delete_sessions_of(connection, user)
        await self._audit.record(connection, actor, "LOGOUT", user=user, name=row.name, sessions=ended)

    async def _require_claims(self, token: str) -> dict[str, str]:
        claims = await self._claims(token)
        if claims is None:
            raise _not_signed_in()
        return claims

    async def _claims(self, token: str) -> dict[str, str] | None:
        """The claims of a token that we signed. Its end is the session row's business, so that one clock decides."""
        options: jwt.types.Options = {
            "require": ["sub", "jti", "iat", "exp"],
            "verify_exp": False,
            "verify_iat": False,
        }
        key = await self._known_key()
        if not key or len(token) > _LONGEST_TOKEN:
            return None
        try:
            return jwt.decode(token, key, algorithms=["HS256"], options=options)
        except (jwt.InvalidTokenError, ValueError):
            return None

    async def _key(self) -> str:
        """What signs the tokens: from the configuration, else made once and kept in the database."""
        return await self._known_key() or await self._keep_key(new_secret())

    async def _known_key(self) -> str:
        """The same, but "" as long as none was made: then there is no token to read."""
        configured = self._auth().jwt_secret
        if configured:
            return configured
        if not self._made_key:
            async with self.database.reader() as connection:
                self._made_key = str(await store.setting(connection, _JWT_KEY) or "")
        return self._made_key

    @transacted
    async def _keep_key(self, connection: Connection, made: str) -> str:
        return str(await store.keep_setting(connection, _JWT_KEY, made))

    # --- Login links --------------------------------------------------------------------------------------------------

    @transacted
    async def login_link(self, connection: Connection, user: int, actor: Actor = COMMAND_LINE) -> str:
        """The token of a login link: good once, for 30 minutes. Raises SparkleError: forbidden, not_found."""
        actor.require_admin()
        row = require_not_banned(await find_user(connection, user))
        token = await self.insert_login_link(connection, user)
        await self._audit.record(connection, actor, "LOGIN_LINK_CREATE", user=row.id, name=row.name)
        return token

    async def insert_login_link(self, connection: Connection, user: int) -> str:
        """Add a login link within a transaction; its token."""
        token = new_secret()
        await store.add_login_link(connection, hash_secret(token), user, self._clock() + LOGIN_LINK_MS)
        return token

    async def use_login_link(self, token: str) -> UserRow:
        """Whose login link this is; it is used up by this. Raises SparkleError: forbidden."""
        return _link_owner(await self._take_login_link(hash_secret(storable(token))))

    async def login_link_user(self, token: str) -> UserRow:
        """Whose login link this is, without using it up. Raises SparkleError: forbidden."""
        async with self.database.reader() as connection:
            user = await store.login_link(connection, hash_secret(storable(token)), self._clock())
            return _link_owner(None if user is None else await find_user(connection, user))

    @transacted
    async def _take_login_link(self, connection: Connection, token_hash: bytes) -> UserRow | None:
        user = await store.take_login_link(connection, token_hash, self._clock())
        return None if user is None else await find_user(connection, user)

    def limit_login(self, address: str) -> None:
        """Count an attempt to sign in. Raises SparkleError (too_many) beyond thirty at once or ten a minute."""
        wait = self._logins.take(client_key(address), self._clock())
        if wait:
            raise _too_many_logins(wait)

    # --- GitHub -------------------------------------------------------------------------------------------------------

    async def start_oauth(self, *, keep: bool = True) -> OAuthStart:
        """Begin a login with GitHub, to be ended by `finish_oauth` within 10 minutes unless `keep` is False.

        The verifier of PKCE (RFC 7636) is also what binds the login to the browser: only its cookie has it, here
        stands its SHA-256, which is the challenge.
        """
        state, verifier = new_secret(), new_secret()
        digest = hash_secret(verifier)
        if keep:
            await self._keep_oauth_state(hash_secret(state), digest)
        return OAuthStart(state, verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())

    @transacted
    async def _keep_oauth_state(self, connection: Connection, state_hash: bytes, verifier_hash: bytes) -> None:
        now = self._clock()
        await store.add_oauth_state(connection, state_hash, verifier_hash, now + OAUTH_STATE_MS, now)

    async def finish_oauth(self, state: str, verifier: str) -> None:
        """Use up a login's state. Raises SparkleError (forbidden) unless this browser began it, and not long ago."""
        _require_verifier(verifier, await self._take_oauth_state(hash_secret(storable(state))))

    async def check_oauth(self, state: str, verifier: str) -> None:
        """Raises as `finish_oauth` does, and uses nothing up."""
        async with self.database.reader() as connection:
            digest = await store.oauth_state(connection, hash_secret(storable(state)), self._clock())
        _require_verifier(verifier, digest)

    @transacted
    async def _take_oauth_state(self, connection: Connection, state_hash: bytes) -> bytes | None:
        return await store.take_oauth_state(connection, state_hash, self._clock())

    async def sign_in_github(self, github: GitHubUser, actor: Actor) -> str:
        """The session token of whoever has this account of GitHub, who is registered when new.

        Only the numeric id counts: a login name changes hands. Raises SparkleError (forbidden) for a banned user.
        """
        key = await self._key()
        return _signed(await self._begin_github(github, actor), key)

    @transacted
    async def _begin_github(self, connection: Connection, github: GitHubUser, actor: Actor) -> _Claims:
        row = await store.user_by_github_id(connection, github.id)
        user = await self._register(connection, github, actor) if row is None else require_not_banned(row).id
        await store.set_github(
            connection,
            user,
            github_id=github.id,
            login=clean_name(github.login),
            nickname=await _nickname(connection, github, user),
            avatar=github.avatar,
            email=github.email,
        )
        await store.set_users_seen(connection, [(user, self._clock())])
        return await self._insert(connection, user, "GitHub", actor._replace(user=user))

    async def _register(self, connection: Connection, github: GitHubUser, actor: Actor) -> int:
        name = await _free_name(connection, clean_name(github.login) or "github")
        user = await store.add_user(connection, name, "user", "self", self._clock())
        who = actor._replace(user=user)
        await self._audit.record(connection, who, "USER_CREATE", user=user, name=name, role="user", github=github.id)
        return user


def _signed(claims: _Claims, key: str) -> str:
    return jwt.encode(claims, key, algorithm="HS256")


async def _why_ended(connection: Connection, subject: str) -> SparkleError:
    """Why a token that we signed has no session: a ban ends sessions and should be told."""
    if subject.isascii() and subject.isdecimal() and len(subject) < 19:
        row = await store.user_by_id(connection, int(subject))
        if row is not None and row.banned_at is not None:
            return user_banned(row.banned_reason or "")
    return _not_signed_in()


async def _free_name(connection: Connection, wanted: str) -> str:
    """A name that nobody has or is shown by: the wanted one, or with a number behind it."""
    for number in itertools.count(1):
        name = wanted if number == 1 else f"{wanted[:50]}-{number}"
        if store.name_key(name) != ANONYMOUS and not await store.users_called(connection, name):
            return name
    raise AssertionError("numbers don't end")


async def _nickname(connection: Connection, github: GitHubUser, user: int) -> str | None:
    """What to show instead of the name, unless it is somebody else's."""
    for text in (clean_name(github.nickname or ""), clean_name(github.login)):
        if not text or store.name_key(text) == ANONYMOUS:
            continue
        if not {*await store.users_called(connection, text)} - {user}:
            return text
    return None


# --- Refusals: made anew each time, because raising an error twice makes its traceback grow ---------------------------


def _not_signed_in() -> SparkleError:
    return SparkleError("forbidden", "session.none")


def _link_owner(row: UserRow | None) -> UserRow:
    """Whose login link it was or is. Raises SparkleError: forbidden."""
    if row is None:
        raise _link_expired()
    return require_not_banned(row)


def _require_verifier(verifier: str, digest: bytes | None) -> None:
    """Refuse a verifier that doesn't have this hash; None is that of no login."""
    right = hmac.compare_digest(hash_secret(storable(verifier)), digest or DUMMY_HASH)
    if digest is None or not right:
        raise _other_login()


def _link_expired() -> SparkleError:
    return SparkleError("forbidden", "session.link_used")


def _too_many_logins(seconds: int) -> SparkleError:
    return SparkleError("too_many", "session.too_many", retry_after=seconds)


def _other_login() -> SparkleError:
    return SparkleError("forbidden", "session.not_begun")
