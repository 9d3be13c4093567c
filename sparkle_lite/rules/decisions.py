"""Decisions: who is listed or allowed, by whom, why and until when; how one begins, ends and is rendered.

Every origin comes through here: the configuration (`sync`), analyses (`apply`), imported lists (`replace_list`) and
administrators. What is in force is published (rules/publisher.py). A change is audited in its own transaction where a
person makes it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.texts import is_line
from sparkle_lite.clock import date
from sparkle_lite.config import MEMBER_MS
from sparkle_lite.db import accounts
from sparkle_lite.db import decisions as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import AnnouncingDatabase, Database, transacted
from sparkle_lite.db.decisions import Action as Action
from sparkle_lite.db.decisions import Change as Change
from sparkle_lite.db.decisions import Cursor as Cursor
from sparkle_lite.db.decisions import Decision as Decision
from sparkle_lite.db.decisions import DecisionFilter as DecisionFilter
from sparkle_lite.db.decisions import EndReason
from sparkle_lite.db.decisions import New as New
from sparkle_lite.db.decisions import State as State
from sparkle_lite.db.orders import Position as Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import Network, network_of
from sparkle_lite.rules import operator
from sparkle_lite.rules import plan as planning
from sparkle_lite.rules.address_sets import single
from sparkle_lite.rules.configured import difference
from sparkle_lite.rules.findings import Finding
from sparkle_lite.rules.guard import ANALYSES_WIDEST, SUBSCRIBER_V6, Guard, Obstacle
from sparkle_lite.rules.in_force import InForce
from sparkle_lite.rules.named import judge
from sparkle_lite.rules.operator import Rules
from sparkle_lite.rules.plan import Mode, Plan, Situation
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.reasons import reason
from sparkle_lite.rules.rendering import Listing
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.units import DAY_MS
from sparkle_lite.wire.matchers import Matcher, Patience

TargetKind = Literal["ip", "peer_id", "client_name"]

# How long what an administrator decides holds unless they say otherwise, and a pardon.
BY_HAND_MS, PARDON_MS = 30 * DAY_MS, 7 * DAY_MS

# What is known of a target reaches back so far, and at most so many decisions.
WHY_MS, MOST_MATCHES = 90 * DAY_MS, 200

# The log reaches back so far.
HISTORY_MS = 730 * DAY_MS
# What is asked of a peer's name or id: more of it is never looked at. Its rules have so long, waiting included.
LONGEST_NAME, _PATIENCE_S = 256, 1.0

# Plans that were overtaken by another change before they are made within the transaction.
_TRIES = 3

# Rows that one transaction deletes of the log, and how long others then have their turn.
_CHUNK, _PAUSE_S = 1000, 0.02


class Match(NamedTuple):
    """A decision about what was asked for, with its state now and its reason.

    `withheld` says why nothing of it is told to clients although it is in force.
    """

    decision: Decision
    state: str
    reason: Phrase
    withheld: Obstacle | None = None


class Why(NamedTuple):
    """Everything about one address, network, client name or peer id.

    `listed`: whether clients are told now to ban it. `protection` names what keeps it from being listed. `untried` are
    rules of which nobody knows whether they match, because their expression takes too long on this text.
    """

    subject: str
    listed: bool
    matches: tuple[Match, ...]
    protection: tuple[Obstacle, ...]
    untried: tuple[Match, ...] = ()


class Verdict(NamedTuple):
    """What anyone may know of an address: the decisions that list it now, and whether an exception frees it."""

    listed: bool
    excepted: bool
    matches: tuple[Match, ...]


class Pardoned(NamedTuple):
    """What a pardon did: the decisions that it ended, those that still stand behind the new exception."""

    exception: Decision
    ended: tuple[Decision, ...]
    standing: tuple[Decision, ...]


class ImportedList(NamedTuple):
    """An imported list as it is to stand: its name, what clients call it, and how wide its networks may be.

    `respects_refusals`: what an administrator ended of it stays ended for a while.
    """

    name: str
    findings: Sequence[Finding]
    category: str
    widest: tuple[int, int]
    respects_refusals: bool = True


class _Proposal(NamedTuple):
    """What is to become the decisions of one origin at a moment (ms).

    `braked`: nobody stands behind it who knows what it adds, so it is bound by what was decided before. `judge` may
    refuse what would change.
    """

    origin: str
    findings: Sequence[Finding]
    now_ms: int
    mode: Mode = "on"
    formula: int = 1
    braked: bool = True
    category: str = ""
    widest: tuple[int, int] = ANALYSES_WIDEST
    respects_refusals: bool = True
    judge: Callable[[Plan], None] | None = None


class Decisions:
    """The decisions of one server or one command.

    Everything that changes them is written through `database`: where that announces what is written, the rules are
    published before the call returns.
    """

    def __init__(
        self,
        database: Database | AnnouncingDatabase,
        audit: Audit,
        clock: Callable[[], int],
        protected: Protected,
    ) -> None:
        self.database = database
        self._audit = audit
        self._clock = clock
        self._protected = protected
        self._names = ThreadPoolExecutor(1, thread_name_prefix="names")

    # --- The configuration --------------------------------------------------------------------------------------------

    async def sync(self, rules: Rules) -> None:
        """Make the operator's decisions those of the configuration, in one transaction; what is unchanged stays."""
        now = self._clock()
        async with self.database.reader() as reader:
            rows = await store.standing(reader, "config", now)
        begin, end = await asyncio.to_thread(difference, rules, rows, now)
        if begin or end:
            await self._replace(begin, [(decision_id, "withdrawn") for decision_id in end], now)

    @transacted
    async def _replace(
        self, connection: Connection, begin: Sequence[New], end: Sequence[tuple[int, EndReason]], now_ms: int
    ) -> None:
        await store.end(connection, end, now_ms)
        await store.begin(connection, begin, now_ms)

    # --- Runs ---------------------------------------------------------------------------------------------------------

    async def plan(
        self, origin: str, findings: Sequence[Finding], now_ms: int, *, mode: Mode = "on", formula: int = 1
    ) -> Plan:
        """What `apply` would change; changes nothing."""
        proposal = _Proposal(origin=origin, findings=findings, now_ms=now_ms, mode=mode, formula=formula)
        async with self.database.reader() as reader:
            return await self._plan(reader, proposal)

    async def apply(
        self, origin: str, findings: Sequence[Finding], now_ms: int, *, mode: Mode = "on", formula: int = 1
    ) -> Plan:
        """Make the decisions of an analysis those of its findings: what stands stays, in one transaction.

        An analysis whose `mode` is off finds nothing. Raises ValueError for an origin that is no analysis.
        """
        if origin in ("config", "admin") or ":" in origin:
            raise ValueError(f"{origin!r} is no analysis")
        return await self._apply(_Proposal(origin=origin, findings=findings, now_ms=now_ms, mode=mode, formula=formula))

    async def replace_list(
        self, order: ImportedList, actor: Actor, *, dry: bool = False, judge: Callable[[Plan], None] | None = None
    ) -> Plan:
        """Make an imported list's decisions its findings; earlier ones that aren't among them end, all at once.

        `judge` sees what would change, and raises what keeps it from being done. Raises SparkleError: forbidden, and
        what `judge` raises.
        """
        actor.require_admin()
        proposal = _Proposal(
            origin=f"import:{order.name}",
            findings=order.findings,
            now_ms=self._clock(),
            braked=False,
            category=order.category,
            widest=order.widest,
            respects_refusals=order.respects_refusals,
            judge=judge,
        )
        if not dry:
            return await self._apply(proposal)
        async with self.database.reader() as reader:
            return await self._plan(reader, proposal)

    async def _apply(self, proposal: _Proposal) -> Plan:
        for _ in range(_TRIES):
            async with self.database.reader() as reader:
                plan = await self._judged_plan(reader, proposal)
            if not plan.begin and not plan.end:
                return plan
            if await self._carry_out(plan, proposal.now_ms):
                return plan
        return await self._plan_and_carry_out(proposal)

    @transacted
    async def _carry_out(self, connection: Connection, plan: Plan, now_ms: int) -> bool:
        return await _commit(connection, plan, now_ms)

    @transacted
    async def _plan_and_carry_out(self, connection: Connection, proposal: _Proposal) -> Plan:
        plan = await self._judged_plan(connection, proposal)
        await _commit(connection, plan, proposal.now_ms)
        return plan

    async def _judged_plan(self, connection: Connection, proposal: _Proposal) -> Plan:
        plan = await self._plan(connection, proposal)
        if proposal.judge is not None:
            proposal.judge(plan)
        return plan

    async def _plan(self, connection: Connection, proposal: _Proposal) -> Plan:
        origin, now = proposal.origin, proposal.now_ms
        # First: a change that is made while the rest is read must make the plan void.
        revision = await store.revision(connection)
        rows = await store.standing(connection, origin, now)
        earlier = await store.listings_before(connection, origin, now - planning.RECURRENCE_MS, now)
        refused = await store.refused_since(connection, origin, now - planning.REFUSAL_MS, now)
        situation = Situation(
            revision=revision,
            standing=(),
            guard=await self._guard(connection, now),
            listed=await store.count_listed(connection, now),
            earlier=earlier if proposal.braked else {},
            refused=refused if proposal.respects_refusals else (),
            voter_count=await store.count_voters(connection, now - MEMBER_MS),
            vouched=await store.vouched(connection),
            rested=await store.rested_on(connection, now - planning.WEEK_MS, now),
            week=await store.listed_since(connection, now - planning.WEEK_MS, now, planning.NETWORK_COUNTS),
            words_began=int(await accounts.setting(connection, "words_began") or 0),
        )
        return await asyncio.to_thread(_planned, proposal, situation, rows)

    async def _guard(self, connection: Connection, now_ms: int) -> Guard:
        allowed = await store.allowed(connection, now_ms)
        return Guard(
            self._protected.own,
            await self._protected.members(connection, now_ms),
            [exception.network for exception in allowed if exception.network is not None],
            {(exception.kind, exception.text) for exception in allowed if exception.text is not None},
        )

    # --- By hand ------------------------------------------------------------------------------------------------------

    @transacted
    async def deny(
        self, connection: Connection, kind: TargetKind, text: str, note: str, lifetime_ms: int | None, actor: Actor
    ) -> Decision:
        """List a target for so long (None: for ever). A member's address begins held.

        Raises SparkleError: bad_request, conflict where it must never be listed, forbidden.
        """
        actor.require_admin()
        target = operator.target(kind, text, is_exception=False)
        now = self._clock()
        new = _by_hand(target, kind, action="deny", code="admin", note=note, expires_at=_until(now, lifetime_ms))
        if isinstance(target, Network):
            obstacle = (await self._guard(connection, now)).obstacle(target, None)
            if obstacle == "member":
                new = new._replace(state="held", held_for=obstacle)
            elif obstacle is not None:
                raise _obstructed(target, obstacle)
        return await self._supersede(connection, actor, "RULE_DENY", new, now)

    @transacted
    async def allow(
        self, connection: Connection, kind: TargetKind, text: str, note: str, lifetime_ms: int | None, actor: Actor
    ) -> Decision:
        """Except a target from every rule for so long (None: for ever). Raises SparkleError: bad_request, forbidden."""
        actor.require_admin()
        target = operator.target(kind, text, is_exception=True)
        now = self._clock()
        new = _by_hand(target, kind, action="allow", code="exception", note=note, expires_at=_until(now, lifetime_ms))
        return await self._supersede(connection, actor, "RULE_ALLOW", new, now)

    @transacted
    async def pardon(
        self, connection: Connection, text: str, note: str, actor: Actor, lifetime_ms: int = PARDON_MS
    ) -> Pardoned:
        """End every decision that lists an address or network, and except it for a while.

        The exception makes clients that look at the allow list forget their bans; others keep them until they run out.
        Decisions on wider networks and the configuration's stay; the exception is cut out of them while it lasts.
        Raises SparkleError: bad_request, forbidden.
        """
        actor.require_admin()
        named = operator.target("ip", text, is_exception=True)
        assert isinstance(named, Network)
        now = self._clock()
        target = await _subscriber(connection, named, now)
        new = _by_hand(target, "ip", action="allow", code="pardon", note=note, expires_at=now + lifetime_ms)
        listing = await store.page(connection, DecisionFilter("deny", within=target), now, Position())
        ended = [old for old in listing if old.origin != "config" and _contains(target, old)]
        standing = [old for old in listing if old.state == "active" and old not in ended]
        await store.end(connection, [(old.id, "pardoned") for old in ended], now)
        ids = [old.id for old in ended[:100]]
        exception = await self._supersede(connection, actor, "RULE_PARDON", new, now, ended=ids)
        return Pardoned(exception, tuple(ended), tuple(standing))

    async def _supersede(
        self, connection: Connection, actor: Actor, action: str, new: New, now: int, **details: object
    ) -> Decision:
        """Begin a decision of an administrator in place of an earlier one on the same target."""
        rows = await store.standing(connection, new.origin, now)
        same = [
            old.id
            for old in store.decisions(rows)
            if old.action == new.action and planning.key_of(old) == planning.key_of(new)
        ]
        await store.end(connection, [(decision_id, "superseded") for decision_id in same], now)
        [decision_id] = await store.begin(connection, [new], now)
        target = new.text if new.network is None else str(new.network)
        about = {"decision": decision_id, "target": target, "reason": new.note, "until": date(new.expires_at)}
        await self._audit.record(connection, actor, action, **about, **details)
        return await _decision(connection, decision_id)

    # --- Review -------------------------------------------------------------------------------------------------------

    @transacted
    async def approve(self, connection: Connection, decision_id: int, actor: Actor) -> Decision:
        """Put a decision that waits for review in force.

        Raises SparkleError: not_found, conflict where it doesn't wait or must never be listed, forbidden.
        """
        actor.require_admin()
        now = self._clock()
        old = await _decision(connection, decision_id)
        _require(old, now, "held")
        guard = await self._guard(connection, now)
        obstacle = old.network and guard.obstacle(old.network, None)
        if old.network is not None and obstacle is not None:
            raise _obstructed(old.network, obstacle)
        [approved] = await _approve(connection, [old], now)
        await self._audit.record(connection, actor, "RULE_APPROVE", decision=decision_id, new=approved)
        return await _decision(connection, approved)

    @transacted
    async def approve_held(self, connection: Connection, origin: str, actor: Actor) -> int:
        """Put everything of one origin that waits for review in force, except what must never be; how many."""
        actor.require_admin()
        now = self._clock()
        guard = await self._guard(connection, now)
        held = [
            old
            for old in await store.page(connection, DecisionFilter("deny", "held", origin), now, Position())
            if old.network is None or guard.obstacle(old.network, None) is None
        ]
        await _approve(connection, held, now)
        await self._audit.record(connection, actor, "RULE_APPROVE", origin=origin, decisions=len(held))
        return len(held)

    @transacted
    async def refuse(self, connection: Connection, decision_id: int, actor: Actor) -> Decision:
        """End a decision that waits for review; its analysis doesn't propose the target again for 30 days.

        Raises SparkleError: not_found, conflict, forbidden.
        """
        return await self._end(connection, actor, "RULE_REFUSE", decision_id, "held")

    @transacted
    async def refuse_held(self, connection: Connection, origin: str, actor: Actor) -> int:
        """Refuse everything of one origin that waits for review; how many."""
        actor.require_admin()
        now = self._clock()
        held = await store.page(connection, DecisionFilter("deny", "held", origin), now, Position())
        await store.end(connection, [(old.id, "refused") for old in held], now)
        await self._audit.record(connection, actor, "RULE_REFUSE", origin=origin, decisions=len(held))
        return len(held)

    @transacted
    async def withdraw(self, connection: Connection, decision_id: int, actor: Actor) -> Decision:
        """End a decision, whatever its state; an analysis doesn't propose the target again for 30 days.

        Raises SparkleError: not_found, conflict (it is over, or the configuration's), forbidden.
        """
        return await self._end(connection, actor, "RULE_WITHDRAW", decision_id, None)

    async def _end(
        self, connection: Connection, actor: Actor, action: str, decision_id: int, state: str | None
    ) -> Decision:
        actor.require_admin()
        now = self._clock()
        old = await _decision(connection, decision_id)
        _require(old, now, state)
        why: EndReason = "withdrawn" if old.origin == "admin" and state is None else "refused"
        await store.end(connection, [(decision_id, why)], now)
        await self._audit.record(connection, actor, action, decision=decision_id)
        return await _decision(connection, decision_id)

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def revision(self) -> int:
        """A number that changes with every change, also with another process's."""
        async with self.database.reader() as reader:
            return await store.revision(reader)

    async def count_open(self) -> int:
        """How many decisions aren't over, of every state and origin."""
        async with self.database.reader() as reader:
            return await store.count_open(reader, self._clock())

    async def in_force(self) -> tuple[list[Listing], list[Listing]]:
        """What is to be published beside the configuration: the denied and the allowed."""
        async with self.database.reader() as reader:
            return await InForce().read(reader, self._clock())

    def reason(self, decision: Decision | New) -> Phrase:
        """Why, as a sentence."""
        code = "exception" if decision.code == "config" and decision.action == "allow" else decision.code
        return reason(code, decision.numbers)

    async def get(self, decision_id: int) -> Decision:
        """One decision. Raises SparkleError: not_found."""
        async with self.database.reader() as reader:
            return await _decision(reader, decision_id)

    async def page(
        self, wanted: DecisionFilter, position: Position[int], limit: int, at_ms: int | None = None
    ) -> tuple[list[Decision], int]:
        """The decisions that stand now, or stood at a moment (ms), newest first from a position; that moment."""
        moment = self._clock() if at_ms is None else at_ms
        async with self.database.reader() as reader:
            return await store.page(reader, wanted, moment, position, limit), moment

    async def withheld(self, decisions: Iterable[Decision]) -> dict[int, Obstacle]:
        """Which of some decisions (by id) are in force and yet not told to clients at all, and why."""
        now = self._clock()
        served = [one for one in decisions if one.action == "deny" and one.state_at(now) == "active"]
        if not served:
            return {}
        async with self.database.reader() as reader:
            guard = await self._guard(reader, now)
        return await asyncio.to_thread(_withheld, guard, served)

    async def changes(self, position: Position[Cursor], limit: int) -> list[Change]:
        """The log of what began and was over, at a position (of time, id, whether it was over), newest first."""
        async with self.database.reader() as reader:
            return await store.changes(reader, self._clock(), position, limit)

    async def counts(self) -> dict[tuple[str, str], int]:
        """How many deny decisions stand, by origin and state."""
        async with self.database.reader() as reader:
            return await store.count_by_state(reader, self._clock())

    async def forget_oldest(self) -> None:
        """Delete the log that is older than two years, a little at a time."""
        before = self._clock() - HISTORY_MS
        while await self._delete_old(before) == _CHUNK:
            await asyncio.sleep(_PAUSE_S)

    @transacted
    async def _delete_old(self, connection: Connection, before_ms: int) -> int:
        return await store.delete_old(connection, before_ms, _CHUNK)

    # --- Why ----------------------------------------------------------------------------------------------------------

    async def why(self, network: Network) -> Why:
        """Everything about an address or a network."""
        now = self._clock()
        async with self.database.reader() as reader:
            decisions = await store.around(reader, network, now - WHY_MS, MOST_MATCHES)
            guard = await self._guard(reader, now)
        protection = guard.protection(network)
        listed = _is_served(decisions, now) and not protection
        return Why(str(network), listed, self._matches(decisions, now, guard), protection)

    async def why_named(self, kind: Literal["client_name", "peer_id"], text: str) -> Why:
        """Everything about what a peer says of itself, cut to LONGEST_NAME.

        Rules have a second together, and one thread for all questions: what an expression costs, others don't pay.
        """
        now, patience = self._clock(), Patience(_PATIENCE_S)
        async with self.database.reader() as reader:
            stored = await store.named(reader, now - WHY_MS)
            guard = await self._guard(reader, now)
        rules = [decision for decision in stored if decision.kind == kind]
        loop, text = asyncio.get_running_loop(), text[:LONGEST_NAME]
        judged = await loop.run_in_executor(self._names, partial(judge, rules, text, now, patience))
        return Why(
            text,
            judged.listed,
            self._matches(judged.matching, now, guard),
            ("excepted",) if judged.excepted else (),
            self._matches(judged.untried, now, guard),
        )

    def _matches(self, decisions: Sequence[Decision], now: int, guard: Guard) -> tuple[Match, ...]:
        served = [one for one in decisions if one.action == "deny" and one.state_at(now) == "active"]
        withheld = _withheld(guard, served)
        return tuple(Match(one, one.state_at(now), self.reason(one), withheld.get(one.id)) for one in decisions)

    async def verdict(self, address: bytes) -> Verdict:
        """What anyone may know of an address: nothing about members, nothing that isn't in force."""
        now = self._clock()
        async with self.database.reader() as reader:
            decisions = await store.around(reader, single(address), now, MOST_MATCHES)
            guard = await self._guard(reader, now)
        protection = guard.protection(single(address))
        served = [
            decision for decision in decisions if decision.state_at(now) == "active" and decision.action == "deny"
        ]
        listed = bool(served) and not protection
        return Verdict(listed, "excepted" in protection, self._matches(served, now, guard) if listed else ())


