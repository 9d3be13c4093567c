"""The REST API of rules: what is listed and why, the log of it, and what administrators decide.

Reporters are counts here, never names. What protects a member is told to administrators alone: it would say whose
address it is.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from xml.sax.saxutils import escape

import msgspec
from litestar import Response, get, post
from litestar.params import QueryParameter

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.analyses.analysis import Need
from sparkle_lite.config import Duration, Refused
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.api.common import Answer, Sentence, allow_only, api_router, documented, invalid, ok, spoken
from sparkle_lite.http.ready import REVALIDATE, ready, respond
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, own_url, requires_admin, requires_sign_in
from sparkle_lite.net import AddressError, Network, parse_network
from sparkle_lite.rules import reasons
from sparkle_lite.rules.decisions import (
    BY_HAND_MS,
    PARDON_MS,
    Action,
    Change,
    Cursor,
    Decision,
    DecisionFilter,
    Decisions,
    Match,
    Position,
    State,
    TargetKind,
    Why,
    shown_obstacle,
)
from sparkle_lite.server import Server
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.units import INT64_MAX

MAX_LIMIT = 1000


# --- What goes out ----------------------------------------------------------------------------------------------------


class EvidenceEntry(msgspec.Struct, frozen=True, rename="camel"):
    """What a decision rests on: how many people (counted once per network), when first and last (ms)."""

    people: int
    formula: int
    first_seen: int
    last_seen: int


class DecisionEntry(msgspec.Struct, frozen=True, rename="camel"):
    """A decision. `state` is the one at the moment that was asked for; times in ms, null for never.

    What is in force and yet told to no client says why in `withheld`.

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
    evidence: EvidenceEntry | None
    held_for: str | None
    note: str | None
    created_at: int
    expires_at: int | None
    ended_at: int | None
    withheld: "Withheld | None" = None


class Withheld(msgspec.Struct, frozen=True):
    """Why a decision in force is told to no client: own, excepted, member (to administrators alone) or protected."""

    code: str
    reason: Sentence


class RulePage(msgspec.Struct, frozen=True):
    """Newest first; pass `next` as `after` for what is older. It is null at the end."""

    results: list[DecisionEntry]
    next: int | None


class ChangeEntry(msgspec.Struct, frozen=True):
    """What happened at a moment (ms): a decision began in some state, or was over and why."""

    at: int
    change: str
    rule: DecisionEntry


class ChangePage(msgspec.Struct, frozen=True):
    """Newest first; pass `next` as `after` for what is older. It is null at the end."""

    results: list[ChangeEntry]
    next: str | None


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """Everything about one target.

    `listed`: clients are told to ban it now. `rules` are all decisions that match, also those over within 90 days.
    `protectedBy` says what keeps it from being listed: excepted, own, special, and for administrators member.
    `distances` say for each analysis how far an address is from being listed. `untried` are rules whose expression
    takes too long on this text, so that nobody knows whether they match.
    """

    subject: str
    listed: bool
    protected_by: list[str]
    rules: list[DecisionEntry]
    distances: list["DistanceEntry"]
    untried: list[DecisionEntry] = []


class DistanceEntry(msgspec.Struct, frozen=True):
    """One number of an analysis: what there is, and what it takes."""

    analysis: str
    number: str
    have: float
    need: float
    met: bool


class Pardon(msgspec.Struct, frozen=True):
    """The exception that a pardon made, what it ended, and what still stands behind the exception."""

    exception: DecisionEntry
    ended: list[DecisionEntry]
    standing: list[DecisionEntry]


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


class OriginRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose decisions: the name of an analysis, or `import:<list>`."""

    origin: Annotated[str, msgspec.Meta(examples=["untrusted_vote"])]


Limit = Annotated[
    int, QueryParameter(description="Entries in a page.", schema_extra={"minimum": 1, "maximum": MAX_LIMIT})
]

# The framework keeps the name `state` for itself.
Standing = Annotated[State | None, QueryParameter(name="state", description="Only rules in this state.")]
After = Annotated[int | None, QueryParameter(description="`next` of the page before.")]
_NUMBERS: dict[str, int | float] = {"people": 4, "torrents": 3, "days": 2, "window_days": 14}
_EXAMPLE = DecisionEntry(
    id=12,
    kind="ip",
    target="203.0.113.7",
    action="deny",
    state="active",
    origin="untrusted_vote",
    category="untrusted_vote",
    code="progress_cheater",
    numbers=_NUMBERS,
    reason=spoken(reasons.reason("progress_cheater", _NUMBERS)),
    evidence=EvidenceEntry(4, 1, 1723916701954, 1723974023732),
    held_for=None,
    note=None,
    created_at=1723974917039,
    expires_at=1725184517039,
    ended_at=None,
)
_UNKNOWN = "There is no such decision."
_CONFLICT = "It is over, it stands in the configuration, or it must never be listed; the sentence says which."


# --- Reading ----------------------------------------------------------------------------------------------------------


@get(
    "/rules",
    summary="The rules in force, waiting for review, or in shadow",
    operation_id="listRules",
    description="`ip` asks for those that share addresses with an address or network.",
    responses=documented(Answer[RulePage], "One page.", RulePage([_EXAMPLE], None)),
)
async def list_rules(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    action: Action | None = None,
    standing: Standing = None,
    origin: str | None = None,
    ip: str | None = None,
    after: After = None,
    limit: Limit = 100,
) -> Answer[RulePage]:
    allow_only(request, action=action, state=standing, origin=origin, ip=ip, after=after, limit=limit)
    return await _page(server, me, _wanted(action, standing, origin, ip), after, limit)


@get(
    "/rules/at",
    summary="The rules as they stood at a moment",
    operation_id="listRulesAt",
    description="`time` is in ms since the epoch, within the last two years.",
    responses=documented(Answer[RulePage], "One page.", RulePage([_EXAMPLE], None)),
)
async def list_rules_at(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    time: int,
    action: Action | None = None,
    standing: Standing = None,
    origin: str | None = None,
    ip: str | None = None,
    after: After = None,
    limit: Limit = 100,
) -> Answer[RulePage]:
    allow_only(request, time=time, action=action, state=standing, origin=origin, ip=ip, after=after, limit=limit)
    if not 0 <= time <= INT64_MAX:
        raise invalid("query.bad_time")
    return await _page(server, me, _wanted(action, standing, origin, ip), after, limit, at=time)


@get(
    "/rules/changes",
    summary="The log of rules: what began, what was over, and why",
    operation_id="listRuleChanges",
    description="`format=atom` gives the newest as an Atom feed.",
    responses=documented(
        Answer[ChangePage], "One page.", ChangePage([ChangeEntry(1723974917039, "active", _EXAMPLE)], None)
    ),
)
async def list_changes(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    after: Annotated[str | None, QueryParameter(description="`next` of the page before.")] = None,
    limit: Limit = 100,
    form: Annotated[Literal["json", "atom"], QueryParameter(name="format")] = "json",
) -> Response[Any]:
    allow_only(request, after=after, limit=limit, format=form)
    _check_limit(limit)
    changes = await server.decisions.changes(Position(_cursor(after)), limit)
    if form == "atom":
        feed = _atom(changes, server.decisions, own_url(request, server))
        document = ready("application/atom+xml; charset=utf-8", feed, packed=False)
        return respond(request.scope, document, {"cache-control": REVALIDATE})
    last = _cursor_of(changes[-1]) if len(changes) == limit else None
    return Response(ok(ChangePage([_change(server, me, change) for change in changes], last)))


@get(
    "/why",
    summary="Why an address, client name or peer id is listed, or how far it is from that",
    operation_id="why",
    description="Give one of the three. Reporters are counted, never named.",
    responses=documented(
        Answer[Explanation],
        "Everything about it.",
        Explanation("203.0.113.7", True, [], [_EXAMPLE], [DistanceEntry("over_download", "min_people", 2, 3, False)]),
    ),
)
async def why(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    ip: str | None = None,
    client_name: str | None = None,
    peer_id: str | None = None,
) -> Answer[Explanation]:
    allow_only(request, ip=ip, client_name=client_name, peer_id=peer_id)
    if sum(value is not None for value in (ip, client_name, peer_id)) != 1:
        raise invalid("query.one_of_three")
    if ip is not None:
        network = _network(ip)
        distances = await server.distances.of(network.address, me.user.id) if network.prefix == network.bits else ()
        return ok(_explained(me, await server.decisions.why(network), distances))
    kind: Literal["client_name", "peer_id"] = "peer_id" if client_name is None else "client_name"
    return ok(_explained(me, await server.decisions.why_named(kind, client_name or peer_id or "")))


# --- Deciding ---------------------------------------------------------------------------------------------------------


@post(
    "/rules/deny",
    status_code=200,
    summary="List a network, peer id or client name",
    operation_id="denyRule",
    description="For administrators. An address that a member used in the last 14 days is held for review.",
    responses=documented(Answer[DecisionEntry], "The decision.", _EXAMPLE, {409: _CONFLICT}),
)
async def deny(server: Injected[Server], me: Injected[SignedIn], data: Decide) -> Answer[DecisionEntry]:
    return await _decide(server, me, data, server.decisions.deny)


@post(
    "/rules/allow",
    status_code=200,
    summary="Except a network, peer id or client name from every rule",
    operation_id="allowRule",
    description="For administrators. An exception wins over every rule of its kind.",
    responses=documented(Answer[DecisionEntry], "The decision.", _EXAMPLE, {409: _CONFLICT}),
)
async def allow(server: Injected[Server], me: Injected[SignedIn], data: Decide) -> Answer[DecisionEntry]:
    return await _decide(server, me, data, server.decisions.allow)


async def _decide(
    server: Server, me: SignedIn, data: Decide, act: Callable[..., Awaitable[Decision]]
) -> Answer[DecisionEntry]:
    lifetime = BY_HAND_MS if data.expires is msgspec.UNSET else _lifetime(data.expires)
    decision = await act(data.kind, data.target, data.reason, lifetime, me.actor)
    return ok(_rule(server, me, decision, decision.state))


@post(
    "/rules/pardon",
    status_code=200,
    summary="End the listing of an address or network, and except it for a while",
    operation_id="pardonRule",
    description="For administrators. Stops new bans; those that clients have made end when each client lets them.",
    responses=documented(Answer[Pardon], "What it did.", Pardon(_EXAMPLE, [_EXAMPLE], [])),
)
async def pardon(server: Injected[Server], me: Injected[SignedIn], data: PardonRequest) -> Answer[Pardon]:
    lifetime = _lifetime(data.expires) or PARDON_MS
    pardoned = await server.decisions.pardon(data.target, data.reason, me.actor, lifetime)
    return ok(
        Pardon(
            exception=_rule(server, me, pardoned.exception, "active"),
            ended=[_rule(server, me, decision, "pardoned") for decision in pardoned.ended],
            standing=[_rule(server, me, decision, decision.state) for decision in pardoned.standing],
        )
    )


# --- Reviewing --------------------------------------------------------------------------------------------------------


@post(
    "/rules/{rule_id:int}/approve",
    status_code=200,
    summary="Put a rule that waits for review in force",
    operation_id="approveRule",
    responses=documented(Answer[DecisionEntry], "The decision.", _EXAMPLE, {404: _UNKNOWN, 409: _CONFLICT}),
)
async def approve(server: Injected[Server], me: Injected[SignedIn], rule_id: int) -> Answer[DecisionEntry]:
    return await _review(server, me, rule_id, server.decisions.approve)


@post(
    "/rules/{rule_id:int}/refuse",
    status_code=200,
    summary="Refuse a rule that waits for review",
    operation_id="refuseRule",
    description="Its analysis does not propose the target again for 30 days.",
    responses=documented(Answer[DecisionEntry], "The decision.", _EXAMPLE, {404: _UNKNOWN, 409: _CONFLICT}),
)
async def refuse(server: Injected[Server], me: Injected[SignedIn], rule_id: int) -> Answer[DecisionEntry]:
    return await _review(server, me, rule_id, server.decisions.refuse)


@post(
    "/rules/{rule_id:int}/withdraw",
    status_code=200,
    summary="End a rule",
    operation_id="withdrawRule",
    description="An analysis does not propose the target again for 30 days.",
    responses=documented(Answer[DecisionEntry], "The decision.", _EXAMPLE, {404: _UNKNOWN, 409: _CONFLICT}),
)
async def withdraw(server: Injected[Server], me: Injected[SignedIn], rule_id: int) -> Answer[DecisionEntry]:
    return await _review(server, me, rule_id, server.decisions.withdraw)


async def _review(
    server: Server, me: SignedIn, rule_id: int, act: Callable[[int, Actor], Awaitable[Decision]]
) -> Answer[DecisionEntry]:
    if not 0 < rule_id <= INT64_MAX:
        raise SparkleError("not_found", "decision.none", id=rule_id)
    decision = await act(rule_id, me.actor)
    return ok(_rule(server, me, decision, decision.end_reason or decision.state))


@post(
    "/rules/held/approve",
    status_code=200,
    summary="Put everything of one origin that waits for review in force",
    operation_id="approveHeldRules",
    responses=documented(Answer[Reviewed], "How many.", Reviewed(40)),
)
async def approve_held(server: Injected[Server], me: Injected[SignedIn], data: OriginRequest) -> Answer[Reviewed]:
    return await _review_held(server, me, data, server.decisions.approve_held)


@post(
    "/rules/held/refuse",
    status_code=200,
    summary="Refuse everything of one origin that waits for review",
    operation_id="refuseHeldRules",
    responses=documented(Answer[Reviewed], "How many.", Reviewed(40)),
)
async def refuse_held(server: Injected[Server], me: Injected[SignedIn], data: OriginRequest) -> Answer[Reviewed]:
    return await _review_held(server, me, data, server.decisions.refuse_held)


async def _review_held(
    server: Server, me: SignedIn, data: OriginRequest, act: Callable[[str, Actor], Awaitable[int]]
) -> Answer[Reviewed]:
    count = await act(data.origin, me.actor)
    return ok(Reviewed(count))


# --- Decisions as answers ---------------------------------------------------------------------------------------------


def _rule(server: Server, me: SignedIn, decision: Decision, state: str) -> DecisionEntry:
    return _entry(me, Match(decision, state, server.decisions.reason(decision)))


def _evidence(evidence: Mapping[str, Any]) -> EvidenceEntry | None:
    """What a decision rests on; None where nobody had to see anything, and for what another server decided."""
    if not evidence.get("people") or "neighbour" in evidence:
        return None
    return EvidenceEntry(**{name: evidence[name] for name in EvidenceEntry.__struct_fields__})


def _entry(me: SignedIn, match: Match) -> DecisionEntry:
    decision, evidence = match.decision, match.decision.evidence
    withheld = shown_obstacle(match.withheld, is_admin=me.is_admin)
    is_secret = decision.held_for == "member" and not me.is_admin
    return DecisionEntry(
        id=decision.id,
        kind=decision.kind,
        target=(decision.text or "") if decision.network is None else str(decision.network),
        action=decision.action,
        state=match.state,
        origin=decision.origin,
        category=decision.category,
        code=decision.code,
        numbers=dict(decision.numbers),
        reason=spoken(match.reason),
        evidence=_evidence(evidence),
        held_for=None if is_secret else decision.held_for,
        note=decision.note,
        created_at=decision.created_at,
        expires_at=decision.expires_at,
        ended_at=decision.ended_at,
        withheld=None if withheld is None else Withheld(withheld, spoken(phrase(f"rules.withheld.{withheld}"))),
    )


def _explained(me: SignedIn, why: Why, distances: Sequence[Need] = ()) -> Explanation:
    return Explanation(
        subject=why.subject,
        listed=why.listed,
        protected_by=[name for name in why.protection if name != "member" or me.is_admin],
        rules=[_entry(me, match) for match in why.matches],
        distances=[
            DistanceEntry(analysis=one.analysis, number=one.number, have=one.have, need=one.need, met=one.is_met)
            for one in distances
        ],
        untried=[_entry(me, match) for match in why.untried],
    )


async def _page(
    server: Server, me: SignedIn, wanted: DecisionFilter, after: int | None, limit: int, *, at: int | None = None
) -> Answer[RulePage]:
    _check_limit(limit)
    if after is not None and not 0 <= after <= INT64_MAX:
        raise invalid("query.bad_after")
    decisions, moment = await server.decisions.page(wanted, Position(after), limit, at)
    # Of a moment that is past nobody knows who was protected.
    withheld = await server.decisions.withheld(decisions) if at is None else {}
    rules = [
        _entry(me, Match(one, one.state_at(moment), server.decisions.reason(one), withheld.get(one.id)))
        for one in decisions
    ]
    return ok(RulePage(rules, decisions[-1].id if len(decisions) == limit else None))


def _change(server: Server, me: SignedIn, change: Change) -> ChangeEntry:
    state = _state_of(change)
    return ChangeEntry(change.at, state, _rule(server, me, change.decision, state))


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
    entries = (_atom_entry(change, decisions.reason(change.decision), base) for change in changes)
    return (head + "".join(entries) + "</feed>\n").encode()


def _atom_entry(change: Change, reason: Phrase, base: str) -> str:
    decision = change.decision
    target = (decision.text or "")[:200] if decision.network is None else str(decision.network)
    state = _state_of(change)
    title = f"{_TITLES.get((decision.action, state), state.capitalize())}: {target}"
    body = f"{decision.origin}: {phrase('language.sentence', text=reason).raw()}"
    return (
        f"<entry><title>{_xml(title)}</title><id>{_xml(base)}/api/rules/changes#{decision.id}-{int(change.ended)}</id>"
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


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid("query.bad_limit", limit=MAX_LIMIT)


def _wanted(action: Action | None, state: State | None, origin: str | None, ip: str | None) -> DecisionFilter:
    return DecisionFilter(action=action, state=state, origin=origin, within=None if ip is None else _network(ip))


def _network(text: str) -> Network:
    try:
        return parse_network(text, with_port=True)
    except AddressError as error:
        raise invalid("address.bad", why=error.said) from None


def _lifetime(text: str | None) -> int | None:
    """A duration in ms, None for ever."""
    if text is None:
        return None
    try:
        lifetime = int(Duration.parse(text))
    except Refused as refused:
        raise invalid("decision.bad_expires", why=str(refused)) from None
    if lifetime <= 0:
        raise invalid("decision.expires_now")
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
        raise invalid("query.bad_after") from None
    if not (0 <= at <= INT64_MAX - 1 and 0 <= number <= INT64_MAX - 1):
        raise invalid("query.bad_after")
    return at, number, bool(ended)


# --- Who may ask ------------------------------------------------------------------------------------------------------

ROUTERS = (
    api_router([list_rules, list_rules_at, list_changes, why], tags=["rules"], guards=[requires_sign_in]),
    api_router(
        [deny, allow, pardon, approve, refuse, withdraw, approve_held, refuse_held],
        tags=["rules"],
        guards=[requires_admin],
    ),
)
