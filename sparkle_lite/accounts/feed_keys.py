"""Feed keys: whoever has one may read the feeds, and nothing else. A server lets them in by `Registry.feed_key`."""

from collections.abc import Callable

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.registry import Registry
from sparkle_lite.accounts.secrets import FEED_KEY_PREFIX, Once, hash_secret, new_secret
from sparkle_lite.accounts.texts import clean_name, storable
from sparkle_lite.accounts.users import find_user, require_not_banned
from sparkle_lite.db import feed_keys as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import AnnouncingDatabase, transacted
from sparkle_lite.db.feed_keys import FeedKeyRow as FeedKeyRow
from sparkle_lite.db.feed_keys import OwnedKey as OwnedKey
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import INT64_MAX

NAME_LENGTH = 40
# One for each program of a household.
KEYS_PER_USER = 20
# Hashes of keys that forms made; a form can be sent again for an hour.
_MOST_MADE = 10_000


class FeedKeys:
    """The feed keys of one server or one command. What changes one is audited with who did it."""

    def __init__(
        self, database: AnnouncingDatabase, audit: Audit, registry: Registry, clock: Callable[[], int]
    ) -> None:
        self.database = database
        self._audit = audit
        self._registry = registry
        self._clock = clock
        self._made: dict[bytes, None] = {}

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def of(self, user: int) -> list[FeedKeyRow]:
        """The keys of a user, newest first."""
        async with self.database.reader() as connection:
            return [self._now(row) for row in await store.of_owner(connection, user)]

    async def all(self) -> list[OwnedKey]:
        """Everybody's keys, newest first."""
        async with self.database.reader() as connection:
            return await store.page(connection, 0, INT64_MAX)

    async def page(self, page: int, size: int) -> tuple[list[OwnedKey], int]:
        """One page of all keys, newest first, and how many there are; pages count from 0."""
        async with self.database.reader() as connection:
            keys = await store.page(connection, page, size)
            total = await store.count(connection)
        return [key._replace(row=self._now(key.row)) for key in keys], total

    def _now(self, row: FeedKeyRow) -> FeedKeyRow:
        """A key with a use that is not in the database yet."""
        return row._replace(used_at=self._registry.last_use(row.id) or row.used_at)

    # --- Making and revoking ------------------------------------------------------------------------------------------

    async def add(self, user: int | None, name: str, actor: Actor, once: Once | None = None) -> tuple[FeedKeyRow, str]:
        """Make a key for a user, or with None for the operator; the key itself is known only now.

        `name` is a line of 1-40 characters that no other key of the same owner has. With `once` the same again, if
        asked again. Raises SparkleError: bad_request, conflict, forbidden, quota.
        """
        async with self._audit.noting("FEED_KEY_CREATE", actor):
            return await self._add(user, name, actor, once)

    @transacted
    async def _add(
        self, connection: Connection, user: int | None, name: str, actor: Actor, once: Once | None
    ) -> tuple[FeedKeyRow, str]:
        wanted = _checked_name(name)
        await self._require_owner(connection, user, actor)
        secret = once.credentials(f"feed key {user} {wanted}").secret if once else new_secret()
        key = f"{FEED_KEY_PREFIX}{secret}"
        if once and (again := await self._made_before(connection, hash_secret(key))):
            return again, key
        keys = await store.of_owner(connection, user)
        if any(each.name == wanted for each in keys):
            raise SparkleError("conflict", "feed_key.name_taken", name=wanted)
        if user is not None and len(keys) >= KEYS_PER_USER:
            raise SparkleError("quota", "feed_key.quota", limit=KEYS_PER_USER)
        row = await store.add(connection, wanted, hash_secret(key), user=user, now_ms=self._clock())
        await self._record(connection, actor, "FEED_KEY_CREATE", row)
        if once:
            self._remember_made(hash_secret(key))
        return row, key

    async def _require_owner(self, connection: Connection, user: int | None, actor: Actor) -> None:
        if user is None:
            actor.require_admin()
        else:
            actor.require_owner(require_not_banned(await find_user(connection, user)).id)

    async def _made_before(self, connection: Connection, key_hash: bytes) -> FeedKeyRow | None:
        """The key that a form has made already. Raises SparkleError (conflict) for one that was revoked since."""
        row = await store.by_hash(connection, key_hash)
        if row is None and key_hash in self._made:
            raise SparkleError("conflict", "form.done")
        return row

    def _remember_made(self, key_hash: bytes) -> None:
        self._made[key_hash] = None
        if len(self._made) > _MOST_MADE:
            del self._made[next(iter(self._made))]

    async def revoke(self, key_id: int, actor: Actor) -> FeedKeyRow:
        """Revoke a key (row id) of the actor's own, or any as an administrator; it is void at once, and what it was.

        Raises SparkleError: forbidden, not_found.
        """
        async with self._audit.noting("FEED_KEY_REVOKE", actor):
            return await self._revoke(key_id, actor)

    @transacted
    async def _revoke(self, connection: Connection, key_id: int, actor: Actor) -> FeedKeyRow:
        row = await store.by_id(connection, key_id) if 0 < key_id <= INT64_MAX else None
        if row is None:
            raise SparkleError("not_found", "feed_key.none")
        return await self._delete(connection, row, actor)

    @transacted
    async def revoke_named(self, connection: Connection, name: str, owner: str | None, actor: Actor) -> OwnedKey:
        """Revoke the one key of a name as the operator; `owner` names the user whose it is, where several have one.

        Raises SparkleError: forbidden, not_found, conflict where several have one and none is the operator's.
        """
        actor.require_admin()
        keys = await store.called(connection, storable(name))
        if owner is not None:
            keys = [key for key in keys if key.owner == owner]
        mine = [key for key in keys if key.owner is None] or keys
        if not mine:
            raise SparkleError("not_found", "feed_key.none_named", name=name)
        if len(mine) > 1:
            names = ", ".join(str(key.owner) for key in mine)
            raise SparkleError("conflict", "feed_key.several_named", name=name, owners=names)
        await self._delete(connection, mine[0].row, actor)
        return mine[0]

    async def _delete(self, connection: Connection, row: FeedKeyRow, actor: Actor) -> FeedKeyRow:
        if row.user is None:
            actor.require_admin()
        else:
            actor.require_owner(row.user)
        await store.delete(connection, row.id)
        await self._record(connection, actor, "FEED_KEY_REVOKE", row)
        return row

    async def _record(self, connection: Connection, actor: Actor, action: str, row: FeedKeyRow) -> None:
        owner = {} if row.user is None else {"user": row.user}
        await self._audit.record(connection, actor, action, feedKey=row.name, **owner)


def _checked_name(name: str) -> str:
    """A key's name without blanks around it. Raises SparkleError: bad_request."""
    stripped = name.strip()
    # Marks that can't be seen make a name look like another one.
    if not 1 <= len(stripped) <= NAME_LENGTH or stripped != clean_name(stripped):
        raise SparkleError("bad_request", "feed_key.bad_name", limit=NAME_LENGTH)
    return stripped