def shown_obstacle(obstacle: Obstacle | None, *, is_admin: bool) -> str | None:
    """What somebody may know of an obstacle: whose client comes from an address, administrators alone."""
    return "protected" if obstacle == "member" and not is_admin else obstacle


def _withheld(guard: Guard, served: Iterable[Decision]) -> dict[int, Obstacle]:
    found = ((one.id, guard.withheld(one.kind, one.network or one.text or "")) for one in served)
    return {decision_id: why for decision_id, why in found if why is not None}


def _planned(proposal: _Proposal, situation: Situation, rows: Iterable[tuple[Any, ...]]) -> Plan:
    """The plan, off the event loop: `rows` are what stands."""
    return planning.make(
        proposal.origin,
        proposal.findings,
        situation._replace(standing=store.decisions(rows)),
        proposal.now_ms,
        mode=proposal.mode,
        formula=proposal.formula,
        braked=proposal.braked,
        category=proposal.category,
        widest=proposal.widest,
    )


async def _commit(connection: Connection, plan: Plan, now_ms: int) -> bool:
    """Carry a plan out, unless something has changed since it was made; whether it was."""
    if await store.revision(connection) != plan.revision:
        return False
    await store.end(connection, [(old.id, why) for old, why in plan.end], now_ms)
    await store.begin(connection, plan.begin, now_ms)
    return True


