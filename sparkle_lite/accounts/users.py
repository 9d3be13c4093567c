"""Users: who has an account, what they are called, whether they administrate, and whether they are locked out."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.registry import ANONYMOUS, user_banned
from sparkle_lite.accounts.texts import check_name, checked_line, storable
from sparkle_lite.config import Preset
from sparkle_lite.db import accounts as store
from sparkle_lite.db import words
from sparkle_lite.db.accounts import UserRow as UserRow
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import AnnouncingDatabase, transacted
from sparkle_lite.db.words import WordRow as WordRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import INT64_MAX

Role = Literal["user", "admin"]

# Where people know each other, whom an administrator adds speaks at once.
_VOUCHING: Collection[Preset] = ("solo", "friends")


def vouches(preset: Preset) -> bool:
    """Whether whoever adds a user vouches for them where they don't say."""
    return preset in _VOUCHING


class Users:
    """The users of one server or one command. What changes one is audited with who did it."""

    def __init__(self, database: AnnouncingDatabase, audit: Audit, clock: Callable[[], int]) -> None:
        self.database = database
        self._audit = audit
        self._clock = clock

    async def all(self) -> list[UserRow]:
        """All users, oldest first."""
        async with self.database.reader() as connection:
            return await store.users(connection)

    async def page(self, page: int, size: int) -> tuple[list[UserRow], int]:
        """One page of all users, oldest first, and how many there are; pages count from 0."""
        async with self.database.reader() as connection:
            rows = await store.users_page(connection, page, size)
            return rows, await store.count_users(connection)

    async def get(self, user: int) -> UserRow:
        """A user by row id. Raises SparkleError: not_found."""
        async with self.database.reader() as connection:
            return await find_user(connection, user)

    async def named(self, name: str) -> UserRow:
        """A user by name, whatever its case. Raises SparkleError: not_found."""
        async with self.database.reader() as connection:
            row = await store.user_by_name(connection, storable(name))
        if row is None:
            raise SparkleError("not_found", "user.none_named", name=name)
        return row

    async def words(self) -> Mapping[int, float]:
        """What the words were worth (0..1) when they were measured last, by user; of vouched people nothing is."""
        async with self.database.reader() as connection:
            return await words.values(connection)

    async def word(self, user: int) -> tuple[WordRow | None, list[str]]:
        """What was measured of a user's word last, if anything was, and the names of those who share their voice."""
        async with self.database.reader() as connection:
            row = await words.standing(connection, user)
            return row, [] if row is None else await words.companions(connection, row)

    async def has_vouched(self) -> bool:
        """Whether an administrator vouches for anybody who isn't banned."""
        async with self.database.reader() as connection:
            return await store.has_vouched(connection)

    async def has_silent(self, reporting: Collection[int]) -> bool:
        """Whether there is somebody among those who report (users) for whom nobody vouches."""
        return any(row.id in reporting for row in await self.all() if not row.speaks and not is_nobody(row))

    @transacted
    async def add(
        self, connection: Connection, name: str, role: Role, actor: Actor, *, vouched: bool = True
    ) -> UserRow:
        """Add a local user: 1-64 characters. `vouched`: their word counts from the start.

        Raises SparkleError: bad_request, conflict, forbidden.
        """
        actor.require_admin()
        if store.name_key(name) == ANONYMOUS:
            raise SparkleError("bad_request", "user.reserved_name", name=ANONYMOUS)
        return await self.insert(connection, name, role, actor, vouched=vouched)

    async def insert(
        self, connection: Connection, name: str, role: Role, actor: Actor, *, vouched: bool = True
    ) -> UserRow:
        """Add a local user within a transaction. Raises SparkleError: bad_request, conflict."""
        check_name(name)
        for taken in (await store.users_called(connection, name)).values():
            raise SparkleError("conflict", "user.name_taken", name=taken)
        user = await store.add_user(connection, name, role, "admin", self._clock())
        if vouched:
            await store.set_vouched(connection, user, self._clock())
        await self._audit.record(connection, actor, "USER_CREATE", user=user, name=name, role=role, vouched=vouched)
        return await find_user(connection, user)

    @transacted
    async def rename(self, connection: Connection, user: int, nickname: str, actor: Actor) -> None:
        """Change what a user is called on pages ("": their name).

        Raises SparkleError: bad_request, forbidden, conflict where it is somebody else's.
        """
        actor.require_owner(user)
        wanted = nickname.strip()
        if wanted:
            check_name(wanted)
        row = await find_user(connection, user)
        others = {*(await store.users_called(connection, wanted) if wanted else ())} - {user}
        if store.name_key(wanted) == ANONYMOUS or others:
            raise SparkleError("conflict", "user.nickname_taken", name=wanted)
        shown = wanted if wanted != row.name else ""
        await store.set_nickname(connection, user, shown or None)
        await self._audit.record(connection, actor, "USER_RENAME", user=row.id, name=row.name, nickname=shown)

    @transacted
    async def ban(self, connection: Connection, user: int, reason: str, actor: Actor) -> None:
        """Lock a user out everywhere: sessions end, login links and applications are void until `unban`.

        Raises SparkleError: bad_request, forbidden, not_found, conflict for the last administrator.
        """
        actor.require_admin()
        text = checked_line(reason, "reason")
        row = await find_user(connection, user)
        await _require_another_admin(connection, row, actor)
        await store.set_user_ban(connection, user, self._clock(), text)
        await store.delete_sessions_of(connection, user)
        await self._audit.record(connection, actor, "USER_BAN", user=user, name=row.name, reason=text)

    @transacted
    async def unban(self, connection: Connection, user: int, actor: Actor) -> None:
        """Let a user in again. Raises SparkleError: forbidden, not_found."""
        actor.require_admin()
        row = await find_user(connection, user)
        await store.set_user_ban(connection, user, None, None)
        await self._audit.record(connection, actor, "USER_UNBAN", user=user, name=row.name)

    @transacted
    async def vouch(self, connection: Connection, user: int, actor: Actor) -> None:
        """Let a user's word count from the start. Raises SparkleError: forbidden, not_found, conflict for clients
        without credentials, who are nobody.
        """
        await self._set_vouched(connection, user, self._clock(), actor)

    @transacted
    async def unvouch(self, connection: Connection, user: int, actor: Actor) -> None:
        """Let a user's word be worth what it earns. Raises SparkleError: forbidden, not_found, conflict for one of the
        administrators, whose word always counts.
        """
        await self._set_vouched(connection, user, None, actor)

    async def _set_vouched(self, connection: Connection, user: int, at: int | None, actor: Actor) -> None:
        actor.require_admin()
        row = await find_user(connection, user)
        if is_nobody(row):
            raise SparkleError("conflict", "user.nobody_speaks")
        if at is None and row.role == "admin":
            raise SparkleError("conflict", "user.admin_speaks", name=row.name)
        if (row.vouched_at is None) == (at is None):
            return
        await store.set_vouched(connection, user, at)
        action = "USER_UNVOUCH" if at is None else "USER_VOUCH"
        await self._audit.record(connection, actor, action, user=user, name=row.name)

    @transacted
    async def set_role(self, connection: Connection, user: int, role: Role, actor: Actor) -> None:
        """Make a user an administrator, or no longer, and end their sessions: no id outlives the rights it had.

        Raises conflict for the last administrator, unless the operator asks.
        """
        actor.require_admin()
        row = await find_user(connection, user)
        if row.role == role:
            return
        if role != "admin":
            await _require_another_admin(connection, row, actor)
        await store.set_user_role(connection, user, role)
        await store.delete_other_sessions(connection, user, b"")
        await self._audit.record(connection, actor, "USER_ROLE", user=user, name=row.name, role=role)


def is_nobody(row: UserRow) -> bool:
    """Whether it is no person, but all clients without credentials."""
    return store.name_key(row.name) == ANONYMOUS


async def find_user(connection: Connection, user: int) -> UserRow:
    """A user by row id. Raises SparkleError: not_found."""
    row = await store.user_by_id(connection, user) if 0 < user <= INT64_MAX else None
    if row is None:
        raise SparkleError("not_found", "user.unknown")
    return row


def require_not_banned(user: UserRow) -> UserRow:
    """The user. Raises SparkleError (forbidden) where they are locked out."""
    if user.banned_at is not None:
        raise user_banned(user.banned_reason or "")
    return user


async def _require_another_admin(connection: Connection, row: UserRow, actor: Actor) -> None:
    """Keep somebody who can undo it; the operator's command line always can."""
    if actor.user is None or row.role != "admin" or await store.count_other_admins(connection, row.id):
        return
    raise SparkleError("conflict", "user.last_admin", name=row.name)
