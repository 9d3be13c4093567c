"""Why an address is listed, for everyone in one sentence and for members with everything behind it.

Ban reasons in clients link to these pages, so whoever is banned can read them without an account. What a stranger is
told holds nothing about members, and nothing of exceptions: those are often the members' own addresses.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from litestar import get, post

from sparkle_lite.clock import date, now_ms
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, require_same_origin, visitor
from sparkle_lite.http.web import links, shapes
from sparkle_lite.http.web.access import ANYBODY
from sparkle_lite.http.web.explore import RECENT, Section, section
from sparkle_lite.http.web.render import Page, PostedForm, is_partial, page, see_other, texts_of
from sparkle_lite.net import AddressError, Network, parse_network
from sparkle_lite.observations.stored import BanDay, ban_days
from sparkle_lite.rate_limits import Buckets, client_key
from sparkle_lite.rules.decisions import Match, Verdict, Why
from sparkle_lite.rules.reviews import Request
from sparkle_lite.server import Server
from sparkle_lite.units import DAY_MS

# What a stranger may look up in a minute.
_LOOKUPS = 30
DAYS = 14
# Sightings that are counted by day; the newest of them are shown.
_SIGHTINGS = 100
# How long a page waits for the distances when everything else is there; what takes longer is fetched by a script.
_PATIENCE_S = 0.02
# The chart, in its own units.
_BAR, _HEIGHT = 10, 40


class Day(NamedTuple):
    """What was reported on a day (UTC): bans, the people they came from, and sightings."""

    date: str
    bans: int
    people: int
    seen: int


class Bar(NamedTuple):
    """One day of the chart: where it stands and how high its bans and sightings reach."""

    x: int
    bans: int
    seen: int


# --- Looking up -------------------------------------------------------------------------------------------------------


@get("/ip", guards=ANYBODY)
async def ask_address(request: AnyRequest) -> Page:
    """Which address is meant."""
    text = request.query_params.get("address", "").strip()
    return _look_up(request, text) if text else page(request, "why_ask.html", text="")


def _look_up(request: AnyRequest, text: str) -> Page:
    """The way to what somebody wrote: the page of an address, or what the members of a network did."""
    try:
        network = parse_network(text[:128], with_port=True)
    except AddressError:
        refusal = texts_of(request)("why.no_address", text=text[:128])
        return page(request, "why_ask.html", status=400, text=text[:128], refusal=refusal)
    if network.prefix < network.bits:
        return see_other(links.explore("bans", peerIp=str(network)))
    return see_other(links.network(network))


@get("/ip/{address:path}", guards=ANYBODY)
async def why_listed(
    request: AnyRequest,
    server: Injected[Server],
    reader: Injected[SignedIn | None],
    lookups: Injected[Buckets],
    address: str,
) -> Page:
    """Why an address is listed, or that it isn't."""
    text = address.removeprefix("/")
    try:
        network = parse_network(text, with_port=True)
    except AddressError:
        return _look_up(request, text)
    if str(network) != text or network.prefix < network.bits:
        return _look_up(request, text)
    if reader is None:
        return await _stranger_page(request, server, network, lookups)
    if "distances" in request.query_params:
        measured = await server.distances.of(network.address, reader.user.id)
        if is_partial(request):
            return page(request, "distances.html", distances=measured, distance=_amount)
    return await _member_page(request, server, network, reader)


def lookup_limit() -> Buckets:
    """What strangers may look up, by where they are: the dependency `lookups`."""
    return Buckets(burst=_LOOKUPS, per_minute=_LOOKUPS)


async def _stranger_page(request: AnyRequest, server: Server, network: Network, lookups: Buckets) -> Page:
    asker = visitor(request, server).address or ""
    wait = lookups.take(client_key(asker), now_ms())
    if wait:
        raise SparkleError("too_many", "address.too_many", retry_after=wait)
    subject = str(network)
    verdict = await server.decisions.verdict(network.address)
    credits = await server.imports.credits()
    return page(
        request, "why.html", subject=subject, verdict=verdict, why=None, is_own=asker == subject, credits=credits
    )