async def _approve(connection: Connection, held: Sequence[Decision], now_ms: int) -> list[int]:
    """Begin anew, in force, what waits for review; the new ids, in order."""
    await store.end(connection, [(old.id, "superseded") for old in held], now_ms)
    return await store.begin(connection, [_again(old)._replace(state="active", held_for=None) for old in held], now_ms)


async def _decision(connection: Connection, decision_id: int) -> Decision:
    decision = await store.get(connection, decision_id)
    if decision is None:
        raise SparkleError("not_found", "decision.none", id=decision_id)
    return decision


async def _subscriber(connection: Connection, named: Network, now: int) -> Network:
    """What a pardon is for: where somebody's whole network is listed, one of its addresses stands for all."""
    if named.bits == 32 or named.prefix <= SUBSCRIBER_V6:
        return named
    whole = network_of(named.address, SUBSCRIBER_V6)
    decisions = await store.around(connection, named, now, MOST_MATCHES)
    is_listed = any(
        decision.network == whole and decision.action == "deny" and decision.origin != "config"
        for decision in decisions
    )
    return whole if is_listed else named


def _contains(target: Network, decision: Decision) -> bool:
    return decision.network is not None and target.contains(decision.network)


def _is_served(decisions: Iterable[Decision], now: int) -> bool:
    return any(decision.action == "deny" and decision.state_at(now) == "active" for decision in decisions)


