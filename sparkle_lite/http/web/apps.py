"""Applications: the installations of clients that report to this server, and their credentials."""

import shlex
from typing import Any

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.accounts import NewSecret, peerbanhelper_lines
from sparkle_lite.db.accounts import UserappRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import STATUS
from sparkle_lite.http.requests import base_url
from sparkle_lite.http.session import SignedIn
from sparkle_lite.http.web.home import program
from sparkle_lite.http.web.render import Asked, Page, Pages, form, language_of, said, see_other

_PAGE = 100


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_list_routes(pages), *_app_routes(pages)]


def _list_routes(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def listing(request: Asked, me: SignedIn, error: SparkleError | None = None, comment: str = "") -> Page:
        return pages.page(
            request,
            "apps.html",
            status=200 if error is None else STATUS[error.code],
            apps=await runtime.accounts.apps(me.user.id),
            sent=await runtime.overview.sent(),
            troubles_of=runtime.troubles.of,
            program=program,
            limit=runtime.config.auth.max_apps_per_user,
            comment=comment,
            error="" if error is None else said(error, language_of(request)),
        )

    @get("/apps")
    async def list_apps(request: Asked) -> Page:
        return await listing(request, await pages.member(request))

    @post("/apps", status_code=200)
    async def create(request: Asked) -> Page:
        me = await pages.member(request)
        comment = (await form(request)).get("comment", "")
        try:
            made = await runtime.accounts.add_app(me.user.id, comment, me.actor)
        except SparkleError as error:
            return await listing(request, me, error, comment)
        return pages.page(request, "app_secret.html", made=True, **secret_values(pages, request, made))

    @get("/apps/all")
    async def list_all(request: Asked) -> Page:
        await pages.admin(request)
        number = page_number(request)
        rows, total = await runtime.accounts.apps_page(number, _PAGE)
        return pages.page(
            request,
            "apps_all.html",
            rows=rows,
            total=total,
            number=number,
            size=_PAGE,
            sent=await runtime.overview.sent(),
            troubles_of=runtime.troubles.of,
            program=program,
        )

    return [list_apps, create, list_all]


def _app_routes(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    @get("/apps/{app_id:str}")
    async def show(request: Asked, app_id: str) -> Page:
        me = await pages.member(request)
        app = await runtime.accounts.app(app_id, me.actor)
        return pages.page(
            request,
            "app.html",
            owner=await runtime.accounts.user(app.user),
            sent=(await runtime.overview.sent()).get(app.id, {}),
            troubles=runtime.troubles.of(app.id),
            **connection_values(pages, app, 0),
        )

    @get("/apps/{app_id:str}/connected")
    async def connected(request: Asked, app_id: str) -> Page:
        me = await pages.member(request)
        app = await runtime.accounts.app(app_id, me.actor)
        since = request.query_params.get("since", "")
        return pages.page(
            request, "connected.html", **connection_values(pages, app, int(since) if since.isdecimal() else 0)
        )

    @post("/apps/{app_id:str}/edit", status_code=303)
    async def edit(request: Asked, app_id: str) -> Page:
        me = await pages.member(request)
        await runtime.accounts.edit_app(app_id, (await form(request)).get("comment", ""), me.actor)
        return see_other(f"/apps/{app_id}", done="saved")

    @post("/apps/{app_id:str}/reset", status_code=200)
    async def reset(request: Asked, app_id: str) -> Page:
        me = await pages.member(request)
        made = await runtime.accounts.reset_app(app_id, me.actor)
        return pages.page(request, "app_secret.html", made=False, **secret_values(pages, request, made))

    @post("/apps/{app_id:str}/delete", status_code=303)
    async def delete(request: Asked, app_id: str) -> Page:
        me = await pages.member(request)
        await runtime.accounts.delete_app(app_id, me.actor)
        return see_other("/apps", done="app_deleted")

    @post("/apps/{app_id:str}/ban", status_code=303)
    async def ban(request: Asked, app_id: str) -> Page:
        me = await pages.admin(request)
        await runtime.accounts.ban_app(app_id, (await form(request)).get("reason", ""), me.actor)
        return see_other(f"/apps/{app_id}", done="app_banned")

    @post("/apps/{app_id:str}/unban", status_code=303)
    async def unban(request: Asked, app_id: str) -> Page:
        me = await pages.admin(request)
        await runtime.accounts.unban_app(app_id, me.actor)
        return see_other(f"/apps/{app_id}", done="app_unbanned")

    return [show, connected, edit, reset, delete, ban, unban]


def secret_values(pages: Pages, request: Asked, made: NewSecret) -> dict[str, Any]:
    """What a page needs to show a secret, which it can do only now."""
    server = pages.runtime.config.server
    url = base_url(request.scope, server.public_url, server.trusted_proxies)
    app_id = made.userapp.app_id
    credentials = {"X-BTN-AppID": app_id, "X-BTN-AppSecret": made.secret}
    headers = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in credentials.items())
    return {
        "config_url": f"{url}/ping/config",
        "secret": made.secret,
        "yaml": peerbanhelper_lines(url, app_id, made.secret),
        "curl": f"curl {headers} {shlex.quote(f'{url}/ping/config')}",
        "is_loopback": url.partition("://")[2].startswith(("127.", "localhost", "[::1]")),
        **connection_values(pages, made.userapp, int(made.userapp.last_access_at or 0) + 1),
    }


def connection_values(pages: Pages, app: UserappRow, since: int) -> dict[str, Any]:
    """When an application was here last (ms) and as what, as far as that was after `since`."""
    seen, agent = app.last_access_at, app.user_agent
    visit = pages.runtime.accounts.last_visit(app.id)
    if visit is not None:
        seen, agent = visit.at, visit.user_agent
    is_there = seen is not None and seen >= since
    delay = pages.runtime.config.btn.abilities.submit_peers
    return {
        "app": app,
        "since": since,
        "seen": seen if is_there else None,
        "agent": agent if is_there else None,
        "program": program,
        "first_data": delay.random_initial_delay + delay.interval,
    }


def page_number(request: Asked) -> int:
    """Which page of a list is asked for, from 0."""
    text = request.query_params.get("page", "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0
