"""Where the commands on rules work, and what they print in common: a decision, a plan."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sparkle_lite.cli.commands import in_effect, load, no_database
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH

if TYPE_CHECKING:
    from sparkle_lite.accounts.audit import Audit
    from sparkle_lite.analyses.analysis import Need
    from sparkle_lite.config import Config
    from sparkle_lite.db.database import Database
    from sparkle_lite.db.decisions import Decision, New
    from sparkle_lite.net import Network
    from sparkle_lite.rules.decisions import Decisions
    from sparkle_lite.rules.feed_rendering import Rendered
    from sparkle_lite.rules.imports import Imports
    from sparkle_lite.rules.plan import Plan
    from sparkle_lite.rules.protected import Protected

T = TypeVar("T")


class Place(NamedTuple):
    """Where a command works."""

    config: "Config"
    database: "Database"
    audit: "Audit"
    decisions: "Decisions"
    protected: "Protected"

    async def distances(self, network: "Network") -> "list[Need]":
        """How far an address is from each analysis; of a network nothing is measured."""
        from sparkle_lite.analyses.distances import measure
        from sparkle_lite.clock import now_ms

        if network.prefix != network.bits:
            return []
        return await measure(self.database, self.config.analysis, network.address, now_ms())

    async def rendered(self) -> "Rendered":
        """What clients are told now, but that no reason has a link."""
        from sparkle_lite.clock import now_ms
        from sparkle_lite.rules import operator, rendering
        from sparkle_lite.rules.address_sets import single
        from sparkle_lite.rules.feed_rendering import Rendered, credits_due

        at, revision = now_ms(), await self.decisions.revision()
        async with self.database.reader() as reader:
            addresses = await self.protected.addresses(reader, at)
        denied, allowed = await self.decisions.in_force()
        rules = operator.compile_rules(self.config.rules, self.config.exceptions)
        protected = {single(address) for address in addresses}
        published = rendering.publish(rules, protected, at, denied=denied, allowed=allowed)
        credits = credits_due(await self.imports.credits(), await self.decisions.counts())
        return Rendered(published, revision, at, credits)

    @property
    def imports(self) -> "Imports":
        """The lists of others."""
        from sparkle_lite.clock import now_ms
        from sparkle_lite.rules.imports import Imports

        return Imports(
            database=self.database,
            decisions=self.decisions,
            audit=self.audit,
            config=lambda: self.config,
            clock=now_ms,
        )


def run_on_decisions(
    args: argparse.Namespace,
    command: "Callable[[Place], Awaitable[T]]",
    *,
    create: bool = False,
    rules: bool = False,
) -> "tuple[Place, T]":
    """Run a command on the decisions; where, and its result. Raises SparkleError if there is no database."""
    from sparkle_lite.accounts.audit import Audit
    from sparkle_lite.clock import now_ms
    from sparkle_lite.db.database import Database
    from sparkle_lite.rules.decisions import Decisions
    from sparkle_lite.rules.protected import Protected

    written = load(args, rules=rules)
    path = written.database.file
    from sparkle_lite.db.database import is_there

    if not create and not is_there(path):
        raise no_database(path)

    done: list[tuple[Place, T]] = []

    async def run() -> None:
        database = Database(path, written.database.synchronous)
        protected = Protected(set())
        await protected.look_up(written)
        await database.open()
        try:
            config = await in_effect(args, database, written)
            with suppress(SparkleError):
                await protected.look_at_accounts(database, config.analysis, now_ms())
            audit = Audit(database, now_ms)
            decisions = Decisions(database, audit, now_ms, protected)
            place = Place(config=config, database=database, audit=audit, decisions=decisions, protected=protected)
            done.append((place, await command(place)))
        finally:
            await database.close()

    # Not its result: asyncio.run spells that out on the way, which takes a second for a long list.
    asyncio.run(run())
    return done[0]


# --- How long ---------------------------------------------------------------------------------------------------------


def expiry_options(parser: argparse.ArgumentParser, default: str, *, forever: bool) -> None:
    parser.add_argument("--expires", metavar="D", type=_lifetime, help=f"for how long (default: {default})")
    parser.set_defaults(usual=_lifetime(default), forever=False)
    if forever:
        parser.add_argument("--forever", action="store_true", help="without an end")


def _lifetime(text: str) -> int:
    from sparkle_lite.config import Duration, Refused

    try:
        lifetime = int(Duration.parse(text))
    except Refused as refused:
        raise argparse.ArgumentTypeError(str(refused)) from None
    if lifetime <= 0:
        raise argparse.ArgumentTypeError("it must last some time")
    return lifetime


def chosen_lifetime(args: argparse.Namespace) -> int | None:
    if args.forever and args.expires is not None:
        raise wrong("command.forever_and_expires")
    return None if args.forever else int(args.usual if args.expires is None else args.expires)


def wrong(key: str, /, **values: Any) -> SparkleError:
    return SparkleError("bad_request", key, **values)


# --- Printing ---------------------------------------------------------------------------------------------------------


def target_of(decision: "Decision | New") -> str:
    return printable((decision.text or "")[:200]) if decision.network is None else str(decision.network)


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def decision_as_json(
    decision: "Decision | New", state: str, place: "Place", withheld: str | None = None
) -> dict[str, object]:
    """A decision as JSON, with the keys of the REST API."""
    from sparkle_lite.texts import phrase

    why = place.decisions.reason(decision)
    kept = phrase(f"rules.withheld.{withheld}")
    return {
        "id": getattr(decision, "id", None),
        "kind": decision.kind,
        "target": decision.text if decision.network is None else str(decision.network),
        "action": decision.action,
        "state": state,
        "origin": decision.origin,
        "category": decision.category,
        "code": decision.code,
        "numbers": dict(decision.numbers),
        "reason": {"en": why.text("en"), "zh": why.text("zh")},
        "evidence": dict(decision.evidence) or None,
        "heldFor": decision.held_for,
        "note": decision.note,
        "createdAt": getattr(decision, "created_at", None),
        "expiresAt": decision.expires_at,
        "endedAt": getattr(decision, "ended_at", None),
        "withheld": withheld and {"code": withheld, "reason": {"en": kept.text("en"), "zh": kept.text("zh")}},
    }


def plan_as_json(plan: "Plan", place: "Place") -> dict[str, object]:
    return {
        "added": [decision_as_json(decision, decision.state, place) for decision in plan.added],
        "removed": [decision_as_json(decision, "withdrawn", place) for decision in plan.removed],
        "held": [decision_as_json(decision, decision.state, place) for decision in plan.held],
        "shadow": sum(decision.state == "shadow" for decision in plan.begin),
        "unchanged": plan.kept,
        "dropped": dict(plan.dropped),
        "brake": plan.brake,
        "members": plan.members,
    }


_BRAKES = {
    "growth": "All that is new waits for review, because it adds more than a fifth of the list",
    "decisive": "All that is new waits for review, because one person alone decides too much of it",
    "words": "What would end waits, because it is more than a fifth of the list: vouch for people whom you trust",
}


def print_plan(name: str, plan: "Plan", *, dry: bool, details: bool, place: "Place | None" = None) -> None:
    verb = "would list" if dry else "listed"
    shadow = sum(decision.state == "shadow" for decision in plan.begin)
    parts = [f"{verb} {len(plan.added)}", f"{'end' if dry else 'ended'} {len(plan.removed)}", f"keep {plan.kept}"]
    renewed = len(plan.begin) - len(plan.added) - len(plan.held) - shadow
    parts += [f"renew {renewed}"] if renewed > 0 else []
    parts += [f"hold {len(plan.held)} for review"] if plan.held else []
    parts += [f"{shadow} in shadow"] if shadow else []
    parts += [f"left out {count} ({why})" for why, count in sorted(plan.dropped.items())]
    print(f"{name}: {', '.join(parts)}; {plan.members} members' addresses among them.")
    if plan.brake is not None:
        print(f"  {_BRAKES[plan.brake]}.")
    if details and dry and place is not None:
        for decision in (*plan.added, *plan.held):
            print(f"  + {target_of(decision)}: {place.decisions.reason(decision).text(ENGLISH)}")
        for gone in plan.removed:
            print(f"  - {target_of(gone)}: {place.decisions.reason(gone).text(ENGLISH)}")
