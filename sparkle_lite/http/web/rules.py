"""The rules: what is listed, what waits for review, what changed, why, and what administrators decide by hand."""

from collections.abc import Collection
from typing import Any, NamedTuple, cast, get_args

from litestar import get, post

from sparkle_lite.config import Duration, Refused
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web import paging
from sparkle_lite.http.web.access import ADMINS, MEMBERS
from sparkle_lite.http.web.render import Page, PostedForm, local, page, see_other, texts_of
from sparkle_lite.net import AddressError, address_text, parse_network
from sparkle_lite.rules.decisions import (
    BY_HAND_MS,
    PARDON_MS,
    Action,
    Change,
    Cursor,
    Decision,
    DecisionFilter,
    New,
    State,
    TargetKind,
)
from sparkle_lite.rules.guard import Obstacle
from sparkle_lite.server import Server
from sparkle_lite.texts import Phrase
from sparkle_lite.units import INT64_MAX

SIZE = 50
KINDS = get_args(TargetKind)
LIFETIMES = ("1d", "7d", "30d", "90d", "365d")
_FOREVER = "forever"
# Of the rules that a program is not told so many are named.
_FEW = 20


class DecisionRow(NamedTuple):
    """A decision, or one that a run would begin, with its state and reason, and why it is told to nobody."""

    decision: Decision | New
    state: str
    reason: Phrase
    withheld: Obstacle | None = None


async def frame(server: Server) -> dict[str, Any]:
    """What the tabs show: how much waits for review, and how many have asked for one."""
    counts = await server.decisions.counts()
    held = sum(number for (_, state), number in counts.items() if state == "held")
    return {"held": held, "asked_to_look": await server.reviews.count_open()}


# --- Reading ----------------------------------------------------------------------------------------------------------


@get("/rules", guards=MEMBERS)
async def rules(request: AnyRequest, server: Injected[Server]) -> Page:
    """What is listed and allowed, by several filters."""
    given = request.query_params
    refusal, within = "", None
    if text := given.get("ip", "").strip():
        try:
            within = parse_network(text, with_port=True)
        except AddressError:
            refusal = texts_of(request)("why.no_address", text=text[:128])
    wanted = DecisionFilter(
        action=cast(Action | None, _one_of(given.get("action"), get_args(Action))),
        state=cast(State | None, _one_of(given.get("state"), get_args(State))),
        origin=given.get("origin") or None,
        within=within,
    )
    untold = server.publisher.untold
    return await _table_page(request, server, "rules.html", wanted, refusal=refusal, ip=text, untold=untold, few=_FEW)


@get("/rules/held", guards=MEMBERS)
async def held(request: AnyRequest, server: Injected[Server]) -> Page:
    """What waits for somebody to approve it."""
    wanted = DecisionFilter("deny", "held", request.query_params.get("origin") or None)
    counts = await server.decisions.counts()
    waiting = {name: number for (name, state), number in sorted(counts.items()) if state == "held"}
    return await _table_page(request, server, "rules_held.html", wanted, waiting=waiting)


@get("/rules/exceptions", guards=MEMBERS)
async def exceptions(request: AnyRequest, server: Injected[Server]) -> Page:
    """Whom no rule may touch."""
    return await _table_page(request, server, "rules_exceptions.html", DecisionFilter("allow", "active"), kinds=KINDS)


async def _table_page(
    request: AnyRequest, server: Server, template: str, wanted: DecisionFilter, **values: Any
) -> Page:
    """A page of decisions, the newest first."""
    at = paging.position(request.query_params, paging.row_id)
    found, moment = await server.decisions.page(wanted, at, SIZE + 1)
    part = paging.cut(found, at, SIZE, lambda one: str(one.id))
    counts = await server.decisions.counts()
    withheld = await server.decisions.withheld(part.rows)
    return page(
        request,
        template,
        rows=[_row(server, one, moment)._replace(withheld=withheld.get(one.id)) for one in part.rows],
        part=part,
        origins=sorted({origin for origin, _ in counts} | {"admin", "config"}),
        wanted=wanted,
        parameters=_kept(request),
        lifetimes=LIFETIMES,
        forever=_FOREVER,
        **await frame(server),
        **values,
    )


def _row(server: Server, decision: Decision, moment: int) -> DecisionRow:
    return DecisionRow(decision, decision.state_at(moment), server.decisions.reason(decision))


@get("/rules/changes", guards=MEMBERS)
async def changes(request: AnyRequest, server: Injected[Server]) -> Page:
    """What began and what ended, the newest first."""
    at = paging.position(request.query_params, _moment)
    found = await server.decisions.changes(at, SIZE + 1)
    part = paging.cut(found, at, SIZE, lambda one: f"{one.at}.{one.decision.id}.{one.ended:d}")
    rows = [(change.at, change.ended, _row_then(server, change)) for change in part.rows]
    values = await frame(server)
    return page(request, "rules_changes.html", rows=rows, part=part, parameters=_kept(request), **values)


def _row_then(server: Server, change: Change) -> DecisionRow:
    """The decision of a change as it was then."""
    return _row(server, change.decision, change.at if change.ended else change.decision.created_at)


def _kept(request: AnyRequest) -> dict[str, str]:
    """The parameters that the links of a page keep."""
    return {name: value for name, value in request.query_params.items() if name != "done" and value}


def _one_of(text: str | None, known: Collection[str]) -> str | None:
    return text if text in known else None


