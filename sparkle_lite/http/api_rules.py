"""The REST API of rules: what is listed and why, the log of it, and what administrators decide.

Reporters are counts here, never names. What protects a member is told to administrators alone: it would say whose
address it is.
"""

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from xml.sax.saxutils import escape

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.datastructures import CacheControlHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from sparkle_lite.config import Duration, Refused
from sparkle_lite.db.decisions import Action, Change, Cursor, Decision, State, Wanted
from sparkle_lite.db.orders import Position
from sparkle_lite.decisions import BY_HAND_MS, PARDON_MS, Decisions, Match, TargetKind, Why
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.api_accounts import Answer, Sentence
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.ready import REVALIDATE, ready, respond
from sparkle_lite.http.requests import base_url, only
from sparkle_lite.http.session import SignedIn, require_admin, signed_in
from sparkle_lite.net import AddressError, Network, parse_network
from sparkle_lite.reasons import Reason
from sparkle_lite.runtime import Runtime

Asked = Request[Any, Any, Any]

MAX_LIMIT = 1000
_BODY_BYTES = 65_536
_INT64 = (1 << 63) - 1


# --- What goes out ----------------------------------------------------------------------------------------------------


class Evidence(msgspec.Struct, frozen=True, rename="camel"):
    """What a decision rests on: how many people (counted once per network), when first and last (ms)."""

    people: int
    formula: int
    first_seen: int
    last_seen: int


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """A decision. `state` is the one at the moment that was asked for; times in ms, null for never.

    `target` is a canonical network, a port, a script, or a matcher as JSON text; `numbers` is what `reason` says.
    """

    id: int
    kind: str
    target: str
    action: Action
    state: str
    origin: str
    category: str
    code: str
    numbers: dict[str, int | float]
    reason: Sentence
    evidence: Evidence | None
    held_for: str | None
    note: str | None
    created_at: int
    expires_at: int | None
    ended_at: int | None


class RulePage(msgspec.Struct, frozen=True):
    """Newest first; pass `next` as `after` for what is older. It is null at the end."""

    results: list[Rule]
    next: int | None


class ChangeEntry(msgspec.Struct, frozen=True):
    """What happened at a moment (ms): a decision began in some state, or was over and why."""

    at: int
    change: str
    rule: Rule


class ChangePage(msgspec.Struct, frozen=True):
    """Newest first; pass `next` as `after` for what is older. It is null at the end."""

    results: list[ChangeEntry]
    next: str | None


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """Everything about one target.

    `listed`: clients are told to ban it now. `rules` are all decisions that match, also those over within 90 days.
    `protectedBy` says what keeps it from being listed: excepted, own, special, and for administrators member.
    `distances` say for each analysis how far an address is from being listed.
    """

    subject: str
    listed: bool
    protected_by: list[str]
    rules: list[Rule]
    distances: list["DistanceEntry"]


class DistanceEntry(msgspec.Struct, frozen=True):
    """One number of an analysis: what there is, and what it takes."""

    analysis: str
    number: str
    have: int
    need: int


class Pardon(msgspec.Struct, frozen=True):
    """The exception that a pardon made, what it ended, and what still stands behind the exception."""

    exception: Rule
    ended: list[Rule]
    standing: list[Rule]


class Reviewed(msgspec.Struct, frozen=True):
    """How many decisions were approved or refused."""

    count: int


# --- What comes in ----------------------------------------------------------------------------------------------------


