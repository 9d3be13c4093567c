"""The guide for a new server: who you are, how large the circle is, whom no rule may touch, connect a client."""

from typing import Any

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.accounts import now_ms
from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.db.decisions import Wanted
from sparkle_lite.db.orders import Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import SignedIn
from sparkle_lite.http.web.apps import connection_values, secret_values
from sparkle_lite.http.web.render import (
    Asked,
    Page,
    Pages,
    keep_language,
    language_of,
    page,
    posted,
    said,
    see_other,
    texts_of,
)
from sparkle_lite.net import AddressError, address_bytes, is_public
from sparkle_lite.runtime import Server
from sparkle_lite.settings import read

PRESET = "analysis.preset"
# Exceptions that the guide names; the page of the rules has all of them.
_SHOWN = 50
_MAX_LINES = 200


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_who_and_circle(pages), *_exceptions(pages), *_connect(pages)]


def _who_and_circle(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    @get("/welcome")
    async def who(request: Asked) -> Page:
        await pages.admin(request)
        return page(request, "welcome_who.html", step=1, name=None)

    @post("/welcome", status_code=303)
    async def save_who(request: Asked) -> Page:
        me = await pages.admin(request)
        fields = await posted(request)
        try:
            await runtime.accounts.rename(me.user.id, fields.get("name", ""), me.actor)
        except SparkleError as error:
            return page(request, "welcome_who.html", refused=error, step=1, name=fields.get("name", ""))
        response = see_other("/welcome/circle")
        keep_language(response, fields.get("language", ""), request, runtime)
        return response

    @get("/welcome/circle")
    async def circle(request: Asked) -> Page:
        await pages.admin(request)
        return page(
            request,
            "welcome_circle.html",
            step=2,
            presets=PRESETS,
            chosen=runtime.config.analysis.preset,
            is_given=PRESET in runtime.settings.given,
        )

    @post("/welcome/circle", status_code=303)
    async def save_circle(request: Asked) -> Page:
        me = await pages.admin(request)
        if PRESET not in runtime.settings.given:
            chosen = read(PRESET, (await posted(request)).get("preset", ""))
            await runtime.change_settings({PRESET: chosen}, me.actor)
        return see_other("/welcome/exceptions")

    return [who, save_who, circle, save_circle]


def _exceptions(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def shown(request: Asked, me: SignedIn, errors: list[str], left: str) -> Page:
        allowed, _ = await runtime.decisions.page(Wanted("allow", "active"), Position(), _SHOWN)
        return page(
            request,
            "welcome_exceptions.html",
            status=400 if errors else 200,
            step=3,
            allowed=[(one.network, one.note or "") for one in allowed if one.network is not None],
            errors=errors,
            left=left,
            mine=_public(me.actor.address),
        )

    @get("/welcome/exceptions")
    async def exceptions(request: Asked) -> Page:
        return await shown(request, await pages.admin(request), [], "")

    @post("/welcome/exceptions", status_code=303)
    async def save_exceptions(request: Asked) -> Page:
        me = await pages.admin(request)
        lines = [line.strip() for line in (await posted(request)).get("addresses", "").splitlines() if line.strip()]
        note = str(texts_of(request)("welcome.exceptions.note"))
        errors, left = await _allow(runtime, request, me, lines[:_MAX_LINES], note)
        if errors:
            return await shown(request, me, errors, "\n".join(left))
        return see_other("/welcome/connect")

    return [exceptions, save_exceptions]


def _public(address: str | None) -> str:
    """An address if the world can reach it: only then a rule could list it."""
    try:
        return address if address and is_public(address_bytes(address)) else ""
    except AddressError:
        return ""


async def _allow(
    runtime: Server, request: Asked, me: SignedIn, lines: list[str], note: str
) -> tuple[list[str], list[str]]:
    """Make each line ("address  # note") an exception; why some could not be, and those lines."""
    errors, left = [], []
    for line in lines:
        address, _, own_note = line.partition("#")
        try:
            await runtime.decisions.allow("ip", address.strip(), own_note.strip() or note, None, me.actor)
        except SparkleError as error:
            errors.append(f"{line}: {said(error, language_of(request))}")
            left.append(line)
    if len(errors) < len(lines):
        await runtime.publisher.publish()
    return errors, left


def _connect(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def shown(request: Asked, me: SignedIn, error: SparkleError | None = None, **values: Any) -> Page:
        apps = await runtime.accounts.apps(me.user.id)
        # The oldest: whose secret the first start printed.
        first = connection_values(pages, apps[-1], 0) if apps else {}
        return page(
            request,
            "welcome_connect.html",
            refused=error,
            step=4,
            apps=apps,
            **{"secret": None, "seen": None, **first, **values},
        )

    @get("/welcome/connect")
    async def connect(request: Asked) -> Page:
        return await shown(request, await pages.admin(request))

    @post("/welcome/connect", status_code=200)
    async def make_secret(request: Asked) -> Page:
        me = await pages.admin(request)
        fields = await posted(request)
        try:
            if fields.get("app"):
                made = await runtime.accounts.reset_app(fields["app"], me.actor)
            else:
                made = await runtime.accounts.add_app(me.user.id, fields.get("comment", ""), me.actor)
        except SparkleError as error:
            return await shown(request, me, error)
        values = secret_values(pages, request, made)
        # What the old secret did before does not count as the new one's connection.
        return await shown(request, me, **{**values, "since": now_ms(), "seen": None, "agent": None})

    @post("/welcome/done", status_code=303)
    async def finish(request: Asked) -> Page:
        await pages.admin(request)
        await runtime.settings.note_welcomed()
        return see_other("/")

    return [connect, make_secret, finish]
