"""The parts of the accounts, put together: once for a server, once for a command."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sparkle_lite.accounts.actors import FIRST_START
from sparkle_lite.accounts.apps import Apps
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.feed_keys import FeedKeys
from sparkle_lite.accounts.registry import Registry
from sparkle_lite.accounts.sessions import Sessions
from sparkle_lite.accounts.users import Users
from sparkle_lite.config import AuthSection
from sparkle_lite.db import accounts as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import AnnouncingDatabase, Database, transacted

# The id of the application of a first start that has not told it yet, and what is before it while it is being told.
_UNTOLD, _TELLING = "first_start.untold", "telling "


class FirstStart(NamedTuple):
    """What the operator of a new server needs to know, once."""

    app_id: str
    secret: str
    login_token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """The accounts of one server or one command.

    After whatever is written through `database`, the registry reads the credentials again: users, applications and
    feed keys write through nothing else.
    """

    database: AnnouncingDatabase
    registry: Registry
    users: Users
    apps: Apps
    feed_keys: FeedKeys
    sessions: Sessions

    @classmethod
    def on(
        cls,
        database: Database,
        audit: Audit,
        auth: Callable[[], AuthSection],
        clock: Callable[[], int],
        *,
        stamp: Callable[[], int] | None = None,
    ) -> "Accounts":
        """The accounts in a database; `auth` gives the section of the configuration that holds now.

        `stamp` is what visits are stamped with, where that is not the clock that everything else goes by.
        """
        registry = Registry(database, audit, auth, clock, stamp=stamp or clock)
        announcing = AnnouncingDatabase(database, registry.refresh)
        return cls(
            database=announcing,
            registry=registry,
            users=Users(announcing, audit, clock),
            apps=Apps(announcing, audit, auth, clock),
            feed_keys=FeedKeys(announcing, audit, registry, clock),
            sessions=Sessions(database, audit, registry, auth, clock),
        )

    async def first_start(self) -> FirstStart | None:
        """On a database without users: the user "admin" and an application of theirs, in one transaction.

        It is told anew, with another secret, until `note_told` says that somebody was told.
        """
        async with self.database.reader() as connection:
            if await store.has_users(connection) and await store.setting(connection, _UNTOLD) is None:
                return None
        return await self._first_start()

    @transacted
    async def note_telling(self, connection: Connection, first: FirstStart) -> None:
        """The operator is about to be told: whoever is killed now may have told them."""
        await store.set_setting(connection, _UNTOLD, _TELLING + first.app_id)

    async def note_told(self) -> None:
        """The operator knows what a first start has to tell."""
        await self._note_told()
        # Lost with the log, it would be told again, and what was told would be void.
        await self.database.merge_log()

    @transacted
    async def _note_told(self, connection: Connection) -> None:
        await store.delete_setting(connection, _UNTOLD)

    @transacted
    async def _first_start(self, connection: Connection) -> FirstStart | None:
        if await store.has_users(connection):
            return await self._tell_again(connection)
        user = await self.users.insert(connection, "admin", "admin", FIRST_START)
        app = await self.apps.insert(connection, user, "First start", FIRST_START)
        await store.set_setting(connection, _UNTOLD, app.userapp.app_id)
        return FirstStart(app.userapp.app_id, app.secret, await self.sessions.insert_login_link(connection, user.id))

    async def _tell_again(self, connection: Connection) -> FirstStart | None:
        """What a first start has to tell that was killed before it did; None where somebody has it."""
        untold = str(await store.setting(connection, _UNTOLD) or "")
        row = await store.userapp_by_app_id(connection, untold.removeprefix(_TELLING))
        owner = await store.user_by_id(connection, row.user) if row else None
        if row is None or owner is None or row.last_access_at is not None or owner.last_seen_at is not None:
            await store.delete_setting(connection, _UNTOLD)
            return None
        if untold.startswith(_TELLING):
            # Somebody may have what was told, so that stays good.
            app = await self.apps.insert(connection, owner, "First start", FIRST_START)
        else:
            app = await self.apps.renew(connection, row.app_id, FIRST_START)
        await store.set_setting(connection, _UNTOLD, app.userapp.app_id)
        return FirstStart(app.userapp.app_id, app.secret, await self.sessions.insert_login_link(connection, row.user))
