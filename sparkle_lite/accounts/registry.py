"""The registry: which clients are let in, when they were here, and from where.

The credentials are in memory, so that letting a known application or feed key in costs no query. They are read again
when this or another process changes an account.
"""

import asyncio
import hmac
import uuid
from collections.abc import Callable, Collection, Hashable
from typing import NamedTuple

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit, app_details
from sparkle_lite.accounts.secrets import DUMMY_HASH, hash_secret
from sparkle_lite.accounts.texts import USER_AGENT_LENGTH, clean_user_agent
from sparkle_lite.config import AuthSection
from sparkle_lite.db import accounts as store
from sparkle_lite.db import feed_keys
from sparkle_lite.db.accounts import CredentialRow, Visit
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.db.feed_keys import FeedKeyOwner
from sparkle_lite.errors import SparkleError
from sparkle_lite.rate_limits import Buckets, client_key
from sparkle_lite.turns import Owner
from sparkle_lite.units import MINUTE_MS
from sparkle_lite.wire.credentials import Presented

# The owner of every application that a client without credentials was given.
ANONYMOUS = "anonymous"

# A little under the minute, so that a job that runs every minute never just misses it.
_FLUSH_MS = 55_000
# A feed key's last use is told so roughly: a program that asks every minute must not cause a write every minute.
_USE_MS = 5 * MINUTE_MS


class Userapp(NamedTuple):
    """An application that was let in: its row id, its public id, its owner's row id.

    `is_anonymous`: it is of a client without credentials, and nobody knows whose.
    """

    id: int
    app_id: str
    user: int
    is_anonymous: bool = False

    @property
    def owner(self) -> Owner:
        """Whose turn it is when it is this application's."""
        return Owner(("nobody", self.id) if self.is_anonymous else self.user, self.id)


_Entry = tuple[CredentialRow, Userapp]


