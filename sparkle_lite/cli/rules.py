"""The commands `rules` and `analyse`: what is listed and why, and decisions made from the shell.

A running server notices within two seconds. What a command needs is imported when it runs.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparkle_lite.cli.commands import add_command, add_group, add_json_option, print_json, print_table, when
from sparkle_lite.cli.imports import add_import_commands
from sparkle_lite.cli.place import (
    Place,
    chosen_lifetime,
    decision_as_json,
    expiry_options,
    plan_as_json,
    print_plan,
    printable,
    run_on_decisions,
    target_of,
    wrong,
)
from sparkle_lite.texts import ENGLISH

if TYPE_CHECKING:
    from sparkle_lite.analyses.analysis import Need
    from sparkle_lite.db.decisions import Decision
    from sparkle_lite.rules.decisions import Decisions, Match, Why
    from sparkle_lite.rules.plan import Plan

T = TypeVar("T")
_PAGE = 1000


# --- Usage ------------------------------------------------------------------------------------------------------------


def add_rule_commands(commands: Any) -> None:
    """Add `rules` and `analyse` to the program's commands."""
    rules = add_group(commands, "rules")
    listing = add_command(rules, "list", _list)
    listing.add_argument("--state", choices=("active", "held", "shadow"))
    listing.add_argument("--origin", metavar="O")
    add_json_option(listing)
    _hand_commands(rules)
    _review_commands(rules)
    export = add_command(rules, "export", _export)
    export.add_argument("file", metavar="FILE", nargs="?")
    export.add_argument(
        "--format",
        metavar="NAME",
        type=_format,
        default="text",
    )
    add_import_commands(commands, rules)
    analyse = add_command(commands, "analyse", _analyse)
    analyse.add_argument("name", metavar="NAME", nargs="?")
    analyse.add_argument("--dry-run", action="store_true")
    analyse.add_argument("--preset", choices=("solo", "friends", "tracker", "public"))
    analyse.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    add_json_option(analyse)


def _format(name: str) -> str:
    from sparkle_lite.rules.feed_rendering import NAMES

    if name not in (known := ("text", "jsonl", *NAMES)):
        raise argparse.ArgumentTypeError(f"there is no format {name!r}; choose from {', '.join(known)}")
    return name


def _hand_commands(rules: Any) -> None:
    for name, run in (("deny", _deny), ("allow", _allow)):
        parser = add_command(rules, name, run, "address_or_network")
        parser.add_argument("--kind", choices=("ip", "peer_id", "client_name"), default="ip")
        _reason_option(parser)
        expiry_options(parser, "30d", forever=True)
        add_json_option(parser)
    pardon = add_command(rules, "pardon", _pardon, "address_or_network")
    _reason_option(pardon)
    expiry_options(pardon, "7d", forever=False)
    add_json_option(pardon)
    why = add_command(rules, "why", _why)
    why.add_argument("address_or_network", metavar="ADDRESS_OR_NETWORK", nargs="?")
    why.add_argument("--client-name", metavar="T")
    why.add_argument("--peer-id", metavar="T")
    add_json_option(why)


def _review_commands(rules: Any) -> None:
    for name, run in (("approve", _approve), ("refuse", _refuse)):
        parser = add_command(rules, name, run)
        parser.add_argument("id", metavar="ID", type=int, nargs="?")
        parser.add_argument("--origin", metavar="O")
    withdraw = add_command(rules, "withdraw", _withdraw)
    withdraw.add_argument("id", metavar="ID", type=int)


def _reason_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="T", default="")


# --- Reading ----------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> None:
    from sparkle_lite.db.decisions import DecisionFilter

    place, (decisions, withheld) = run_on_decisions(
        args, lambda place: _all_with_withheld(place.decisions, DecisionFilter(state=args.state, origin=args.origin))
    )
    if args.json:
        print_json([decision_as_json(one, one.state, place, withheld.get(one.id)) for one in decisions])
        return
    rows = [
        (
            str(decision.id),
            _state(decision, withheld.get(decision.id)),
            decision.action,
            target_of(decision),
            decision.origin,
            when(decision.expires_at),
            place.decisions.reason(decision).text(ENGLISH),
        )
        for decision in decisions
    ]
    print_table(("ID", "STATE", "ACTION", "TARGET", "ORIGIN", "UNTIL (UTC)", "WHY"), rows)


def _state(decision: "Decision", withheld: str | None) -> str:
    return _withheld_or(decision.state if decision.held_for is None else f"held ({decision.held_for})", withheld)


async def _all_with_withheld(decisions: "Decisions", wanted: Any) -> "tuple[list[Decision], Mapping[int, str]]":
    rows = await _all(decisions, wanted)
    return rows, await decisions.withheld(rows)