class Decide(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to list or to allow: a network, or a matcher of peer ids or client names.

    `expires` is a duration ("7d", "12h"), null for ever; without it 30 days. `reason` is shown to whoever is signed in.
    """

    target: Annotated[str, msgspec.Meta(examples=["203.0.113.7"])]
    kind: TargetKind = "ip"
    reason: str = ""
    expires: str | msgspec.UnsetType | None = msgspec.UNSET


class PardonRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which address or network to pardon; `expires` is how long its exception lasts."""

    target: Annotated[str, msgspec.Meta(examples=["203.0.113.7"])]
    reason: str = ""
    expires: str = "7d"


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose decisions: the name of an analysis, or `import:<list>`."""

    origin: Annotated[str, msgspec.Meta(examples=["untrusted_vote"])]


Limit = Annotated[
    int, QueryParameter(description="Entries in a page.", schema_extra={"minimum": 1, "maximum": MAX_LIMIT})
]
# The framework keeps the name `state` for itself.
Standing = Annotated[State | None, QueryParameter(name="state", description="Only rules in this state.")]
After = Annotated[int | None, QueryParameter(description="`next` of the page before.")]

_EXAMPLE = Rule(
    id=12,
    kind="ip",
    target="203.0.113.7",
    action="deny",
    state="active",
    origin="untrusted_vote",
    category="untrusted_vote",
    code="progress_cheater",
    numbers={"people": 4, "torrents": 3},
    reason=Sentence("4 people saw it cheat about its progress on 3 torrents", "4 人发现其谎报下载进度，涉及 3 个种子"),
    evidence=Evidence(4, 1, 1723916701954, 1723974023732),
    held_for=None,
    note=None,
    created_at=1723974917039,
    expires_at=1725184517039,
    ended_at=None,
)
_FORBIDDEN = "Not signed in, banned, or not allowed to; the sentence says which."
_INVALID = "Something in the request is not valid; the sentence names it."
_UNKNOWN = "There is no such decision."
_CONFLICT = "It is over, it stands in the configuration, or it must never be listed; the sentence says which."


def _documented(shape: Any, text: str, data: object, /, **refusals: str) -> dict[int, ResponseSpec]:
    """The answers of an operation: what a 200 holds, and why it refuses (`r404="..."`)."""
    refusals = {"r403": _FORBIDDEN, **refusals}
    example = Example(value=msgspec.to_builtins(Answer(True, None, data)))
    answers = {200: ResponseSpec(shape, generate_examples=False, description=text, examples=[example])}
    for status, why in refusals.items():
        answers[int(status[1:])] = ResponseSpec(Envelope, generate_examples=False, description=why)
    return answers


# --- The operations ---------------------------------------------------------------------------------------------------


def routes(runtime: Runtime) -> list[Router]:
    """The handlers of one server."""
    return [
        Router(
            "/api",
            route_handlers=[*_reading(runtime), *_why(runtime), *_deciding(runtime), *_reviewing(runtime)],
            cache_control=CacheControlHeader(no_store=True),
            request_max_body_size=_BODY_BYTES,
            tags=["rules"],
        )
    ]


def _reading(runtime: Runtime) -> list[HTTPRouteHandler]:
    @get(
        "/rules",
        summary="The rules in force, waiting for review, or in shadow",
        operation_id="listRules",
        description="`ip` asks for those that share addresses with an address or network.",
        responses=_documented(Answer[RulePage], "One page.", RulePage([_EXAMPLE], None), r400=_INVALID),
    )
    async def list_rules(
        request: Asked,
        action: Action | None = None,
        standing: Standing = None,
        origin: str | None = None,
        ip: str | None = None,
        after: After = None,
        limit: Limit = 100,
    ) -> Answer[RulePage]:
        me = await signed_in(request, runtime)
        _only(request, action=action, state=standing, origin=origin, ip=ip, after=after, limit=limit)
        return _ok(await _page(runtime, me, _wanted(action, standing, origin, ip), after, limit, None))

    @get(
        "/rules/at",
        summary="The rules as they stood at a moment",
        operation_id="listRulesAt",
        description="`time` is in ms since the epoch, within the last two years.",
        responses=_documented(Answer[RulePage], "One page.", RulePage([_EXAMPLE], None), r400=_INVALID),
    )
    async def list_rules_at(
        request: Asked,
        time: int,
        action: Action | None = None,
        standing: Standing = None,
        origin: str | None = None,
        ip: str | None = None,
        after: After = None,
        limit: Limit = 100,
    ) -> Answer[RulePage]:
        me = await signed_in(request, runtime)
        _only(request, time=time, action=action, state=standing, origin=origin, ip=ip, after=after, limit=limit)
        if not 0 <= time <= _INT64:
            raise _bad("time must be ms since the epoch.")
        return _ok(await _page(runtime, me, _wanted(action, standing, origin, ip), after, limit, time))

    @get(
        "/rules/changes",
        summary="The log of rules: what began, what was over, and why",
        operation_id="listRuleChanges",
        description="`format=atom` gives the newest as an Atom feed.",
        responses=_documented(
            Answer[ChangePage],
            "One page.",
            ChangePage([ChangeEntry(1723974917039, "active", _EXAMPLE)], None),
            r400=_INVALID,
        ),
    )
    async def list_changes(
        request: Asked,
        after: Annotated[str | None, QueryParameter(description="`next` of the page before.")] = None,
        limit: Limit = 100,
        form: Annotated[Literal["json", "atom"], QueryParameter(name="format")] = "json",
    ) -> Response[Any]:
        me = await signed_in(request, runtime)
        _only(request, after=after, limit=limit, format=form)
        _check_limit(limit)
        found = await runtime.decisions.changes(Position(_cursor(after)), limit)
        if form == "atom":
            server = runtime.config.server
            feed = _atom(found, runtime.decisions, base_url(request.scope, server.public_url, server.trusted_proxies))
            document = ready("application/atom+xml; charset=utf-8", feed, packed=False)
            return respond(request.scope, document, {"cache-control": REVALIDATE})
        entries = [_change(one, runtime.decisions, me) for one in found]
        last = _cursor_of(found[-1]) if len(found) == limit else None
        return Response(_ok(ChangePage(entries, last)))

    return [list_rules, list_rules_at, list_changes]


def _why(runtime: Runtime) -> list[HTTPRouteHandler]:
    @get(
        "/why",
        summary="Why an address, client name or peer id is listed, or how far it is from that",
        operation_id="why",
        description="Give one of the three. Reporters are counted, never named.",
        responses=_documented(
            Answer[Explanation],
            "Everything about it.",
            Explanation("203.0.113.7", True, [], [_EXAMPLE], [DistanceEntry("over_download", "min_people", 2, 3)]),
            r400=_INVALID,
        ),
    )
    async def why(
        request: Asked, ip: str | None = None, client_name: str | None = None, peer_id: str | None = None
    ) -> Answer[Explanation]:
        me = await signed_in(request, runtime)
        _only(request, ip=ip, client_name=client_name, peer_id=peer_id)
        if sum(value is not None for value in (ip, client_name, peer_id)) != 1:
            raise _bad("Give one of ip, client_name and peer_id.")
        if ip is not None:
            return _ok(_explained(await runtime.decisions.why(_network(ip)), me))
        kind: Literal["client_name", "peer_id"] = "peer_id" if client_name is None else "client_name"
        text = (client_name or peer_id or "")[:512]
        return _ok(_explained(await runtime.decisions.why_named(kind, text), me))

    return [why]


def _deciding(runtime: Runtime) -> list[HTTPRouteHandler]:
    documented = _documented(Answer[Rule], "The decision.", _EXAMPLE, r400=_INVALID, r409=_CONFLICT)

    async def decide(request: Asked, data: Decide, act: Callable[..., Awaitable[Decision]]) -> Answer[Rule]:
        me = await _admin(request, runtime)
        lifetime = BY_HAND_MS if data.expires is msgspec.UNSET else _lifetime(data.expires)
        decision = await act(data.kind, data.target, data.reason, lifetime, me.actor)
        await runtime.publish()
        return _ok(_rule(Match(decision, decision.state, runtime.decisions.reason(decision)), me))

    @post(
        "/rules/deny",
        status_code=200,
        summary="List a network, peer id or client name",
        operation_id="denyRule",
        description="For administrators. An address that a member used in the last 14 days is held for review.",
        responses=documented,
    )
    async def deny(request: Asked, data: Decide) -> Answer[Rule]:
        return await decide(request, data, runtime.decisions.deny)

    @post(
        "/rules/allow",
        status_code=200,
        summary="Except a network, peer id or client name from every rule",
        operation_id="allowRule",
        description="For administrators. An exception wins over every rule of its kind.",
        responses=documented,
    )
    async def allow(request: Asked, data: Decide) -> Answer[Rule]:
        return await decide(request, data, runtime.decisions.allow)

    @post(
        "/rules/pardon",
        status_code=200,
        summary="End the listing of an address or network, and except it for a while",
        operation_id="pardonRule",
        description="For administrators. Stops new bans; those that clients have made end when each client lets them.",
        responses=_documented(Answer[Pardon], "What it did.", Pardon(_EXAMPLE, [_EXAMPLE], []), r400=_INVALID),
    )
    async def pardon(request: Asked, data: PardonRequest) -> Answer[Pardon]:
        me = await _admin(request, runtime)
        done = await runtime.decisions.pardon(data.target, data.reason, me.actor, _lifetime(data.expires) or PARDON_MS)
        await runtime.publish()

        def shown(one: Decision, state: str) -> Rule:
            return _rule(Match(one, state, runtime.decisions.reason(one)), me)

        return _ok(
            Pardon(
                shown(done.exception, "active"),
                [shown(one, "pardoned") for one in done.ended],
                [shown(one, one.state) for one in done.standing],
            )
        )

    return [deny, allow, pardon]


def _reviewing(runtime: Runtime) -> list[HTTPRouteHandler]:
    documented = _documented(Answer[Rule], "The decision.", _EXAMPLE, r404=_UNKNOWN, r409=_CONFLICT)
    counted = _documented(Answer[Reviewed], "How many.", Reviewed(40), r400=_INVALID)

    async def review(request: Asked, number: int, act: Callable[..., Awaitable[Decision]]) -> Answer[Rule]:
        me = await _admin(request, runtime)
        if not 0 < number <= _INT64:
            raise SparkleError("not_found", f"There is no decision {number}.", "没有此决定。")
        decision = await act(number, me.actor)
        await runtime.publish()
        state = decision.end_reason or decision.state
        return _ok(_rule(Match(decision, state, runtime.decisions.reason(decision)), me))

    @post(
        "/rules/{rule_id:int}/approve",
        status_code=200,
        summary="Put a rule that waits for review in force",
        operation_id="approveRule",
        responses=documented,
    )
    async def approve(request: Asked, rule_id: int) -> Answer[Rule]:
        return await review(request, rule_id, runtime.decisions.approve)

    @post(
        "/rules/{rule_id:int}/refuse",
        status_code=200,
        summary="Refuse a rule that waits for review",
        operation_id="refuseRule",
        description="Its analysis does not propose the target again for 30 days.",
        responses=documented,
    )
    async def refuse(request: Asked, rule_id: int) -> Answer[Rule]:
        return await review(request, rule_id, runtime.decisions.refuse)

    @post(
        "/rules/{rule_id:int}/withdraw",
        status_code=200,
        summary="End a rule",
        operation_id="withdrawRule",
        description="An analysis does not propose the target again for 30 days.",
        responses=documented,
    )
    async def withdraw(request: Asked, rule_id: int) -> Answer[Rule]:
        return await review(request, rule_id, runtime.decisions.withdraw)

    async def review_all(request: Asked, origin: str, act: Callable[..., Awaitable[int]]) -> Answer[Reviewed]:
        me = await _admin(request, runtime)
        count = await act(origin, me.actor)
        await runtime.publish()
        return _ok(Reviewed(count))

    @post(
        "/rules/held/approve",
        status_code=200,
        summary="Put everything of one origin that waits for review in force",
        operation_id="approveHeldRules",
        responses=counted,
    )
    async def approve_held(request: Asked, data: Origin) -> Answer[Reviewed]:
        return await review_all(request, data.origin, runtime.decisions.approve_held)

    @post(
        "/rules/held/refuse",
        status_code=200,
        summary="Refuse everything of one origin that waits for review",
        operation_id="refuseHeldRules",
        responses=counted,
    )
    async def refuse_held(request: Asked, data: Origin) -> Answer[Reviewed]:
        return await review_all(request, data.origin, runtime.decisions.refuse_held)

    return [approve, refuse, withdraw, approve_held, refuse_held]


# --- Decisions as answers ---------------------------------------------------------------------------------------------


def _ok(data: Any) -> Answer[Any]:
    return Answer(True, None, data)


def _rule(match: Match, me: SignedIn) -> Rule:
    one, found = match.decision, match.decision.evidence
    is_secret = one.held_for == "member" and not me.is_admin
    return Rule(
        id=one.id,
        kind=one.kind,
        target=(one.text or "") if one.network is None else str(one.network),
        action=one.action,
        state=match.state,
        origin=one.origin,
        category=one.category,
        code=one.code,
        numbers=dict(one.numbers),
        reason=Sentence(*match.reason),
        evidence=Evidence(**found) if found.get("people") else None,
        held_for=None if is_secret else one.held_for,
        note=one.note,
        created_at=one.created_at,
        expires_at=one.expires_at,
        ended_at=one.ended_at,
    )


def _explained(why: Why, me: SignedIn) -> Explanation:
    protection = [name for name in why.protection if name != "member" or me.is_admin]
    distances = [DistanceEntry(*distance) for distance in why.distances]
    return Explanation(why.subject, why.listed, list(protection), [_rule(m, me) for m in why.matches], distances)


async def _page(
    runtime: Runtime, me: SignedIn, wanted: Wanted, after: int | None, limit: int, at: int | None
) -> RulePage:
    _check_limit(limit)
    if after is not None and not 0 <= after <= _INT64:
        raise _bad("after must be the `next` of the page before.")
    found, moment = await runtime.decisions.page(wanted, Position(after), limit, at)
    rules = [_rule(Match(one, one.state_at(moment), runtime.decisions.reason(one)), me) for one in found]
    return RulePage(rules, found[-1].id if len(found) == limit else None)


def _change(change: Change, decisions: Decisions, me: SignedIn) -> ChangeEntry:
    state = _state_of(change)
    return ChangeEntry(change.at, state, _rule(Match(change.decision, state, decisions.reason(change.decision)), me))


def _state_of(change: Change) -> str:
    return change.decision.state_at(change.at) if change.ended else change.decision.state


_TITLES = {
    ("deny", "active"): "Listed",
    ("deny", "held"): "Held for review",
    ("deny", "shadow"): "Would be listed",
    ("allow", "active"): "Allowed",
}


def _atom(changes: list[Change], decisions: Decisions, base: str) -> bytes:
    """The changes as a feed (RFC 4287)."""
    updated = _moment(changes[0].at if changes else 0)
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<title>Rules</title><id>{_xml(base)}/api/rules/changes</id><updated>{updated}</updated>"
        "<author><name>Sparkle Lite</name></author>"
        f'<link rel="self" href="{_xml(base)}/api/rules/changes?format=atom"/>'
    )
    return (head + "".join(_entry(one, decisions.reason(one.decision), base) for one in changes) + "</feed>\n").encode()


def _entry(change: Change, why: Reason, base: str) -> str:
    one = change.decision
    target = (one.text or "")[:200] if one.network is None else str(one.network)
    state = _state_of(change)
    title = f"{_TITLES.get((one.action, state), state.capitalize())}: {target}"
    body = f"{one.origin}: {why.en}. {why.zh}。"
    return (
        f"<entry><title>{_xml(title)}</title><id>{_xml(base)}/api/rules/changes#{one.id}-{int(change.ended)}</id>"
        f"<updated>{_moment(change.at)}</updated><content>{_xml(body)}</content></entry>"
    )


def _xml(text: str) -> str:
    # XML has no way to write most control characters at all.
    return escape(
        "".join(char if char >= " " and char not in "\ufffe\uffff" else " " for char in text), {'"': "&quot;"}
    )


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- Requests ---------------------------------------------------------------------------------------------------------


async def _admin(request: Asked, runtime: Runtime) -> SignedIn:
    me = await signed_in(request, runtime)
    require_admin(me)
    return me


def _bad(message: str) -> SparkleError:
    return SparkleError("bad_request", message, "无效参数。")


def _only(request: Asked, **known: object) -> None:
    """Refuse parameters that aren't there, come twice, or are null."""
    only(request.query_params.multi_items(), known)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise _bad(f"limit must be 1 to {MAX_LIMIT}.")


def _wanted(action: Action | None, state: State | None, origin: str | None, ip: str | None) -> Wanted:
    return Wanted(action, state, origin, None if ip is None else _network(ip))


def _network(text: str) -> Network:
    try:
        return parse_network(text, with_port=True)
    except AddressError as error:
        raise _bad(f"{error}.") from None


def _lifetime(text: str | None) -> int | None:
    """A duration in ms, None for ever."""
    if text is None:
        return None
    try:
        lifetime = int(Duration.parse(text))
    except Refused as refused:
        raise _bad(f"expires: {refused}.") from None
    if lifetime <= 0:
        raise _bad("expires: it must last some time.")
    return lifetime


def _cursor_of(change: Change) -> str:
    text = f"{change.at}.{change.decision.id}.{int(change.ended)}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        at, number, ended = map(int, raw.split("."))
    except ValueError:
        raise _bad("after must be the `next` of the page before.") from None
    if not (0 <= at <= _INT64 - 1 and 0 <= number <= _INT64 - 1):
        raise _bad("after must be the `next` of the page before.")
    return at, number, bool(ended)
