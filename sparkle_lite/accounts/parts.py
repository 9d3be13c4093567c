"""The parts of the accounts, put together: once for a server, once for a command."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sparkle_lite.accounts.actors import FIRST_START
from sparkle_lite.accounts.apps import Apps
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.registry import Registry
from sparkle_lite.accounts.sessions import Sessions
from sparkle_lite.accounts.users import Users
from sparkle_lite.config import AuthSection
from sparkle_lite.db import accounts as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import AnnouncingDatabase, Database, transacted


class FirstStart(NamedTuple):
    """What the operator of a new server needs to know, once."""

    app_id: str
    secret: str
    login_token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """The accounts of one server or one command.

    After whatever is written through `database`, the registry reads the credentials again: users and applications
    write through nothing else.
    """

    database: AnnouncingDatabase
    registry: Registry
    users: Users
    apps: Apps
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
            sessions=Sessions(database, audit, registry, auth, clock),
        )

    async def first_start(self) -> FirstStart | None:
        """On a database without users: the user "admin" and an application of theirs, in one transaction."""
        async with self.database.reader() as connection:
            if await store.has_users(connection):
                return None
        return await self._first_start()

    @transacted
    async def _first_start(self, connection: Connection) -> FirstStart | None:
        if await store.has_users(connection):
            return None
        user = await self.users.insert(connection, "admin", "admin", FIRST_START)
        app = await self.apps.insert(connection, user, "First start", FIRST_START)
        return FirstStart(app.userapp.app_id, app.secret, await self.sessions.insert_login_link(connection, user.id))
