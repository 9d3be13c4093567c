"""The guide for a new server: who you are, the circle, whom no rule may touch, lists to begin with, a client."""

from collections.abc import Sequence
from typing import Any

from litestar import get, post

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.clock import now_ms
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web.access import ADMINS
from sparkle_lite.http.web.apps import connection_values, secret_values
from sparkle_lite.http.web.once import OnceForms
from sparkle_lite.http.web.render import Page, PostedForm, keep_language, language_of, page, see_other, texts_of
from sparkle_lite.net import AddressError, address_bytes, is_public
from sparkle_lite.rules.decisions import DecisionFilter, Position
from sparkle_lite.rules.imports import ImportOrder
from sparkle_lite.rules.known_lists import KNOWN
from sparkle_lite.server import Server
from sparkle_lite.settings import BACKUP_EVERY, read

PRESET = "analysis.preset"
# Exceptions that the guide names; the page of the rules has all of them.
_SHOWN = 50
_MAX_LINES = 200


# --- Who you are ------------------------------------------------------------------------------------------------------


@get("/welcome", guards=ADMINS)
async def who(request: AnyRequest) -> Page:
    """Where the guide begins: a name and a language."""
    return page(request, "welcome_who.html", step=1, name=None)


@post("/welcome", status_code=303, guards=ADMINS)
async def save_who(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]
) -> Page:
    """Keep the name and the language."""
    name = form.get("name", "")
    try:
        await server.users.rename(me.user.id, name, me.actor)
    except SparkleError as error:
        return page(request, "welcome_who.html", refused=error, step=1, name=name)
    response = see_other("/welcome/circle")
    keep_language(response, form.get("language", ""), request, server)
    return response


# --- The circle -------------------------------------------------------------------------------------------------------


@get("/welcome/circle", guards=ADMINS)
async def circle(request: AnyRequest, server: Injected[Server]) -> Page:
    """How many people report to this server."""
    is_given = PRESET in server.settings.given
    chosen = server.config.analysis.preset
    return page(request, "welcome_circle.html", step=2, presets=PRESETS, chosen=chosen, is_given=is_given)


@post("/welcome/circle", status_code=303, guards=ADMINS)
async def save_circle(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Keep the size of the circle, where no file has it."""
    if PRESET not in server.settings.given:
        await choose_preset(server, form, me.actor)
    return see_other("/welcome/exceptions")


async def choose_preset(server: Server, form: PostedForm, actor: Actor) -> None:
    """Take the preset that a form names. Raises SparkleError for one that isn't there, or that the file sets."""
    await server.change_settings({PRESET: read(PRESET, form.get("preset", ""))}, actor)


# --- Exceptions -------------------------------------------------------------------------------------------------------


@get("/welcome/exceptions", guards=ADMINS)
async def exceptions(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """Whom no rule may touch."""
    return await _exceptions_page(request, server, me)


@post("/welcome/exceptions", status_code=303, guards=ADMINS)
async def save_exceptions(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]
) -> Page:
    """Make each line ("address  # note") an exception; those that can't be one stay in the form."""
    lines = [line.strip() for line in form.get("addresses", "").splitlines() if line.strip()][:_MAX_LINES]
    usual_note = str(texts_of(request)("welcome.exceptions.note"))
    refusals: list[tuple[str, SparkleError]] = []
    for line in lines:
        address, _, note = line.partition("#")
        try:
            await server.decisions.allow("ip", address.strip(), note.strip() or usual_note, None, me.actor)
        except SparkleError as error:
            refusals.append((line, error))
    if refusals:
        return await _exceptions_page(request, server, me, refusals)
    return see_other("/welcome/lists")


async def _exceptions_page(
    request: AnyRequest, server: Server, me: SignedIn, refusals: Sequence[tuple[str, SparkleError]] = ()
) -> Page:
    allowed, _ = await server.decisions.page(DecisionFilter("allow", "active"), Position(), _SHOWN)
    language = language_of(request)
    return page(
        request,
        "welcome_exceptions.html",
        status=400 if refusals else 200,
        step=3,
        allowed=[(one.network, one.note or "") for one in allowed if one.network is not None],
        errors=[f"{line}: {error.text(language)}" for line, error in refusals],
        left="\n".join(line for line, _ in refusals),
        mine=_public(me.actor.address),
    )


def _public(address: str | None) -> str:
    """An address if the world can reach it: only then a rule could list it."""
    try:
        return address if address and is_public(address_bytes(address)) else ""
    except AddressError:
        return ""


# --- Lists ------------------------------------------------------------------------------------------------------------


@get("/welcome/lists", guards=ADMINS)
async def lists(request: AnyRequest, server: Injected[Server]) -> Page:
    """Whose lists to begin with."""
    there = set(await server.imports.entries())
    return page(request, "welcome_lists.html", step=4, known=KNOWN, there=there)


@post("/welcome/lists", status_code=303, guards=ADMINS)
async def save_lists(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Switch the lists on that are ticked, and fetch them."""
    there = await server.imports.entries()
    for known in KNOWN:
        if known.key in form and known.entry.name not in there:
            await server.imports.add(known.entry, me.actor)
            server.imports.begin(ImportOrder(known.entry, me.actor))
    return see_other("/welcome/connect")


# --- A client ---------------------------------------------------------------------------------------------------------


@get("/welcome/connect", guards=ADMINS)
async def connect(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], once: Injected[OnceForms]
) -> Page:
    """Connect the first client."""
    return await _connect_page(request, server, me, once)


@post("/welcome/connect", status_code=200, guards=ADMINS)
async def make_secret(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    form: Injected[PostedForm],
    once: Injected[OnceForms],
) -> Page:
    """Make a secret for the application that there is, or another application."""
    try:
        if form.get("app"):
            made = await server.apps.reset(form["app"], me.actor, once.of(form))
        else:
            made = await server.apps.add(me.user.id, form.get("comment", ""), me.actor, once.of(form))
    except SparkleError as error:
        return await _connect_page(request, server, me, once, refused=error)
    values = secret_values(request, server, made)
    # What the old secret did before does not count as the new one's connection.
    return await _connect_page(request, server, me, once, **{**values, "since": now_ms(), "seen": None, "agent": None})


async def _connect_page(request: AnyRequest, server: Server, me: SignedIn, once: OnceForms, **values: Any) -> Page:
    apps = await server.apps.all(me.user.id)
    # The oldest: whose secret the first start printed.
    first = connection_values(server, apps[-1], 0) if apps else {}
    once_id = once.new_id(apps[-1].secret_hash if apps else b"")
    shown = {"secret": None, "seen": None, "once_id": once_id, **first, **values}
    offers_backup = BACKUP_EVERY not in server.settings.given
    return page(request, "welcome_connect.html", step=5, apps=apps, offers_backup=offers_backup, **shown)


@post("/welcome/done", status_code=303, guards=ADMINS)
async def finish(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Leave the guide for good, with a backup every day where that is ticked."""
    if "backup" in form and BACKUP_EVERY not in server.settings.given:
        await server.change_settings({BACKUP_EVERY: read(BACKUP_EVERY, "1d")}, me.actor)
    await server.settings.note_welcomed()
    return see_other("/")


HANDLERS = (
    *(who, save_who, circle, save_circle, exceptions, save_exceptions, lists, save_lists),
    *(connect, make_secret, finish),
)
