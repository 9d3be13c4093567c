"""Why an address is listed, for everyone in one sentence and for members with everything behind it.

Ban reasons in clients link to these pages, so whoever is banned can read them without an account. What a stranger is
told holds nothing about members, and nothing of exceptions: those are often the members' own addresses.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.accounts import now_ms
from sparkle_lite.buckets import Buckets, place
from sparkle_lite.db import timeline
from sparkle_lite.db.timeline import DAY_MS, BanDay
from sparkle_lite.decisions import Match, Verdict, Why
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import SignedIn, require_same_origin, visitor
from sparkle_lite.http.web import links, render, shapes
from sparkle_lite.http.web.explore import RECENT, Section, section
from sparkle_lite.http.web.render import Asked, Page, Pages
from sparkle_lite.net import AddressError, Network, parse_network
from sparkle_lite.reasons import date
from sparkle_lite.reviews import Request, Reviews

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


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_looking(pages), *_asking(pages)]


def reviews_of(pages: Pages) -> Reviews:
    """The server's review list."""
    runtime = pages.runtime
    return Reviews(runtime.database, lambda command: runtime.ingest.writer.write(command), now_ms)


def _looking(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime
    lookups = Buckets(burst=_LOOKUPS, per_minute=_LOOKUPS)

    @get("/ip")
    async def ask(request: Asked) -> Page:
        await pages.me(request)
        text = request.query_params.get("address", "").strip()
        return _look_up(request, text) if text else pages.page(request, "why_ask.html", text="", refusal="")

    def _look_up(request: Asked, text: str) -> Page:
        try:
            network = parse_network(text[:128], with_port=True)
        except AddressError:
            refusal = pages.texts(request)("why.no_address", text=text[:128])
            return pages.page(request, "why_ask.html", status=400, text=text[:128], refusal=refusal)
        if network.prefix < network.bits:
            return render.see_other(links.explore("bans", peerIp=str(network)))
        return render.see_other(links.network(network))

    @get("/ip/{address:path}")
    async def why(request: Asked, address: str) -> Page:
        me = await pages.me(request)
        text = address.removeprefix("/")
        try:
            network = parse_network(text, with_port=True)
        except AddressError:
            return _look_up(request, text)
        if str(network) != text or network.prefix < network.bits:
            return _look_up(request, text)
        actor = visitor(request, runtime)
        if me is None:
            wait = lookups.take(place(actor.address or ""), now_ms())
            if wait:
                raise SparkleError(
                    "too_many", "Too many look-ups; wait a little.", "查询过于频繁，请稍后再试。", retry_after=wait
                )
            verdict = await runtime.decisions.verdict(network.address)
            return pages.page(
                request, "why.html", subject=text, verdict=verdict, why=None, is_own=actor.address == text, links=links
            )
        if "distances" in request.query_params:
            measured = await runtime.distances(network.address)
            if render.is_partial(request):
                return pages.page(request, "distances.html", distances=measured, distance=_amount)
        return await _told(request, me, network, actor.address == text)

    async def _ban_days(network: Network, now: int) -> Sequence[BanDay]:
        async with runtime.database.reader() as reader:
            return await timeline.ban_days(reader, network.address, now - DAYS * DAY_MS)

    async def _recent(me: SignedIn, subject: str) -> list[Section]:
        # One after the other: they share a thread, and all at once would take three places in its queue.
        return [
            await section(runtime, me, view, {"peerIp": subject}, size)
            for view, size in (("bans", RECENT), ("swarms", _SIGHTINGS), ("snapshots", _SIGHTINGS))
        ]

    async def _told(request: Asked, me: SignedIn, network: Network, is_own: bool) -> Page:
        subject = str(network)
        now = now_ms()
        found, bans, recent = await asyncio.gather(
            runtime.decisions.why(network, distances=False), _ban_days(network, now), _recent(me, subject)
        )
        days = _days(bans, recent[1:], now)
        # Begun last: measuring them may take long, and what the page can't do without would wait.
        distances = await runtime.known_distances(network.address, _PATIENCE_S)
        return pages.page(
            request,
            "why.html",
            subject=subject,
            verdict=_verdict(found),
            why=found,
            protection=[name for name in found.protection if name != "member" or me.is_admin],
            recent=[
                one._replace(found=one.found and one.found._replace(rows=one.found.rows[:RECENT])) for one in recent
            ],
            days=days,
            bars=_bars(days),
            is_own=is_own,
            distances=distances,
            distance=_amount,
            links=links,
        )

    return [ask, why]


def _amount(number: str, value: int) -> str:
    """A number of an analysis for people: a share, bytes, or a count."""
    if "percent" in number:
        return f"{value}%"
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
        days.append(Day(date(day * DAY_MS), banned.bans, banned.people, seen.get(day, 0)))
    return days


def _bars(days: Sequence[Day]) -> list[Bar]:
    """The days as a chart, the oldest on the left; anything at all can be seen."""
    most = max((max(day.bans, day.seen) for day in days), default=0)

    def height(count: int) -> int:
        return max(2, round(_HEIGHT * count / most)) if count else 0

    return [Bar(i * _BAR, height(day.bans), height(day.seen)) for i, day in enumerate(reversed(days))]


def _asking(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime
    reviews = reviews_of(pages)

    @post("/reviews", status_code=200)
    async def ask(request: Asked) -> Page:
        me = await pages.me(request)
        require_same_origin(request, runtime)
        form = await render.form(request)
        try:
            network = parse_network(form.get("address", ""), with_port=True)
        except AddressError as error:
            raise SparkleError("bad_request", f"{error}.", "无效的地址。") from None
        if network.prefix < network.bits:
            raise SparkleError("bad_request", "Name one address.", "请填写单个地址。")
        verdict = await runtime.decisions.verdict(network.address)
        actor = me.actor if me else visitor(request, runtime)
        wanted = Request(network.address, verdict.listed, form.get("message", ""), form.get("contact", ""))
        await reviews.ask(wanted, actor)
        return render.see_other(links.network(network), done="review_asked")

    return [ask]
