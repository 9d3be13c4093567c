"""User applications: the installations of clients, each with an id and a secret of its own."""

import json
from collections.abc import Callable
from typing import NamedTuple

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit, app_details
from sparkle_lite.accounts.registry import ANONYMOUS, app_banned
from sparkle_lite.accounts.secrets import REPLACED_BYTES, Credentials, Once, hash_secret, new_credentials, new_secret
from sparkle_lite.accounts.texts import checked_line, storable
from sparkle_lite.accounts.users import find_user
from sparkle_lite.config import AuthSection
from sparkle_lite.db import accounts as store
from sparkle_lite.db import troubles
from sparkle_lite.db.accounts import UserappRow as UserappRow
from sparkle_lite.db.accounts import UserRow
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import AnnouncingDatabase, transacted
from sparkle_lite.errors import SparkleError


class NewSecret(NamedTuple):
    """An application with its secret, which is known only now."""

    userapp: UserappRow
    secret: str


class Apps:
    """The applications of one server or one command. What changes one is audited with who did it.

    Who asks for an application that isn't their own must be an administrator; else the refusal is audited.
    """

    def __init__(
        self, database: AnnouncingDatabase, audit: Audit, auth: Callable[[], AuthSection], clock: Callable[[], int]
    ) -> None:
        self.database = database
        self._audit = audit
        self._auth = auth
        self._clock = clock

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def all(self, user: int | None = None) -> list[UserappRow]:
        """The applications of a user, or all, newest first."""
        async with self.database.reader() as connection:
            return await store.userapps(connection, user)

    async def page(self, page: int, size: int) -> tuple[list[tuple[UserappRow, UserRow]], int]:
        """One page of all applications, newest first, with their owners, and how many there are."""
        async with self.database.reader() as connection:
            rows = await store.userapps_page(connection, page, size)
            return rows, await store.count_all_userapps(connection)

    async def get(self, app_id: str, actor: Actor) -> UserappRow:
        """One application of the actor's own, or any for an administrator. Raises not_found, forbidden."""
        async with self._audit.noting("ADMIN", actor, **app_details(app_id)), self.database.reader() as connection:
            return await _find_app(connection, app_id, actor)

    async def idle_anonymous(self, unused_ms: int) -> list[UserappRow]:
        """Applications of clients without credentials that nobody used for so long (ms), newest first."""
        async with self.database.reader() as connection:
            return await self._idle_anonymous(connection, unused_ms)

    async def _idle_anonymous(self, connection: Connection, unused_ms: int) -> list[UserappRow]:
        owner = await store.user_by_name(connection, ANONYMOUS)
        return await store.idle_userapps(connection, owner.id, self._clock() - unused_ms) if owner else []

    # --- What their owners do -----------------------------------------------------------------------------------------

    async def add(self, user: int, comment: str, actor: Actor, once: Once | None = None) -> NewSecret:
        """Give a user an application; comments have 1-255 characters. With `once` the same again, if asked again.

        Raises SparkleError: quota among others; conflict where what was made once is not as it was.
        """
        async with self._audit.noting("USERAPP_CREATE", actor, userId=actor.user):
            return await self._add(user, comment, actor, once)

    @transacted
    async def _add(self, connection: Connection, user: int, comment: str, actor: Actor, once: Once | None) -> NewSecret:
        text = checked_line(comment, "comment")
        owner = await find_user(connection, user)
        actor.require_owner(owner.id)
        made = once.credentials(f"{owner.id} {text}") if once else new_credentials()
        if once and await store.is_app_id_used(connection, made.app_id):
            row = await store.userapp_by_app_id(connection, made.app_id)
            if row is None or row.secret_hash != hash_secret(made.secret):
                raise SparkleError("conflict", "form.done")
            return NewSecret(row, made.secret)
        if await store.count_userapps(connection, user) >= self._auth().max_apps_per_user:
            raise _quota(owner.name, self._auth().max_apps_per_user)
        return await self.insert(connection, owner, text, actor, made)

    @transacted
    async def add_known(
        self, connection: Connection, user: int, comment: str, known: Credentials, actor: Actor
    ) -> None:
        """Give a user an application whose id and secret somebody has chosen already."""
        actor.require_admin()
        owner = await find_user(connection, user)
        await self.insert(connection, owner, checked_line(comment, "comment"), actor, known)

    async def insert(
        self,
        connection: Connection,
        owner: UserRow,
        comment: str,
        actor: Actor,
        credentials: Credentials | None = None,
    ) -> NewSecret:
        """Give a user an application within a transaction, with these credentials or new ones."""
        app_id, secret = credentials or new_credentials()
        await store.add_userapp(
            connection, app_id, hash_secret(secret), user=owner.id, comment=comment, now_ms=self._clock()
        )
        row = await _find_app(connection, app_id, actor)
        await self._record(connection, actor, "USERAPP_CREATE", row, userAppId=row.id)
        return NewSecret(row, secret)

    async def edit(self, app_id: str, comment: str, actor: Actor) -> UserappRow:
        """Change an application's comment: 1-255 characters. Raises SparkleError: bad_request, forbidden, not_found."""
        async with self._audit.noting("USERAPP_EDIT", actor, **app_details(app_id)):
            return await self._edit(app_id, comment, actor)

    @transacted
    async def _edit(self, connection: Connection, app_id: str, comment: str, actor: Actor) -> UserappRow:
        text = checked_line(comment, "comment")
        row = await _find_app(connection, app_id, actor)
        await store.set_userapp_comment(connection, row.id, text)
        await self._record(connection, actor, "USERAPP_EDIT", row, userAppOld=row.comment, userAppNew=text)
        return row._replace(comment=text)

    async def reset(self, app_id: str, actor: Actor, once: Once | None = None) -> NewSecret:
        """A new secret for an application; the old one is void at once. With `once` the same again, if asked again.

        Raises SparkleError: forbidden, not_found; conflict where the secret is another one than `once` replaces.
        """
        async with self._audit.noting("USERAPP_RESET_SECRET", actor, **app_details(app_id)):
            return await self._reset(app_id, actor, once)

    @transacted
    async def _reset(self, connection: Connection, app_id: str, actor: Actor, once: Once | None) -> NewSecret:
        if once is None:
            return await self.renew(connection, app_id, actor)
        row = await _find_app(connection, app_id, actor)
        secret = once.credentials(row.app_id).secret
        if row.secret_hash == hash_secret(secret):
            return NewSecret(row, secret)
        if row.secret_hash[:REPLACED_BYTES] != once.replaces:
            raise SparkleError("conflict", "form.done")
        return await self.renew(connection, app_id, actor, secret)

    async def renew(self, connection: Connection, app_id: str, actor: Actor, secret: str = "") -> NewSecret:
        """A new secret for an application within a transaction, this one where it is given."""
        secret = secret or new_secret()
        row = await _find_app(connection, app_id, actor)
        await store.set_userapp_secret(connection, row.id, hash_secret(secret))
        await self._record(connection, actor, "USERAPP_RESET_SECRET", row)
        return NewSecret(row._replace(secret_hash=hash_secret(secret)), secret)

    async def delete(self, app_id: str, actor: Actor) -> None:
        """Delete an application; its reports keep their origin. Its owner can't shed a ban like that."""
        async with self._audit.noting("USERAPP_DELETE", actor, **app_details(app_id)):
            await self._delete(app_id, actor)

    @transacted
    async def _delete(self, connection: Connection, app_id: str, actor: Actor) -> None:
        row = await _find_app(connection, app_id, actor)
        if row.banned_at is not None and not actor.admin:
            raise app_banned(row.banned_reason or "")
        await store.delete_userapp(connection, row.id, self._clock())
        await troubles.forget(connection, [row.id])
        await self._record(connection, actor, "USERAPP_DELETE", row, userAppId=row.id)

    # --- What administrators do ---------------------------------------------------------------------------------------

    @transacted
    async def ban(self, connection: Connection, app_id: str, reason: str, actor: Actor) -> None:
        """Refuse an application until `unban`. Raises SparkleError: bad_request, forbidden, not_found."""
        actor.require_admin()
        text = checked_line(reason, "reason")
        row = await _find_app(connection, app_id, actor)
        await store.set_userapp_ban(connection, row.id, self._clock(), text)
        await self._record(connection, actor, "USERAPP_BAN", row, reason=text)

    @transacted
    async def unban(self, connection: Connection, app_id: str, actor: Actor) -> None:
        """Let an application in again. Raises SparkleError: forbidden, not_found."""
        actor.require_admin()
        row = await _find_app(connection, app_id, actor)
        await store.set_userapp_ban(connection, row.id, None, None)
        await self._record(connection, actor, "USERAPP_UNBAN", row)

    @transacted
    async def purge_anonymous(self, connection: Connection, unused_ms: int, actor: Actor) -> list[UserappRow]:
        """Delete what `idle_anonymous` gives; a client that comes back is registered as a new one. What they were."""
        actor.require_admin()
        rows = await self._idle_anonymous(connection, unused_ms)
        if rows:
            await store.purge_userapps(connection, (row.id for row in rows), self._clock())
            await troubles.forget(connection, (row.id for row in rows))
            await self._audit.record(connection, actor, "USERAPP_PURGE", userApps=len(rows), unusedMs=unused_ms)
        return rows

    async def _record(
        self, connection: Connection, actor: Actor, action: str, row: UserappRow, **details: object
    ) -> None:
        about = {"appId": row.app_id, "userAppOwner": row.user, "userId": actor.user}
        await self._audit.record(connection, actor, action, **about, **details)


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


async def _find_app(connection: Connection, app_id: str, actor: Actor) -> UserappRow:
    row = await store.userapp_by_app_id(connection, storable(app_id))
    if row is None:
        raise SparkleError("not_found", "app.unknown")
    actor.require_owner(row.user)
    return row


def _quota(name: str, limit: int) -> SparkleError:
    return SparkleError("quota", "app.quota", name=name, limit=limit)
