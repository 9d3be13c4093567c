"""The first page: what this server has seen, decided and stored."""

from typing import NamedTuple

from litestar import MediaType, Response, get

from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web.access import MEMBERS
from sparkle_lite.http.web.render import Page, page, see_other
from sparkle_lite.http.web.sign_in import wanted_page
from sparkle_lite.observations.stored import BANS, SPANS, Series
from sparkle_lite.server import Server
from sparkle_lite.units import DAY_S

# Applications that the first page names.
_CLIENTS = 8


class Period(NamedTuple):
    """What came in from an instant (ms) on, for a day or a week."""

    at: int
    snapshots: int = 0
    histories: int = 0
    submissions: int = 0
    bans: int = 0


@get("/", guards=MEMBERS)
async def overview(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """The first page, or what somebody wanted before they signed in, or the guide where nobody has gone through it."""
    wanted = wanted_page(request)
    if wanted is not None:
        return wanted
    if me.is_admin and not await server.settings.is_welcomed():
        return see_other("/welcome")
    apps = await server.apps.all(None if me.is_admin else me.user.id)
    seen = sorted((app for app in apps if app.last_access_at), key=lambda app: -(app.last_access_at or 0))
    return page(
        request,
        "home.html",
        figures=await server.overview.figures(),
        seen=seen[:_CLIENTS],
        needs_vouching=me.is_admin and await _needs_vouching(server),
        asked_to_look=await server.reviews.count_open() if me.is_admin else 0,
        lists_stay=await server.imports.count_troubled() if me.is_admin else 0,
        size=server.housekeeping.measured,
        state=server.readiness(),
        span=_span(request),
        periods=_periods(await server.overview.activity(_span(request))),
        spans=list(SPANS),
        limit=BANS,
    )


@get("/overview.json", guards=MEMBERS)
async def activity(request: AnyRequest, server: Injected[Server]) -> Response[dict[str, object]]:
    """The numbers of the charts."""
    series = await server.overview.activity(_span(request))
    content: dict[str, object] = {"times": series.times, "submissions": series.submissions, "rows": series.rows}
    return Response(content, media_type=MediaType.JSON, headers={"cache-control": "no-store"})


HANDLERS = (overview, activity)


async def _needs_vouching(server: Server) -> bool:
    """Whether members report whose word counts for nothing, as nobody is vouched for."""
    # Whether there is anybody is quickly told; what everybody reported takes longer.
    if await server.users.has_vouched():
        return False
    reported = await server.overview.reported()
    return await server.users.has_silent({user for user, each in reported.items() if each.recent})


def _periods(series: Series) -> list[Period]:
    """A series by days, or by its own steps where those are longer; the newest first."""
    found: dict[int, Period] = {}
    for index, at in enumerate(series.times):
        step = at // DAY_S * DAY_S
        before = found.get(step, Period(step * 1000))
        rows = series.rows
        found[step] = Period(
            at=before.at,
            snapshots=before.snapshots + rows["snapshot"][index],
            histories=before.histories + rows["swarm"][index],
            submissions=before.submissions + series.submissions[index],
            bans=before.bans + rows["ban"][index],
        )
    return list(found.values())[::-1]


def _span(request: AnyRequest) -> str:
    asked = request.query_params.get("span", "")
    return asked if asked in SPANS else "week"
