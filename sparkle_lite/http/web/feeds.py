"""Feeds: the URL for each program that fetches a list, and the keys that such a URL holds."""

from typing import Any
from urllib.parse import urlencode

from litestar import get, post

from sparkle_lite.accounts.feed_keys import KEYS_PER_USER, NAME_LENGTH
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.feeds import KEY, unknown_feed
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, own_url
from sparkle_lite.http.web.access import ADMINS, ANYBODY, MEMBERS
from sparkle_lite.http.web.feed_urls import FeedUrl, feed_urls
from sparkle_lite.http.web.once import OnceForms
from sparkle_lite.http.web.paging import page_number
from sparkle_lite.http.web.render import Page, PostedForm, SignInFirst, here, local, page, see_other
from sparkle_lite.server import Server

_PAGE = 100
# What stands for the key in a URL while nobody knows it.
_PLACEHOLDER = "KEY"


@get("/feeds", guards=ANYBODY)
async def show_feeds(
    request: AnyRequest, server: Injected[Server], reader: Injected[SignedIn | None], once: Injected[OnceForms]
) -> Page:
    """The URLs, and one's own keys; where everyone may read the feeds, everyone may see their URLs."""
    if KEY in request.query_params:
        # A program whose URL has lost the feed's name would import the page.
        return unknown_feed()
    if reader is None and not _is_open(server):
        raise SignInFirst(here(request))
    return await _feeds_page(request, server, reader, once)


async def _feeds_page(
    request: AnyRequest,
    server: Server,
    me: SignedIn | None,
    once: OnceForms,
    *,
    name: str = "",
    refused: SparkleError | None = None,
) -> Page:
    return page(
        request,
        "feeds.html",
        refused=refused,
        is_open=_is_open(server),
        feeds=_urls(request, server, "" if _is_open(server) else _PLACEHOLDER),
        placeholder=_PLACEHOLDER,
        credits=server.publisher.credits,
        keys=await server.accounts.feed_keys.of(me.user.id) if me else [],
        limit=KEYS_PER_USER,
        length=NAME_LENGTH,
        name=name,
        once_id=once.new_id(),
    )


@post("/feeds", status_code=200, guards=MEMBERS)
async def make_key(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    form: Injected[PostedForm],
    once: Injected[OnceForms],
) -> Page:
    """Make a key; it is shown only now, in every URL."""
    name = form.get("name", "")
    try:
        row, key = await server.accounts.feed_keys.add(me.user.id, name, me.actor, once.of(form))
    except SparkleError as error:
        return await _feeds_page(request, server, me, once, name=name, refused=error)
    return page(request, "feed_key.html", name=row.name, key=key, feeds=_urls(request, server, key))


@get("/feed-keys", guards=ADMINS)
async def list_all_keys(request: AnyRequest, server: Injected[Server]) -> Page:
    """Everybody's keys."""
    number = page_number(request.query_params)
    keys, total = await server.accounts.feed_keys.page(number, _PAGE)
    return page(request, "feed_keys_all.html", keys=keys, total=total, number=number, size=_PAGE)


@post("/feed-keys/{key_id:int}/revoke", status_code=303, guards=MEMBERS)
async def revoke_key(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], key_id: int) -> Page:
    """Revoke a key."""
    await server.accounts.feed_keys.revoke(key_id, me.actor)
    return see_other(local(form.get("back", "/feeds")), done="feed_key_revoked")


HANDLERS: tuple[Any, ...] = (show_feeds, make_key, list_all_keys, revoke_key)


def _is_open(server: Server) -> bool:
    return server.config.feeds.is_open(server.config.analysis.preset)


def _urls(request: AnyRequest, server: Server, key: str) -> list[FeedUrl]:
    """Every feed with the URL for a program; "" for no key."""
    base, query = own_url(request, server), f"?{urlencode({KEY: key})}" if key else ""
    return feed_urls(base, query)