async def _all(decisions: "Decisions", wanted: Any) -> "list[Decision]":
    from sparkle_lite.db.orders import Position

    rows: list[Decision] = []
    while True:
        page, _ = await decisions.page(wanted, Position(rows[-1].id if rows else None), _PAGE)
        rows += page
        if len(page) < _PAGE:
            return rows


def _why(args: argparse.Namespace) -> None:
    given = [text for text in (args.address_or_network, args.client_name, args.peer_id) if text is not None]
    if len(given) != 1:
        raise wrong("command.name_one")

    place, (why, distances) = run_on_decisions(args, lambda place: _explain(place, args))
    if args.json:
        print_json(
            {
                "subject": why.subject,
                "listed": why.listed,
                "protectedBy": list(why.protection),
                "rules": [
                    decision_as_json(match.decision, match.state, place, match.withheld) for match in why.matches
                ],
                "distances": [distance._asdict() for distance in distances],
                "untried": [decision_as_json(match.decision, match.state, place) for match in why.untried],
            }
        )
        return
    print(f"{printable(why.subject)} is {'listed' if why.listed else 'not listed'}.")
    for match in why.matches:
        print(f"  {_match_line(match)}")
    for match in why.untried:
        print(
            f"  {match.decision.id}  takes too long to be tried: {target_of(match.decision)} ({match.decision.origin})"
        )
    for name in why.protection:
        print(f"  {_PROTECTION[name]}")
    for distance in distances:
        words = " (words of people)" if distance.number in ("min_people", "min_people_any") else ""
        have = round(distance.have, 1)
        if not distance.need:
            print(f"  {distance.analysis}: {have:g} {_LEFT_OUT[distance.number]}")
            continue
        print(f"  {distance.analysis}: {distance.number} is {have:g} of {distance.need:g}{words}")


async def _explain(place: "Place", args: argparse.Namespace) -> "tuple[Why, list[Need]]":
    from sparkle_lite.net import AddressError, parse_network

    if args.client_name is not None:
        return await place.decisions.why_named("client_name", args.client_name), []
    if args.peer_id is not None:
        return await place.decisions.why_named("peer_id", args.peer_id), []
    try:
        network = parse_network(args.address_or_network, with_port=True)
    except AddressError as error:
        raise wrong("address.bad", why=error.said) from None
    return await place.decisions.why(network), await place.distances(network)


_LEFT_OUT = {
    "left_private": "reports on private torrents don't count here (private_torrents)",
    "left_silent": "people reported it whose word is silent: nobody vouches for them, and they earned none yet",
    "left_harmless": "people reported it whom it cost less than min_harm",
}
_PROTECTION = {
    "excepted": "An exception protects it.",
    "own": "It is an address of this server.",
    "special": "It is not a public address.",
    "member": "A client of this network came from there within 14 days.",
}


def _withheld_or(state: str, withheld: str | None) -> str:
    return state if withheld is None else f"withheld ({withheld})"


def _match_line(match: "Match") -> str:
    decision, evidence = match.decision, match.decision.evidence
    seen = ""
    if evidence.get("people", 0):
        seen = f"; seen {when(evidence['first_seen'])} to {when(evidence['last_seen'])}"
    until = "" if decision.ends_at is None else f"; until {when(decision.ends_at)}"
    state = _withheld_or(match.state, match.withheld)
    return (
        f"{decision.id}  {state}  {decision.action} {target_of(decision)} ({decision.origin}):"
        f" {match.reason.text(ENGLISH)}; since {when(decision.created_at)}{until}{seen}"
    )


# --- By hand ----------------------------------------------------------------------------------------------------------


def _deny(args: argparse.Namespace) -> None:
    from sparkle_lite.accounts.actors import COMMAND_LINE

    said = (args.kind, args.address_or_network, args.reason, chosen_lifetime(args))
    place, decision = run_on_decisions(args, lambda place: place.decisions.deny(*said, COMMAND_LINE))
    if args.json:
        print_json(decision_as_json(decision, decision.state, place))
    elif decision.state == "held":
        print(f"{target_of(decision)} is held for review: a client of this network came from there within 14 days.")
    else:
        print(f"Listed {target_of(decision)} {_until(decision)}.")


def _allow(args: argparse.Namespace) -> None:
    from sparkle_lite.accounts.actors import COMMAND_LINE

    said = (args.kind, args.address_or_network, args.reason, chosen_lifetime(args))
    place, decision = run_on_decisions(args, lambda place: place.decisions.allow(*said, COMMAND_LINE))
    if args.json:
        print_json(decision_as_json(decision, decision.state, place))
    else:
        print(f"Allowed {target_of(decision)} {_until(decision)}.")