async def _member_page(request: AnyRequest, server: Server, network: Network, me: SignedIn) -> Page:
    subject = str(network)
    now = server.timekeeping.clock.settled()
    why, bans, recent = await asyncio.gather(
        server.decisions.why(network),
        ban_days(server.database, network.address, now - DAYS * DAY_MS),
        _recent(server, me, subject),
    )
    days = _days(bans, recent[1:], now)
    # Begun last: measuring them may take long, and what the page can't do without would wait.
    distances = await server.distances.known(network.address, _PATIENCE_S)
    return page(
        request,
        "why.html",
        subject=subject,
        verdict=_verdict(why),
        why=why,
        protection=[name for name in why.protection if name != "member" or me.is_admin],
        recent=[_newest(one) for one in recent],
        days=days,
        bars=_bars(days),
        is_own=me.actor.address == subject,
        supporters=await server.imports.supporters(network),
        credits=await server.imports.credits(),
        distances=distances,
        distance=_amount,
    )


async def _recent(server: Server, me: SignedIn, subject: str) -> list[Section]:
    # One after the other: they share a thread, and all at once would take three places in its queue.
    return [
        await section(server, me, view, {"peerIp": subject}, size)
        for view, size in (("bans", RECENT), ("swarms", _SIGHTINGS), ("snapshots", _SIGHTINGS))
    ]


def _newest(one: Section) -> Section:
    """A section with no more rows than a page shows."""
    return one._replace(found=one.found and one.found._replace(rows=one.found.rows[:RECENT]))


def _amount(number: str, value: float) -> str:
    """A number of an analysis for people: words, a share, bytes, or a count."""
    if "people" in number:
        return f"{round(value, 1):g}"
    if "percent" in number:
        return f"{value:g}%"
    value = int(value)
    return shapes.size(value) if "traffic" in number else shapes.number(value)


def _verdict(why: Why) -> Verdict:
    listing = [match for match in why.matches if _lists(match)]
    return Verdict(why.listed, "excepted" in why.protection, tuple(listing) if why.listed else ())


def _lists(match: Match) -> bool:
    return match.state == "active" and match.decision.action == "deny"


def _days(bans: Sequence[BanDay], sightings: Sequence[Section], now: int) -> list[Day]:
    """The last days, the newest first."""
    by_day = {one.day: one for one in bans}
    seen: dict[int, int] = {}
    for one in sightings:
        for row in one.found.rows if one.found else ():
            day = row.insert_time // DAY_MS
            seen[day] = seen.get(day, 0) + 1
    today = now // DAY_MS
    days = []
    for day in range(today, today - DAYS, -1):
        banned = by_day.get(day, BanDay(day, 0, 0))
        days.append(Day(date(day * DAY_MS), bans=banned.bans, people=banned.people, seen=seen.get(day, 0)))
    return days


def _bars(days: Sequence[Day]) -> list[Bar]:
    """The days as a chart, the oldest on the left."""
    most = max((max(day.bans, day.seen) for day in days), default=0)
    return [
        Bar(x=index * _BAR, bans=_height(day.bans, most), seen=_height(day.seen, most))
        for index, day in enumerate(reversed(days))
    ]


def _height(count: int, most: int) -> int:
    """How high a bar is; anything at all can be seen."""
    return max(2, round(_HEIGHT * count / most)) if count else 0


# --- Asking for a review ----------------------------------------------------------------------------------------------


@post("/reviews", status_code=200, guards=ANYBODY)
async def ask_review(
    request: AnyRequest, server: Injected[Server], reader: Injected[SignedIn | None], form: Injected[PostedForm]
) -> Page:
    """Ask the administrators to look at an address."""
    require_same_origin(request, server)
    try:
        network = parse_network(form.get("address", ""), with_port=True)
    except AddressError as error:
        raise SparkleError("bad_request", "address.bad", why=error.said) from None
    if network.prefix < network.bits:
        raise SparkleError("bad_request", "address.not_one")
    verdict = await server.decisions.verdict(network.address)
    actor = reader.actor if reader else visitor(request, server)
    wanted = Request(
        address=network.address,
        listed=verdict.listed,
        message=form.get("message", ""),
        contact=form.get("contact", ""),
    )
    await server.reviews.ask(wanted, actor)
    return see_other(links.network(network), done="review_asked")


HANDLERS = (ask_address, why_listed, ask_review)