class Registry:
    """The credentials and the visits of one server; a command that lets nobody in never opens it."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        auth: Callable[[], AuthSection],
        clock: Callable[[], int],
        *,
        stamp: Callable[[], int],
    ) -> None:
        self.database = database
        self._audit = audit
        self._auth = auth
        self._clock, self._stamp = clock, stamp
        self._entries: dict[str, _Entry] = {}
        self._feed_keys: dict[bytes, FeedKeyOwner] = {}
        self._generation = 0
        self._version: int | None = None
        self._refreshing = asyncio.Lock()
        self._asked = self._done = 0
        # The addresses that no rule may list, and who of those that registered themselves has earned that for theirs:
        # rules/protected.py finds out.
        self._members: set[bytes] = set()
        self.earned: Collection[int] = ()
        self._visits: dict[int, dict[bytes, Visit]] = {}
        self._user_visits: dict[int, int] = {}
        # When feed keys (row ids) were used last, and those of them whose use is not in the database yet.
        self._uses: dict[int, int] = {}
        self._new_uses: set[int] = set()
        self._flushed_at = 0
        # A client with wrong credentials asks about every minute; thirty at once are a small swarm behind one address.
        self._look_ups = Buckets(burst=30, per_minute=60)
        self._registrations = Buckets(burst=5, per_minute=0.1)

    # --- Credentials --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the credentials; a server does it once at start."""
        self._version = await store.data_version(self.database.main)
        await self.refresh()
        await self._load_members()

    async def poll(self) -> bool:
        """Read the credentials again if another process changed the database, or if that failed before; whether so.

        Costs next to nothing.
        """
        version = await store.data_version(self.database.main)
        if version == self._version and self._done == self._asked:
            return False
        await self.refresh()
        # Only now: a refresh that failed is tried again.
        self._version = version
        return True

    async def refresh(self) -> None:
        """Read the credentials again, where they are in memory; what was asked for meanwhile is done in one go."""
        if self._version is None:
            return
        self._asked += 1
        asked = self._asked
        async with self._refreshing:
            if self._done >= asked:
                return
            covered = self._asked
            async with self.database.reader() as connection:
                rows = await store.credentials(connection)
                self._feed_keys = await feed_keys.owners(connection)
            self._entries = {row.app_id: _entry(row) for row in rows}
            kept = {owner.id for owner in self._feed_keys.values()}
            self._uses = {key: at for key, at in self._uses.items() if key in kept}
            self._generation += 1
            self._done = covered

    # --- Letting clients in -------------------------------------------------------------------------------------------

    def known(self, presented: Presented) -> Userapp | None:
        """The application, if memory alone lets it in; else `authenticate` decides."""
        answer = self._recall(presented)
        return None if isinstance(answer, SparkleError) else answer

    def _recall(self, presented: Presented) -> Userapp | SparkleError | None:
        if not presented.app_id:
            refusal = self._refuse_nameless(presented)
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

    def feed_key(self, key: str, address: str, *, note: bool = True) -> FeedKeyOwner:
        """Let whoever shows a feed key in, and `note` that it was used.

        Wrong ones are counted as those of applications are. Raises SparkleError: forbidden, or too_many.
        """
        owner = self._feed_keys.get(hash_secret(key))
        if owner is None:
            wait = self._look_ups.take(client_key(address), self._clock())
            raise _too_many(wait) if wait else SparkleError("forbidden", "feed_key.wrong")
        if owner.user_banned_reason is not None:
            raise user_banned(owner.user_banned_reason)
        if note and self._stamp() - self._uses.get(owner.id, 0) >= _USE_MS:
            self._uses[owner.id] = self._stamp()
            self._new_uses.add(owner.id)
        return owner

    def last_use(self, feed_key: int) -> int | None:
        """When a feed key (row id) was used last (ms, to five minutes) since this server runs."""
        return self._uses.get(feed_key)

    def _refuse_nameless(self, presented: Presented) -> SparkleError | None:
        if not presented.installation_id:
            return _placeholder() if presented.placeholder else _no_credentials()
        return None if self._auth().anonymous_apps else _no_anonymous()

    async def _look_up(self, presented: Presented, address: str, register: bool) -> Userapp | SparkleError:
        client = client_key(address)
        wait = self._look_ups.take(client, self._clock())
        if wait:
            return _too_many(wait)
        generation = self._generation
        nameless = not presented.app_id
        if nameless:
            presented = _anonymous(presented.installation_id)
        async with self.database.reader() as connection:
            row = await store.credential(connection, presented.app_id)
            if row is None and nameless and not register:
                is_void = await store.is_app_id_used(connection, presented.app_id)
                return _no_anonymous() if is_void else Userapp(0, presented.app_id, 0)
        if row is None and nameless:
            row = await self._register_anonymous(presented, client)
        right = hmac.compare_digest(hash_secret(presented.secret), row.secret_hash if row else DUMMY_HASH)
        if row is None or not right:
            return _no_anonymous() if nameless else _wrong_credentials()
        entry = _entry(row)
        if generation == self._generation:
            self._entries[presented.app_id] = entry
        return _admit(entry)

    @transacted
    async def _register_anonymous(
        self, connection: Connection, presented: Presented, client: Hashable
    ) -> CredentialRow | None:
        """The row of a client without credentials, made when it is new: such clients open with several requests."""
        row = await store.credential(connection, presented.app_id)
        if row is not None:
            return row
        now = self._clock()
        wait = self._registrations.take(client, now)
        if wait:
            raise _too_many(wait)
        owner = await store.user_by_name(connection, ANONYMOUS)
        user = owner.id if owner else await store.add_user(connection, ANONYMOUS, "user", "self", now)
        if not await store.is_app_id_used(connection, presented.app_id):
            await store.add_userapp(
                connection,
                presented.app_id,
                hash_secret(presented.secret),
                user=user,
                comment="Client without credentials",
                now_ms=now,
            )
        return await store.credential(connection, presented.app_id)

    async def note_refusal(
        self, action: str, presented: Presented, address: str, user_agent: str, error: SparkleError
    ) -> None:
        """Audit a refused request of a client; of the credentials only the id, if it looks like one."""
        client = Actor(None, False, address, user_agent)
        await self._audit.note_failure(action, client, error, **app_details(presented.app_id))

    # --- Visits -------------------------------------------------------------------------------------------------------

    def record_visit(self, userapp: Userapp, address: bytes, user_agent: str) -> bool:
        """Note a request of an application; whether its address is new among the members' of the last 14 days.

        A new one must not be in the published rules: they never list a member's address.
        """
        visits = self._visits.setdefault(userapp.id, {})
        if address not in visits and len(visits) >= store.ADDRESSES_PER_USERAPP:
            return False
        visits[address] = Visit(userapp.id, self._stamp(), address, user_agent[:USER_AGENT_LENGTH])
        if address in self._members or not self._protects(userapp):
            return False
        self._members.add(address)
        return True

    def _protects(self, userapp: Userapp) -> bool:
        entry = self._entries.get(userapp.app_id)
        return userapp.user in self.earned or (entry is not None and entry[0].known)

    @property
    def generation(self) -> int:
        """A number that changes whenever an account may have changed."""
        return self._generation

    def record_user_visit(self, user: int) -> None:
        """Note that a user (row id) was here with a browser or a script."""
        self._user_visits[user] = self._stamp()

    async def flush(self, *, now: bool = False) -> None:
        """Write who was here, at most once a minute unless `now`; a failed write is tried again next time."""
        is_new = self._visits or self._user_visits or self._new_uses
        if not is_new or (self._clock() - self._flushed_at < _FLUSH_MS and not now):
            return
        self._flushed_at = self._clock()
        visits, self._visits = self._visits, {}
        users, self._user_visits = self._user_visits, {}
        keys, self._new_uses = self._new_uses, set()
        try:
            uses = {key: self._uses[key] for key in keys if key in self._uses}
            await self._write_visits([visit for app in visits.values() for visit in app.values()], users, uses)
        except BaseException:
            self._new_uses |= keys
            self._user_visits = users | self._user_visits
            for userapp, addresses in visits.items():
                self._visits[userapp] = addresses | self._visits.get(userapp, {})
            raise
        await self._load_members()

    @transacted
    async def _write_visits(
        self, connection: Connection, visits: list[Visit], users: dict[int, int], uses: dict[int, int]
    ) -> None:
        rows = [visit._replace(user_agent=clean_user_agent(visit.user_agent)) for visit in visits]
        await store.write_access(connection, rows)
        await store.set_users_seen(connection, users.items())
        await feed_keys.set_used(connection, uses)

    async def _load_members(self) -> None:
        async with self.database.reader() as connection:
            addresses = await store.member_addresses(connection, self._clock(), self.earned)
        # Whoever else is here is asked for again at their next request.
        self._members = addresses

    def waiting_addresses(self) -> set[bytes]:
        """The members' addresses that are not in the database yet."""
        return {address for visits in self._visits.values() for address in visits} & self._members

    def last_visit(self, userapp: int) -> Visit | None:
        """The latest request of an application (row id) that is not in the database yet."""
        return max(self._visits.get(userapp, {}).values(), key=lambda visit: visit.at, default=None)


