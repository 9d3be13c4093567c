"""Backups: which there are and how they do; made, read again, downloaded, and put in the place of what is there."""

from typing import Any

from litestar import Response, get, post
from litestar.response import Stream

from sparkle_lite.backups import StoredBackup, pieces_of
from sparkle_lite.config import Duration
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.downloads import downloads_of
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web.access import ADMINS
from sparkle_lite.http.web.render import HEADERS, Page, PostedForm, is_partial, page, see_other
from sparkle_lite.server import Server
from sparkle_lite.settings import BACKUP_EVERY, read

_PATH = "/admin/settings/backups"
# How often one may be made, as it is chosen on the page; "0": none by itself.
INTERVALS = tuple(map(Duration.parse, ("0", "6h", "12h", "1d", "7d")))


@get(_PATH, guards=ADMINS)
async def backups(request: AnyRequest, server: Injected[Server]) -> Page:
    """Every backup, newest first, and how often one is made."""
    if is_partial(request):
        response = page(request, "_backup_progress.html", progress=server.backups.progress)
        if server.backups.progress is None:
            # It is done, and everything else on the page is older than that.
            response.headers["hx-refresh"] = "true"
        return response
    every = server.config.backup.every
    return page(
        request,
        "backups.html",
        stored=await server.backups.all(),
        checked=server.backups.checked,
        progress=server.backups.progress,
        failure=server.backups.failure,
        restore_failure=server.backups.restore_failure,
        folder=server.backups.folder,
        room=server.backups.room,
        config=server.config,
        every=every,
        intervals=INTERVALS if every in INTERVALS else (*INTERVALS, every),
        is_given=BACKUP_EVERY in server.settings.given,
    )


@post(f"{_PATH}/make", status_code=303, guards=ADMINS)
async def make(server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """Make one now, in the background."""
    server.backups.begin(me.actor)
    return see_other(_PATH)


@post(f"{_PATH}/every", status_code=303, guards=ADMINS)
async def set_interval(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Choose how often one is made."""
    await server.change_settings({BACKUP_EVERY: read(BACKUP_EVERY, form.get("every", ""))}, me.actor)
    return see_other(_PATH, done="saved")


@get(f"{_PATH}/{{name:str}}", guards=ADMINS)
async def one_backup(request: AnyRequest, server: Injected[Server], name: str) -> Page:
    """One backup, and what restoring it would replace."""
    return await _backup_page(request, server, name)


async def _backup_page(request: AnyRequest, server: Server, name: str, refused: SparkleError | None = None) -> Page:
    return page(
        request,
        "backup.html",
        refused=refused,
        backup=await _stored(server, name),
        database=server.database.path,
        size=server.housekeeping.measured,
        progress=server.backups.progress,
    )


async def _stored(server: Server, name: str) -> StoredBackup:
    found = next((backup for backup in await server.backups.all() if backup.name == name), None)
    if found is None:
        raise SparkleError("not_found", "backup.not_there", name=name[:40])
    return found


@get(f"{_PATH}/{{name:str}}/archive", guards=ADMINS)
async def download(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], name: str) -> Response[Any]:
    """One backup as the archive that the command `restore` takes."""
    opened = await server.backups.open(name)
    file = f"sparkle-{name.removesuffix('.tar')}.tar"
    headers = {**HEADERS, "content-disposition": f'attachment; filename="{file}"'}
    pieces = downloads_of(request).begin(me.user.id, pieces_of(opened))
    return Stream(pieces, media_type="application/x-tar", headers=headers)


@post(f"{_PATH}/{{name:str}}/check", status_code=303, guards=ADMINS)
async def check(server: Injected[Server], me: Injected[SignedIn], name: str) -> Page:
    """Read all of one again, in the background."""
    server.backups.begin_check((await _stored(server, name)).name, me.actor)
    return see_other(_PATH)


@post(f"{_PATH}/{{name:str}}/restore", status_code=303, guards=ADMINS)
async def restore(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], name: str
) -> Page:
    """Have one ready, and come up with it; what is there is set aside."""
    try:
        if "sure" not in form:
            raise SparkleError("bad_request", "backup.not_sure")
        server.backups.begin_restore((await _stored(server, name)).name, me.actor, server.restart)
    except SparkleError as error:
        return await _backup_page(request, server, name, error)
    return see_other(_PATH)


HANDLERS = (backups, make, set_interval, one_backup, download, check, restore)
