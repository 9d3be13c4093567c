"""Lists of others: which there are and how they do; added, tried, paused, run and taken away."""

import re
from typing import Any, cast, get_args

from litestar import get, post

from sparkle_lite.config import WIDEST, Duration, ImportEntry, ListFormat, Refused
from sparkle_lite.config.values import breadths, category_or_empty, list_name, list_url, no_line_breaks
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web.access import ADMINS, MEMBERS
from sparkle_lite.http.web.render import Page, PostedForm, is_partial, page, see_other, texts_of
from sparkle_lite.http.web.rules import frame
from sparkle_lite.rules.imports import TRY, ImportOrder, ImportStatus
from sparkle_lite.rules.known_lists import KNOWN
from sparkle_lite.rules.offers import unpacked
from sparkle_lite.server import Server

_PATH = "/rules/imports"
_FORMATS = get_args(ListFormat)
_INTERVALS = ("1h", "6h", "1d", "7d")
_WEIGHTS = ("list", "support")
# What the form for a new list holds, as it is written there.
_EMPTY = {
    "name": "",
    "url": "",
    "format": "auto",
    "category": "",
    "widest": ", ".join(map(str, WIDEST)),
    "weight": "list",
    "interval": "6h",
    "credit": "",
}


@get(_PATH, guards=MEMBERS)
async def imports(request: AnyRequest, server: Injected[Server]) -> Page:
    """Every list, and how to add one."""
    return await _lists_page(request, server, _EMPTY)


async def _lists_page(
    request: AnyRequest, server: Server, form: PostedForm, refused: SparkleError | None = None
) -> Page:
    lists = await server.imports.all()
    urls = {url for listed in lists for url in listed.entry.url}
    return page(
        request,
        "rules_imports.html",
        refused=refused,
        lists=lists,
        why_of=_why,
        known=[known for known in KNOWN if not urls & set(known.entry.url)],
        form={**_EMPTY, **form},
        formats=_FORMATS,
        intervals=_INTERVALS,
        weights=_WEIGHTS,
        **await frame(server),
    )


def _why(listed: ImportStatus) -> Any:
    """Why the last run changed nothing, where somebody should know."""
    last = listed.last
    return None if last is None or last.why is None else unpacked(last.why)


# --- A new one --------------------------------------------------------------------------------------------------------


@post("/rules/try-import", status_code=200, guards=ADMINS)
async def try_out(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]
) -> Page:
    """What a list would add, before it counts."""
    known = next((known for known in KNOWN if known.key == form.get("known")), None)
    filled = form if known is None else _as_form(known.entry)
    try:
        entry = _entry(request, filled)
        preview = await server.imports.preview(ImportOrder(entry, me.actor, limits=TRY))
    except SparkleError as error:
        return await _lists_page(request, server, filled, refused=error)
    return page(
        request,
        "rules_import_try.html",
        entry=entry,
        form=_as_form(entry),
        preview=preview,
        bad=_bad(preview.numbers),
        **await frame(server),
    )


@post("/rules/add-import", status_code=303, guards=ADMINS)
async def add(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]
) -> Page:
    """Switch a list on, and fetch it."""
    try:
        entry = _entry(request, form)
        await server.imports.add(entry, me.actor)
    except SparkleError as error:
        return await _lists_page(request, server, form, refused=error)
    server.imports.begin(_order(entry, me, form))
    return see_other(f"{_PATH}/{entry.name}", done="list_added")


def _order(entry: ImportEntry, me: SignedIn, form: PostedForm) -> ImportOrder:
    """A run that takes over what was shown, if anything was."""
    return ImportOrder(entry, me.actor, accept="accept" in form, seen=form.get("seen", ""))


