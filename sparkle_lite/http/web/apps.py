"""Applications: the installations of clients that report to this server, and their credentials."""

import shlex
from typing import Any

from litestar import get, post

from sparkle_lite.accounts.apps import NewSecret, UserappRow, peerbanhelper_lines
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, own_url
from sparkle_lite.http.web.access import ADMINS, MEMBERS
from sparkle_lite.http.web.once import OnceForms
from sparkle_lite.http.web.paging import page_number, row_id
from sparkle_lite.http.web.render import Page, PostedForm, page, see_other
from sparkle_lite.server import Server

_PAGE = 100


@get("/apps", guards=MEMBERS)
async def list_apps(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], once: Injected[OnceForms]
) -> Page:
    """One's own applications, and a form for one more."""
    return await _list_page(request, server, me, once_id=once.new_id())


async def _list_page(
    request: AnyRequest,
    server: Server,
    me: SignedIn,
    *,
    once_id: str,
    comment: str = "",
    refused: SparkleError | None = None,
) -> Page:
    return page(
        request,
        "apps.html",
        refused=refused,
        apps=await server.apps.all(me.user.id),
        sent=await server.overview.sent(),
        troubles_of=server.troubles.of,
        limit=server.config.auth.max_apps_per_user,
        comment=comment,
        once_id=once_id,
    )


@post("/apps", status_code=200, guards=MEMBERS)
async def create(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    form: Injected[PostedForm],
    once: Injected[OnceForms],
) -> Page:
    """Make an application; its secret is shown only now."""
    comment = form.get("comment", "")
    try:
        made = await server.apps.add(me.user.id, comment, me.actor, once.of(form))
    except SparkleError as error:
        return await _list_page(request, server, me, once_id=once.new_id(), comment=comment, refused=error)
    return page(request, "app_secret.html", made=True, **secret_values(request, server, made))


@get("/apps/all", guards=ADMINS)
async def list_all(request: AnyRequest, server: Injected[Server]) -> Page:
    """Everybody's applications."""
    number = page_number(request.query_params)
    rows, total = await server.apps.page(number, _PAGE)
    return page(
        request,
        "apps_all.html",
        rows=rows,
        total=total,
        number=number,
        size=_PAGE,
        sent=await server.overview.sent(),
        troubles_of=server.troubles.of,
    )


@get("/apps/{app_id:str}", guards=MEMBERS)
async def show(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], once: Injected[OnceForms], app_id: str
) -> Page:
    """An application."""
    app = await server.apps.get(app_id, me.actor)
    return page(
        request,
        "app.html",
        once_id=once.new_id(app.secret_hash),
        owner=await server.users.get(app.user),
        sent=(await server.overview.sent()).get(app.id, {}),
        troubles=server.troubles.of(app.id),
        **connection_values(server, app, 0),
    )


@get("/apps/{app_id:str}/connected", guards=MEMBERS)
async def connected(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Page:
    """The part of a page that says whether an application has come, for a script that asks until it has."""
    app = await server.apps.get(app_id, me.actor)
    since = row_id(request.query_params.get("since", "")) or 0
    return page(request, "connected.html", **connection_values(server, app, since))


@post("/apps/{app_id:str}/edit", status_code=303, guards=MEMBERS)
async def edit(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], app_id: str) -> Page:
    """Change the comment."""
    await server.apps.edit(app_id, form.get("comment", ""), me.actor)
    return see_other(f"/apps/{app_id}", done="saved")


@post("/apps/{app_id:str}/reset", status_code=200, guards=MEMBERS)
async def reset(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    form: Injected[PostedForm],
    once: Injected[OnceForms],
    app_id: str,
) -> Page:
    """Make a new secret, which is shown only now."""
    made = await server.apps.reset(app_id, me.actor, once.of(form))
    return page(request, "app_secret.html", made=False, **secret_values(request, server, made))


@post("/apps/{app_id:str}/delete", status_code=303, guards=MEMBERS)
async def delete(server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Page:
    """Delete an application; what it reported stays."""
    await server.apps.delete(app_id, me.actor)
    return see_other("/apps", done="app_deleted")


@post("/apps/{app_id:str}/ban", status_code=303, guards=ADMINS)
async def ban(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], app_id: str) -> Page:
    """Refuse an application from now on."""
    await server.apps.ban(app_id, form.get("reason", ""), me.actor)
    return see_other(f"/apps/{app_id}", done="app_banned")


@post("/apps/{app_id:str}/unban", status_code=303, guards=ADMINS)
async def unban(server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Page:
    """Let an application in again."""
    await server.apps.unban(app_id, me.actor)
    return see_other(f"/apps/{app_id}", done="app_unbanned")


HANDLERS = (list_apps, create, list_all, show, connected, edit, reset, delete, ban, unban)


def secret_values(request: AnyRequest, server: Server, made: NewSecret) -> dict[str, Any]:
    """What a page needs to show a secret, which it can do only now."""
    url = own_url(request, server)
    app_id = made.userapp.app_id
    credentials = {"X-BTN-AppID": app_id, "X-BTN-AppSecret": made.secret}
    headers = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in credentials.items())
    return {
        "config_url": f"{url}/ping/config",
        "secret": made.secret,
        "yaml": peerbanhelper_lines(url, app_id, made.secret),
        "curl": f"curl {headers} {shlex.quote(f'{url}/ping/config')}",
        "is_loopback": url.partition("://")[2].startswith(("127.", "localhost", "[::1]")),
        **connection_values(server, made.userapp, int(made.userapp.last_access_at or 0) + 1),
    }


def connection_values(server: Server, app: UserappRow, since: int) -> dict[str, Any]:
    """When an application was here last (ms) and as what, as far as that was after `since`."""
    seen, agent = app.last_access_at, app.user_agent
    visit = server.registry.last_visit(app.id)
    if visit is not None:
        seen, agent = visit.at, visit.user_agent
    is_there = seen is not None and seen >= since
    delay = server.config.btn.abilities.submit_peers
    return {
        "app": app,
        "since": since,
        "seen": seen if is_there else None,
        "agent": agent if is_there else None,
        "first_data": delay.random_initial_delay + delay.interval,
    }