def _anonymous(installation_id: str) -> Presented:
    """The credentials that stand for an installation id.

    No header can hold the line break, so nobody can present them as those of a named application.
    """
    secret = f"\n{installation_id}"
    return Presented(str(uuid.UUID(bytes=hash_secret(f"installation{secret}")[:16], version=5)), secret)


def _entry(row: CredentialRow) -> _Entry:
    return row, Userapp(row.userapp, row.app_id, row.user, is_anonymous=row.user_key == ANONYMOUS)


def _admit(entry: _Entry) -> Userapp | SparkleError:
    row, userapp = entry
    if row.user_banned_reason is not None:
        return user_banned(row.user_banned_reason)
    if row.app_banned_reason is not None:
        return app_banned(row.app_banned_reason)
    return userapp


# --- Refusals: made anew each time, because raising an error twice makes its traceback grow ---------------------------


def user_banned(reason: str) -> SparkleError:
    """What a banned user is told, and whoever uses an application of theirs."""
    return SparkleError("forbidden", "user.banned", reason=reason)


def app_banned(reason: str) -> SparkleError:
    """What a client with a banned application is told, and its owner."""
    return SparkleError("forbidden", "app.banned", reason=reason)


def _no_credentials() -> SparkleError:
    return SparkleError("forbidden", "access.no_credentials")


def _placeholder() -> SparkleError:
    return SparkleError("forbidden", "access.example_credentials")


def _no_anonymous() -> SparkleError:
    return SparkleError("forbidden", "access.no_anonymous")


def _wrong_credentials() -> SparkleError:
    return SparkleError("forbidden", "access.wrong_credentials")


def _too_many(seconds: int) -> SparkleError:
    return SparkleError("too_many", "access.too_many_wrong", retry_after=seconds)