def _moment(text: str) -> Cursor | None:
    parts = [paging.row_id(part) for part in text.split(".")]
    if len(parts) != 3 or None in parts:
        return None
    at, decision_id, ended = cast(list[int], parts)
    return at, decision_id, bool(ended)


# --- By hand ----------------------------------------------------------------------------------------------------------


@get("/rules/deny", guards=ADMINS)
async def deny_form(request: AnyRequest, server: Injected[Server]) -> Page:
    """The form for a rule by hand."""
    given = request.query_params
    return page(
        request,
        "rules_deny.html",
        kind=_one_of(given.get("kind"), KINDS) or "ip",
        target=given.get("target", ""),
        kinds=KINDS,
        lifetimes=LIFETIMES,
        forever=_FOREVER,
        **await frame(server),
    )


@post("/rules/deny", status_code=200, guards=ADMINS)
async def deny(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """List an address, a client name or a peer id."""
    target, note = form.get("target", ""), form.get("reason", "")
    decision = await server.decisions.deny(_kind(form), target, note, _lifetime(form, BY_HAND_MS), me.actor)
    return _decided(form, "rule_held" if decision.state == "held" else "rule_denied")


@post("/rules/allow", status_code=200, guards=ADMINS)
async def allow(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Keep all rules from something."""
    target, note = form.get("target", ""), form.get("reason", "")
    await server.decisions.allow(_kind(form), target, note, _lifetime(form, BY_HAND_MS), me.actor)
    return _decided(form, "rule_allowed")


@post("/rules/pardon", status_code=200, guards=ADMINS)
async def pardon(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """End what lists something, and keep it from being listed again for a while."""
    lifetime = _lifetime(form, PARDON_MS) or PARDON_MS
    await server.decisions.pardon(form.get("target", ""), form.get("reason", ""), me.actor, lifetime)
    return _decided(form, "rule_pardoned")


def _decided(form: PostedForm, done: str) -> Page:
    """Go back to where a decision was made."""
    return see_other(local(form.get("back") or "/rules"), done=done)


def _kind(form: PostedForm) -> TargetKind:
    kind = form.get("kind", "ip")
    if kind not in KINDS:
        raise SparkleError("bad_request", "decision.no_kind", kind=kind[:64])
    return cast(TargetKind, kind)


def _lifetime(form: PostedForm, usual: int) -> int | None:
    """How long a decision lasts in ms, None for ever."""
    text = form.get("expires", "")
    if text == _FOREVER:
        return None
    try:
        lifetime = int(Duration.parse(text)) if text else usual
    except Refused as refused:
        raise SparkleError("bad_request", "decision.bad_lifetime", why=str(refused)) from None
    if lifetime <= 0:
        raise SparkleError("bad_request", "decision.no_time")
    return lifetime


# --- Review -----------------------------------------------------------------------------------------------------------


@post("/rules/{decision_id:int}/approve", status_code=200, guards=ADMINS)
async def approve(
    server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], decision_id: int
) -> Page:
    """Let a held decision count."""
    await server.decisions.approve(_stored(decision_id), me.actor)
    return _decided(form, "rule_approved")


@post("/rules/{decision_id:int}/refuse", status_code=200, guards=ADMINS)
async def refuse(
    server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], decision_id: int
) -> Page:
    """End a held decision."""
    await server.decisions.refuse(_stored(decision_id), me.actor)
    return _decided(form, "rule_refused")


@post("/rules/{decision_id:int}/withdraw", status_code=200, guards=ADMINS)
async def withdraw(
    server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], decision_id: int
) -> Page:
    """End a decision."""
    await server.decisions.withdraw(_stored(decision_id), me.actor)
    return _decided(form, "rule_withdrawn")


@post("/rules/held/approve", status_code=200, guards=ADMINS)
async def approve_held(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Let all held decisions of an origin count."""
    await server.decisions.approve_held(form.get("origin", ""), me.actor)
    return _decided(form, "rule_approved")


@post("/rules/held/refuse", status_code=200, guards=ADMINS)
async def refuse_held(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """End all held decisions of an origin."""
    await server.decisions.refuse_held(form.get("origin", ""), me.actor)
    return _decided(form, "rule_refused")


def _stored(row_id: int) -> int:
    """A row id of a URL as the database can be asked for it: beyond its last there is nothing."""
    return min(row_id, INT64_MAX)


# --- What people asked us to look at ----------------------------------------------------------------------------------


@get("/rules/reviews", guards=ADMINS)
async def reviews(request: AnyRequest, server: Injected[Server]) -> Page:
    """What people asked us to look at, the newest first."""
    is_open = request.query_params.get("state") != "closed"
    at = paging.position(request.query_params, paging.row_id)
    part = paging.cut(await server.reviews.page(is_open, at, SIZE + 1), at, SIZE, lambda one: str(one.id))
    return page(
        request,
        "rules_reviews.html",
        rows=[{"review": one, "text": address_text(one.address)} for one in part.rows],
        part=part,
        is_open=is_open,
        parameters=_kept(request),
        **await frame(server),
    )


@post("/rules/reviews/{review_id:int}/close", status_code=200, guards=ADMINS)
async def close_review(
    server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], review_id: int
) -> Page:
    """Note that somebody has looked at it."""
    await server.reviews.close(_stored(review_id), form.get("note", ""), me.actor)
    return see_other("/rules/reviews", done="review_closed")


HANDLERS = (
    *(rules, held, exceptions, changes),
    *(deny_form, deny, allow, pardon),
    *(approve, refuse, withdraw, approve_held, refuse_held),
    *(reviews, close_review),
)