def _pardon(args: argparse.Namespace) -> None:
    from sparkle_lite.accounts.actors import COMMAND_LINE

    said, lifetime = (args.address_or_network, args.reason), chosen_lifetime(args) or 0
    place, done = run_on_decisions(args, lambda place: place.decisions.pardon(*said, COMMAND_LINE, lifetime))
    if args.json:
        print_json(
            {
                "exception": decision_as_json(done.exception, "active", place),
                "ended": [decision_as_json(decision, "pardoned", place) for decision in done.ended],
                "standing": [decision_as_json(decision, decision.state, place) for decision in done.standing],
            }
        )
        return
    print(f"Pardoned {target_of(done.exception)}; it is excepted {_until(done.exception)}.")
    for decision in done.ended:
        print(f"  ended: {target_of(decision)} ({decision.origin})")
    for decision in done.standing:
        print(f"  stands behind the exception: {target_of(decision)} ({decision.origin})")


def _approve(args: argparse.Namespace) -> None:
    _review(args, "Approved", lambda place: (place.decisions.approve, place.decisions.approve_held))


def _refuse(args: argparse.Namespace) -> None:
    _review(args, "Refused", lambda place: (place.decisions.refuse, place.decisions.refuse_held))


def _review(args: argparse.Namespace, done: str, acts: "Callable[[Place], Any]") -> None:
    if (args.id is None) == (args.origin is None):
        raise wrong("command.name_one_decision")

    print(f"{done} {run_on_decisions(args, lambda place: _reviewed(args, *acts(place)))[1]}.")


async def _reviewed(args: argparse.Namespace, act: "Callable[..., Any]", act_on_all: "Callable[..., Any]") -> str:
    from sparkle_lite.accounts.actors import COMMAND_LINE

    if args.id is None:
        return f"{await act_on_all(args.origin, COMMAND_LINE)} decisions of {args.origin}"
    return target_of(await act(args.id, COMMAND_LINE))


def _withdraw(args: argparse.Namespace) -> None:
    from sparkle_lite.accounts.actors import COMMAND_LINE

    _, decision = run_on_decisions(args, lambda place: place.decisions.withdraw(args.id, COMMAND_LINE))
    print(f"Ended {target_of(decision)}.")


# --- Lists ------------------------------------------------------------------------------------------------------------


async def _exported(place: "Place", kind: str) -> bytes:
    from sparkle_lite.db.decisions import DecisionFilter

    if kind == "jsonl":
        decisions, withheld = await _all_with_withheld(place.decisions, DecisionFilter("deny", "active"))
        entries = (decision_as_json(one, one.state, place, withheld.get(one.id)) for one in decisions)
        return "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    rendered = await place.rendered()
    if kind == "text":
        return rendered.published.ip_denylist.body
    from sparkle_lite.rules.feed_rendering import render_feed

    return (await render_feed(kind, rendered, place.database)).body


def _export(args: argparse.Namespace) -> None:
    _, body = run_on_decisions(args, lambda place: _exported(place, args.format), rules=True)
    if args.file in (None, "-"):
        sys.stdout.flush()
        out = getattr(sys.stdout, "buffer", None)
        if out is None:
            sys.stdout.write(body.decode())
        else:
            out.write(body)
        return
    _replace(Path(args.file), body)


def _replace(path: Path, body: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


# --- Analyses ---------------------------------------------------------------------------------------------------------


def _analyse(args: argparse.Namespace) -> None:
    if (args.preset or args.set) and not args.dry_run:
        raise wrong("command.dry_run_only")
    if args.set and args.name is None:
        raise wrong("command.set_without_name")
    overrides = dict(_pair(text) for text in args.set)
    place, plans = run_on_decisions(args, lambda place: _run_analyses(place, args, overrides))
    if args.json:
        print_json({name: plan_as_json(plan, place) for name, plan in plans.items()})
        return
    for name, plan in plans.items():
        print_plan(name, plan, dry=args.dry_run, details=True, place=place)


async def _run_analyses(place: "Place", args: argparse.Namespace, overrides: Mapping[str, str]) -> "dict[str, Plan]":
    import msgspec

    from sparkle_lite.analyses.registry import ANALYSES
    from sparkle_lite.analyses.runs import Runs

    settings = place.config.analysis
    if args.preset:
        settings = msgspec.structs.replace(settings, preset=args.preset)
    runs = Runs(place.database, place.decisions, lambda: settings)
    names = list(ANALYSES) if args.name is None else [args.name]
    return {name: await runs.run(name, overrides, dry=args.dry_run) for name in names}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise wrong("command.not_key_value", text=text)
    return name.strip(), value.strip()


# --- Printing ---------------------------------------------------------------------------------------------------------


def _until(decision: "Decision") -> str:
    return "for ever" if decision.expires_at is None else f"until {when(decision.expires_at)} UTC"
