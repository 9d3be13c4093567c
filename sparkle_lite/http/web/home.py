"""The first page: what this server has seen, decided and stored."""

import re
from typing import NamedTuple

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.db.overview import BANS, SPANS, Series
from sparkle_lite.http.web.render import Asked, Page, Pages, page, see_other
from sparkle_lite.http.web.sign_in import wanted_page

_PROGRAM = re.compile(r"([A-Za-z][A-Za-z0-9._ -]{0,39})/v?([0-9][0-9A-Za-z.+_-]{0,23})")
# Applications that the first page names.
_CLIENTS = 8
_DAY_S = 86_400


class Period(NamedTuple):
    """What came in from an instant (ms) on, for a day or a week."""

    at: int
    snapshots: int
    histories: int
    submissions: int
    bans: int


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    runtime = pages.runtime

    @get("/")
    async def overview(request: Asked) -> Page:
        me = await pages.member(request)
        wanted = wanted_page(request)
        if wanted is not None:
            return wanted
        if me.is_admin and not await runtime.settings.is_welcomed():
            return see_other("/welcome")
        apps = await runtime.accounts.apps(None if me.is_admin else me.user.id)
        seen = sorted((app for app in apps if app.last_access_at), key=lambda app: -(app.last_access_at or 0))
        return page(
            request,
            "home.html",
            figures=await runtime.overview.figures(),
            seen=seen[:_CLIENTS],
            asked_to_look=await pages.runtime.reviews.count_open() if me.is_admin else 0,
            program=program,
            size=runtime.housekeeping.measured,
            state=runtime.readiness(),
            span=_span(request),
            periods=_periods(await runtime.overview.activity(_span(request))),
            spans=list(SPANS),
            limit=BANS,
        )

    @get("/overview.json")
    async def activity(request: Asked) -> Response[dict[str, object]]:
        """The numbers of the charts."""
        await pages.member(request)
        series = await runtime.overview.activity(_span(request))
        content: dict[str, object] = {"times": series.times, "submissions": series.submissions, "rows": series.rows}
        return Response(content, media_type=MediaType.JSON, headers={"cache-control": "no-store"})

    return [overview, activity]


def _periods(series: Series) -> list[Period]:
    """A series by days, or by its own steps where those are longer; the newest first."""
    found: dict[int, Period] = {}
    for index, at in enumerate(series.times):
        step = at // _DAY_S * _DAY_S
        before = found.get(step, Period(step * 1000, 0, 0, 0, 0))
        rows = series.rows
        found[step] = Period(
            before.at,
            before.snapshots + rows["snapshot"][index],
            before.histories + rows["swarm"][index],
            before.submissions + series.submissions[index],
            before.bans + rows["ban"][index],
        )
    return list(found.values())[::-1]


def _span(request: Asked) -> str:
    asked = request.query_params.get("span", "")
    return asked if asked in SPANS else "week"


def program(user_agent: str | None) -> str:
    """The name and version of a client program as it calls itself, "" for none."""
    match = _PROGRAM.match(user_agent or "")
    return f"{match[1]} {match[2]}" if match else (user_agent or "")[:40]