def _by_hand(
    target: Network | Matcher, kind: TargetKind, *, action: store.Action, code: str, note: str, expires_at: int | None
) -> New:
    """A decision of an administrator, in force. Raises SparkleError (bad_request) for a note that is no line."""
    return New(
        kind=kind,
        network=target if isinstance(target, Network) else None,
        text=target.pbh() if isinstance(target, Matcher) else None,
        action=action,
        state="active",
        origin="admin",
        category="admin",
        code=code,
        note=_note(note),
        expires_at=expires_at,
    )


def _again(decision: Decision) -> New:
    # Who decides again is whoever asks for it.
    return New(**{name: getattr(decision, name) for name in New._fields if name not in ("decisive", "vouched")})


def _until(now: int, lifetime_ms: int | None) -> int | None:
    return None if lifetime_ms is None else now + lifetime_ms


def _note(text: str) -> str:
    line = text.strip()
    if len(line) > 255 or not is_line(line):
        raise SparkleError("bad_request", "decision.bad_note")
    return line


def _require(decision: Decision, now: int, state: str | None) -> None:
    current = decision.state_at(now)
    if decision.origin == "config":
        raise SparkleError("conflict", "decision.configured")
    if current not in ("active", "held", "shadow") or state not in (None, current):
        key = "decision.other_state" if state else "decision.over"
        raise SparkleError("conflict", key, id=decision.id, current=current, state=state)


def _obstructed(network: Network, obstacle: Obstacle) -> SparkleError:
    code: Literal["bad_request", "conflict"] = "bad_request" if obstacle == "special" else "conflict"
    return SparkleError(code, "decision.obstructed", network=str(network), why=phrase(f"obstacle.{obstacle}"))