def _entry(request: AnyRequest, form: PostedForm) -> ImportEntry:
    """A list as the form says it. Raises SparkleError that names the field."""
    urls = tuple(part for part in form.get("url", "").split() if part)
    if not urls:
        raise SparkleError("bad_request", "imports.no_url")
    field = "url"
    try:
        listed = list_url(urls)
        field = "name"
        name = list_name(form.get("name") or _name_of(listed[0]))
        field = "category"
        category = category_or_empty(form.get("category", ""))
        field = "widest"
        widest = breadths(tuple(int(part) for part in re.findall(r"[0-9]{1,3}", form.get("widest", ""))) or WIDEST)
        field = "interval"
        interval = Duration.parse(_one_of(form, "interval", _INTERVALS))
        field = "credit"
        credit = no_line_breaks(form.get("credit", ""))
    except Refused as refused:
        what = str(texts_of(request)(f"imports.page.{field}"))
        raise SparkleError("bad_request", "imports.bad_value", what=what, why=str(refused)) from None
    weight = _one_of(form, "weight", _WEIGHTS)
    return ImportEntry(
        name=name,
        url=listed,
        format=cast(ListFormat, _one_of(form, "format", _FORMATS)),
        category=category,
        widest=widest,
        weight=cast(Any, weight),
        trust="support" if weight == "support" else "create",
        interval=interval,
        credit=credit,
    )


def _one_of(form: PostedForm, field: str, choices: tuple[str, ...]) -> str:
    given = form.get(field) or _EMPTY[field]
    return given if given in choices else _EMPTY[field]


def _name_of(url: str) -> str:
    """A name for a list that was given none: of where it comes from."""
    host = url.partition("//")[2].partition("/")[0].partition(":")[0]
    return re.sub(r"[^a-z0-9._-]+", "-", host.lower()).strip("-._")[:40] or "list"


def _as_form(entry: ImportEntry) -> PostedForm:
    """What the form holds that makes this list."""
    return {
        "name": entry.name,
        "url": "\n".join(entry.url),
        "format": entry.format,
        "category": entry.category,
        "widest": ", ".join(map(str, entry.widest)),
        "weight": "support" if entry.supports_only else "list",
        "interval": str(entry.interval),
        "credit": entry.credit,
    }


# --- One of them ------------------------------------------------------------------------------------------------------


@get(f"{_PATH}/{{name:str}}", guards=MEMBERS)
async def one_list(request: AnyRequest, server: Injected[Server], name: str) -> Page:
    """One list: what it is doing, its settings and its history."""
    listed = await _listed(server, name)
    if is_partial(request):
        response = page(request, "_import_progress.html", listed=listed)
        if listed.progress is None:
            # It is done, and everything else on the page is older than that.
            response.headers["hx-refresh"] = "true"
        return response
    runs = await server.imports.runs(name)
    return page(
        request,
        "rules_import.html",
        listed=listed,
        runs=[(run, None if run.why is None else unpacked(run.why), _bad(run.numbers)) for run in runs],
        why=_why(listed),
        **await frame(server),
    )


async def _listed(server: Server, name: str) -> ImportStatus:
    found = next((listed for listed in await server.imports.all() if listed.entry.name == name), None)
    if found is None:
        raise SparkleError("not_found", "imports.none", name=name[:40])
    return found


def _bad(numbers: Any) -> list[tuple[int, Any, str]]:
    """The first lines of a list that were of no use: where, why, and what stands there."""
    return [(number, unpacked(why), text) for number, why, text in numbers.get("bad", [])]


@post(f"{_PATH}/{{name:str}}/run", status_code=303, guards=ADMINS)
async def run_now(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], name: str) -> Page:
    """Fetch a list now; `accept` takes over what was held back."""
    server.imports.begin(_order(await server.imports.entry(name), me, form))
    return see_other(f"{_PATH}/{name}")


@post(f"{_PATH}/{{name:str}}/pause", status_code=303, guards=ADMINS)
async def pause(server: Injected[Server], me: Injected[SignedIn], name: str) -> Page:
    """Fetch a list by itself no longer; what it lists stays."""
    await server.imports.pause(name, me.actor, paused=True)
    return see_other(f"{_PATH}/{name}", done="list_paused")


@post(f"{_PATH}/{{name:str}}/resume", status_code=303, guards=ADMINS)
async def resume(server: Injected[Server], me: Injected[SignedIn], name: str) -> Page:
    """Fetch a list by itself again."""
    await server.imports.pause(name, me.actor, paused=False)
    return see_other(f"{_PATH}/{name}", done="list_resumed")


@post(f"{_PATH}/{{name:str}}/remove", status_code=303, guards=ADMINS)
async def remove(server: Injected[Server], me: Injected[SignedIn], name: str) -> Page:
    """Take a list away, with all that it listed."""
    await server.imports.remove(name, me.actor)
    return see_other(_PATH, done="list_removed")


HANDLERS = (imports, try_out, add, one_list, run_now, pause, resume, remove)
