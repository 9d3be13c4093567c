"""The rules: what is listed, what waits for review, what changed, why, and what administrators decide by hand."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast, get_args

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.accounts import Actor
from sparkle_lite.config import Duration, Refused
from sparkle_lite.db.decisions import Action, Cursor, Decision, New, State, Wanted
from sparkle_lite.decisions import BY_HAND_MS, PARDON_MS, TargetKind
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import SignedIn
from sparkle_lite.http.web import links, paging, render
from sparkle_lite.http.web.render import Asked, Page, Pages
from sparkle_lite.http.web.why import reviews_of
from sparkle_lite.net import AddressError, address_text, parse_network
from sparkle_lite.reasons import Reason

SIZE = 50
KINDS = get_args(TargetKind)
LIFETIMES = ("1d", "7d", "30d", "90d", "365d")
_FOREVER = "forever"
# Of the rules that a program is not told so many are named.
_FEW = 20
_INT64 = (1 << 63) - 1


class Told(NamedTuple):
    """A decision, or one that a run would begin, with its state and reason."""

    one: Decision | New
    state: str
    reason: Reason


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_reading(pages), *_deciding(pages), *_reviewing(pages), *_requests(pages)]


async def frame(pages: Pages) -> dict[str, Any]:
    """What the tabs show: how much waits for review, and how many have asked for one."""
    counts = await pages.runtime.decisions.counts()
    held = sum(number for (_, state), number in counts.items() if state == "held")
    return {"held": held, "asked_to_look": await reviews_of(pages).count_open()}


def _told(pages: Pages, found: Iterable[Decision], moment: int) -> list[Told]:
    return [Told(one, one.state_at(moment), pages.runtime.decisions.reason(one)) for one in found]


# --- Reading ----------------------------------------------------------------------------------------------------------


def _reading(pages: Pages) -> list[HTTPRouteHandler]:
    async def listing(request: Asked, template: str, wanted: Wanted, **values: Any) -> Page:
        await pages.member(request)
        decisions = pages.runtime.decisions
        at = paging.position(request.query_params, paging.row_id)
        found, moment = await decisions.page(wanted, at, SIZE + 1)
        part = paging.cut(found, at, SIZE, lambda one: str(one.id))
        counts = await decisions.counts()
        return pages.page(
            request,
            template,
            rows=_told(pages, part.rows, moment),
            part=part,
            origins=sorted({origin for origin, _ in counts} | {"admin", "config"}),
            **await frame(pages),
            wanted=wanted,
            parameters=_kept(request),
            lifetimes=LIFETIMES,
            forever=_FOREVER,
            links=links,
            **values,
        )

    @get("/rules")
    async def rules(request: Asked) -> Page:
        await pages.member(request)
        given = request.query_params
        refusal, within = "", None
        if text := given.get("ip", "").strip():
            try:
                within = parse_network(text, with_port=True)
            except AddressError:
                refusal = pages.texts(request)("why.no_address", text=text[:128])
        wanted = Wanted(
            cast(Action | None, _one_of(given.get("action"), get_args(Action))),
            cast(State | None, _one_of(given.get("state"), get_args(State))),
            given.get("origin") or None,
            within,
        )
        return await listing(
            request, "rules.html", wanted, refusal=refusal, ip=text, untold=pages.runtime.untold, few=_FEW
        )

    @get("/rules/held")
    async def held(request: Asked) -> Page:
        origin = request.query_params.get("origin") or None
        counts = await pages.runtime.decisions.counts()
        waiting = {name: number for (name, state), number in sorted(counts.items()) if state == "held"}
        return await listing(request, "rules_held.html", Wanted("deny", "held", origin), waiting=waiting)

    @get("/rules/exceptions")
    async def exceptions(request: Asked) -> Page:
        return await listing(request, "rules_exceptions.html", Wanted("allow", "active"), kinds=KINDS)

    @get("/rules/deny")
    async def deny(request: Asked) -> Page:
        await pages.admin(request)
        given = request.query_params
        return pages.page(
            request,
            "rules_deny.html",
            kind=_one_of(given.get("kind"), KINDS) or "ip",
            target=given.get("target", ""),
            kinds=KINDS,
            lifetimes=LIFETIMES,
            forever=_FOREVER,
            **await frame(pages),
        )

    @get("/rules/changes")
    async def changes(request: Asked) -> Page:
        await pages.member(request)
        at = paging.position(request.query_params, _moment)
        found = await pages.runtime.decisions.changes(at, SIZE + 1)
        part = paging.cut(found, at, SIZE, lambda one: f"{one.at}.{one.decision.id}.{one.ended:d}")
        rows = [
            (change.at, change.ended, told)
            for change in part.rows
            for told in _told(pages, [change.decision], change.at if change.ended else change.decision.created_at)
        ]
        values: dict[str, Any] = {"rows": rows, "part": part, "parameters": _kept(request), "links": links}
        return pages.page(request, "rules_changes.html", **values, **await frame(pages))

    return [rules, held, exceptions, deny, changes]


def _kept(request: Asked) -> dict[str, str]:
    """The parameters that the links of a page keep."""
    return {name: value for name, value in request.query_params.items() if name != "done" and value}


def _one_of(text: str | None, known: Collection[str]) -> str | None:
    return text if text in known else None


def _moment(text: str) -> Cursor | None:
    parts = [paging.row_id(part) for part in text.split(".")]
    if len(parts) != 3 or None in parts:
        return None
    at, number, ended = cast(list[int], parts)
    return at, number, bool(ended)


# --- By hand ----------------------------------------------------------------------------------------------------------


def _deciding(pages: Pages) -> list[HTTPRouteHandler]:
    server = pages.runtime

    async def decide(request: Asked, act: Callable[[dict[str, str], Actor], Awaitable[Decision]], done: str) -> Page:
        me = await pages.admin(request)
        form = await render.form(request)
        decision = await act(form, me.actor)
        await server.publish()
        return render.see_other(_back(form), done="rule_held" if decision.state == "held" else done)

    @post("/rules/deny", status_code=200)
    async def deny(request: Asked) -> Page:
        async def act(form: dict[str, str], actor: Actor) -> Decision:
            target, reason = form.get("target", ""), form.get("reason", "")
            return await server.decisions.deny(_kind(form), target, reason, _lifetime(form, BY_HAND_MS), actor)

        return await decide(request, act, "rule_denied")

    @post("/rules/allow", status_code=200)
    async def allow(request: Asked) -> Page:
        async def act(form: dict[str, str], actor: Actor) -> Decision:
            target, reason = form.get("target", ""), form.get("reason", "")
            return await server.decisions.allow(_kind(form), target, reason, _lifetime(form, BY_HAND_MS), actor)

        return await decide(request, act, "rule_allowed")

    @post("/rules/pardon", status_code=200)
    async def pardon(request: Asked) -> Page:
        async def act(form: dict[str, str], actor: Actor) -> Decision:
            lifetime = _lifetime(form, PARDON_MS) or PARDON_MS
            done = await server.decisions.pardon(form.get("target", ""), form.get("reason", ""), actor, lifetime)
            return done.exception

        return await decide(request, act, "rule_pardoned")

    return [deny, allow, pardon]


def _kind(form: Mapping[str, str]) -> TargetKind:
    kind = form.get("kind", "ip")
    if kind not in KINDS:
        raise SparkleError("bad_request", f"There is no kind {kind[:64]!r} of rule.", "没有此规则类型。")
    return cast(TargetKind, kind)


def _lifetime(form: Mapping[str, str], usual: int) -> int | None:
    """How long a decision lasts in ms, None for ever."""
    text = form.get("expires", "")
    if text == _FOREVER:
        return None
    try:
        lifetime = int(Duration.parse(text)) if text else usual
    except Refused as refused:
        raise SparkleError("bad_request", f"{refused}.", "无效的期限。") from None
    if lifetime <= 0:
        raise SparkleError("bad_request", "It must last some time.", "期限必须大于零。")
    return lifetime


def _back(form: Mapping[str, str]) -> str:
    """Where the browser goes after a change."""
    return render.local(form.get("back") or "/rules")


# --- Review -----------------------------------------------------------------------------------------------------------


def _reviewing(pages: Pages) -> list[HTTPRouteHandler]:
    server = pages.runtime

    async def review(request: Asked, number: int, act: Callable[[int, Actor], Awaitable[Decision]], done: str) -> Page:
        me = await pages.admin(request)
        form = await render.form(request)
        await act(min(number, _INT64), me.actor)
        await server.publish()
        return render.see_other(_back(form), done=done)

    @post("/rules/{number:int}/approve", status_code=200)
    async def approve(request: Asked, number: int) -> Page:
        return await review(request, number, server.decisions.approve, "rule_approved")

    @post("/rules/{number:int}/refuse", status_code=200)
    async def refuse(request: Asked, number: int) -> Page:
        return await review(request, number, server.decisions.refuse, "rule_refused")

    @post("/rules/{number:int}/withdraw", status_code=200)
    async def withdraw(request: Asked, number: int) -> Page:
        return await review(request, number, server.decisions.withdraw, "rule_withdrawn")

    async def review_all(request: Asked, act: Callable[[str, Actor], Awaitable[int]], done: str) -> Page:
        me = await pages.admin(request)
        form = await render.form(request)
        await act(form.get("origin", ""), me.actor)
        await server.publish()
        return render.see_other(_back(form), done=done)

    @post("/rules/held/approve", status_code=200)
    async def approve_all(request: Asked) -> Page:
        return await review_all(request, server.decisions.approve_held, "rule_approved")

    @post("/rules/held/refuse", status_code=200)
    async def refuse_all(request: Asked) -> Page:
        return await review_all(request, server.decisions.refuse_held, "rule_refused")

    return [approve, refuse, withdraw, approve_all, refuse_all]


# --- What people asked us to look at ----------------------------------------------------------------------------------


def _requests(pages: Pages) -> list[HTTPRouteHandler]:
    reviews = reviews_of(pages)

    @get("/rules/reviews")
    async def listing(request: Asked) -> Page:
        await pages.admin(request)
        is_open = request.query_params.get("state") != "closed"
        at = paging.position(request.query_params, paging.row_id)
        part = paging.cut(await reviews.page(is_open, at, SIZE + 1), at, SIZE, lambda one: str(one.id))
        return pages.page(
            request,
            "rules_reviews.html",
            rows=[{"review": one, "text": address_text(one.address)} for one in part.rows],
            part=part,
            is_open=is_open,
            parameters=_kept(request),
            links=links,
            **await frame(pages),
        )

    @post("/rules/reviews/{number:int}/close", status_code=200)
    async def close(request: Asked, number: int) -> Page:
        me: SignedIn = await pages.admin(request)
        form = await render.form(request)
        await reviews.close(min(number, _INT64), form.get("note", ""), me.actor)
        return render.see_other("/rules/reviews", done="review_closed")

    return [listing, close]
