"""The commands `rules import` and `imports`: lists of others, from a file, a URL or as they are configured."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import add_command, add_group, add_json_option, complain, print_json, print_table, when
from sparkle_lite.cli.place import Place, chosen_lifetime, expiry_options, plan_as_json, print_plan, run_on_decisions
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH, phrase

if TYPE_CHECKING:
    from sparkle_lite.config import ImportEntry
    from sparkle_lite.rules.imports import ImportOrder, ImportRun, Imports, ImportStatus
    from sparkle_lite.rules.takeover import Taken

_FORMATS = ("auto", "cidr", "dat", "p2p", "csv", "sparkle")
# How often is told how far a fetch is (s).
_TELL_S = 2.0


def add_import_commands(commands: Any, rules: Any) -> None:
    """Add `rules import` to the commands of `rules`, and `imports` to the program's."""
    one = add_command(rules, "import", _import, "take over a list, in place of what it listed earlier")
    one.add_argument("source", metavar="SOURCE", help="a file, - for standard input, or an http(s) URL")
    one.add_argument("--name", required=True, metavar="NAME", help="what the list is called")
    one.add_argument("--format", choices=_FORMATS, default="auto", help="auto: decided line by line (default)")
    one.add_argument("--category", metavar="T", default="", help="what clients call it (default: its name)")
    one.add_argument(
        "--widest", metavar="V4,V6", type=_breadths, help="prefix lengths of the widest networks (default: 16,48)"
    )
    _accept_option(one)
    one.add_argument("--allow-private", action="store_true", help="a URL of this machine or a private network, too")
    expiry_options(one, "30d", forever=True)
    one.add_argument("--dry-run", action="store_true", help="only tell what would change")
    add_json_option(one)
    imports = add_group(commands, "imports", "lists of others that the server fetches by itself")
    add_json_option(add_command(imports, "list", _list, "list them, with what stands of each"))
    run = add_command(imports, "run", _run, "run one or all of them now")
    run.add_argument("name", metavar="NAME", nargs="?", help="which one (default: all that are on)")
    _accept_option(run)
    add_json_option(run)


def _accept_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-empty", action="store_true", help="take over a list that is empty, or much smaller or larger, too"
    )


def _breadths(text: str) -> tuple[int, ...]:
    from sparkle_lite.config import Refused
    from sparkle_lite.config.values import breadths

    try:
        return breadths(tuple(int(part) for part in text.split(",")))
    except Refused as refused:
        raise argparse.ArgumentTypeError(str(refused)) from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no two prefix lengths, such as 16,48") from None


# --- One list ---------------------------------------------------------------------------------------------------------


def _import(args: argparse.Namespace) -> None:
    from sparkle_lite.accounts.actors import COMMAND_LINE
    from sparkle_lite.rules.imports import ImportOrder

    entry, body = _source(args)
    if args.forever and entry.format == "sparkle":
        raise SparkleError("bad_request", "imports.forever_neighbour")
    order = ImportOrder(
        entry=entry,
        actor=COMMAND_LINE,
        accept=args.allow_empty,
        by_hand=True,
        lifetime_ms=chosen_lifetime(args),
        body=body,
    )
    if args.dry_run:
        _try(args, order)
        return
    place, done = run_on_decisions(args, lambda place: _told(place, lambda imports: imports.run(order)), create=True)
    _name_bad_lines(args.source, done.run.numbers)
    if args.json and done.taken is not None:
        print_json({**_numbers(done.run), **_taken_as_json(done.taken, place)})
    _require_taken(done.run)
    if not args.json and done.taken is not None:
        _print_taken(args.name, done.taken, dry=False)


def _try(args: argparse.Namespace, order: "ImportOrder") -> None:
    place, preview = run_on_decisions(
        args, lambda place: _told(place, lambda imports: imports.preview(order)), create=True
    )
    _name_bad_lines(args.source, preview.numbers)
    why = None if preview.held is None else preview.held.text(ENGLISH)
    if args.json:
        print_json({**_counts(preview.numbers), "heldBack": why, **_taken_as_json(preview, place)})
        return
    _print_taken(args.name, preview, dry=True)
    if why is not None:
        print(f"  It would be held back. {why}")


def _source(args: argparse.Namespace) -> "tuple[ImportEntry, bytes | None]":
    """The list that the arguments name, and its body where it doesn't come by a URL."""
    from sparkle_lite.config import WIDEST, ImportEntry, ListURL, Refused
    from sparkle_lite.config.values import category_or_empty, list_name, list_url
    from sparkle_lite.rules.imports import MAX_BYTES

    is_url = args.source.startswith(("http://", "https://"))
    what = "NAME"
    try:
        name = list_name(args.name)
        what = "--category"
        category = category_or_empty(args.category)
        what = "SOURCE"
        urls: tuple[ListURL, ...] = list_url((args.source,)) if is_url else ()
    except Refused as refused:
        raise SparkleError("bad_request", "imports.bad_value", what=what, why=str(refused)) from None
    entry = ImportEntry(
        name=name,
        url=urls,
        file="" if is_url else str(Path(args.source).absolute()),
        format=args.format,
        category=category,
        widest=args.widest or WIDEST,
        allow_private=args.allow_private,
        # Whoever names a neighbour here has decided to list what it lists.
        trust="create",
    )
    if args.source != "-":
        return entry, None
    body = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise SparkleError("too_large", "imports.why.too_large", most=MAX_BYTES >> 20)
    return entry, body


# --- The configured ones ----------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> None:
    _, found = run_on_decisions(args, lambda place: place.imports.all())
    if args.json:
        print_json([_listed_as_json(listed) for listed in found])
        return
    rows = [
        (
            listed.entry.name,
            listed.state_now,
            f"{listed.state.entries:,}",
            when(listed.state.good_at),
            "" if listed.next_at is None else when(listed.next_at) if listed.next_at else "now",
            listed.shown_urls,
        )
        for listed in found
    ]
    print_table(("NAME", "STATE", "ENTRIES", "LAST GOOD (UTC)", "NEXT (UTC)", "FROM"), rows)


def _listed_as_json(listed: "ImportStatus") -> dict[str, object]:
    return {
        "name": listed.entry.name,
        "from": listed.shown_urls,
        "by": listed.by,
        "state": listed.state_now,
        "entries": listed.state.entries,
        "goodAt": listed.state.good_at,
        "nextAt": listed.next_at,
        "credit": listed.credit,
        "last": None if listed.last is None else {"outcome": listed.last.outcome, **_numbers(listed.last)},
    }


def _run(args: argparse.Namespace) -> None:
    _, runs = run_on_decisions(args, lambda place: _run_all(place, args))
    if args.json:
        print_json({run.name: {"outcome": run.outcome, **_numbers(run)} for run in runs})
    for run in runs:
        if not args.json:
            print(f"{run.name}: {_outcome(run)}")
        _name_bad_lines(run.name, run.numbers)
    if any(run.outcome in ("held", "failed") for run in runs):
        raise SparkleError("conflict", "command.lists_stay")


async def _run_all(place: Place, args: argparse.Namespace) -> "list[ImportRun]":
    from sparkle_lite.accounts.actors import COMMAND_LINE
    from sparkle_lite.rules.imports import ImportOrder

    imports = place.imports
    entries = [entry for entry, _ in (await imports.entries()).values() if entry.enabled]
    if args.name is not None:
        entries = [await imports.entry(args.name)]
    runs = []
    for entry in entries:
        order = ImportOrder(entry, COMMAND_LINE, accept=args.allow_empty)
        async with _telling(imports):
            runs.append((await imports.run(order)).run)
    return runs


def _outcome(run: "ImportRun") -> str:
    from sparkle_lite.rules.offers import unpacked

    if run.outcome == "unchanged":
        return "unchanged"
    if run.why is not None:
        return f"stays as it was. {unpacked(run.why).text(ENGLISH)}"
    numbers = run.numbers
    return f"listed {numbers['added']:,}, ended {numbers['removed']:,}, {numbers['entries']:,} entries"


# --- What they have in common -----------------------------------------------------------------------------------------


async def _told(place: Place, act: "Callable[[Imports], Any]") -> Any:
    imports = place.imports
    async with _telling(imports):
        return await act(imports)


@asynccontextmanager
async def _telling(imports: "Imports") -> AsyncIterator[None]:
    """Tell how far it is while the block takes long."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            for name, progress in imports.running.items():
                size = f", {progress.received / 2**20:.1f} MiB" if progress.received else ""
                of = f" of {progress.total / 2**20:.1f}" if progress.total and progress.received else ""
                complain(f"{name}: {progress.stage}{size}{of}")

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


def _require_taken(run: "ImportRun") -> None:
    from sparkle_lite.rules.offers import unpacked

    if run.outcome in ("held", "failed") and run.why is not None:
        key = "command.list_held" if run.outcome == "held" else "command.list_failed"
        raise SparkleError("conflict", key, name=run.name, why=unpacked(run.why))


def _name_bad_lines(source: str, numbers: Any) -> None:
    from sparkle_lite.rules.offers import unpacked

    bad = numbers.get("bad", [])
    for number, why, _ in bad:
        complain(f"{source}:{number}: {unpacked(why).text(ENGLISH)}")
    wide = numbers.get("wide_shown", [])
    for number, network, widest in wide:
        said = phrase("list.too_wide", network=network, widest=widest)
        complain(f"{source}:{number}: {said.text(ENGLISH)}")
    more = sum(numbers.get("refused", {}).values()) + numbers.get("wide", 0) - len(bad) - len(wide)
    if more > 0:
        complain(f"{source}: {more:,} more lines can't be used")


def _counts(numbers: Any) -> dict[str, object]:
    return {
        "bad": sum(numbers.get("refused", {}).values()),
        "lines": numbers.get("lines", 0),
        "entries": numbers.get("entries", 0),
        "wide": numbers.get("wide", 0),
        "refused": dict(numbers.get("refused", {})),
    }


def _numbers(run: "ImportRun") -> dict[str, object]:
    from sparkle_lite.rules.offers import unpacked

    return {"why": None if run.why is None else unpacked(run.why).text(ENGLISH), **_counts(run.numbers)}


def _taken_as_json(taken: "Taken", place: Place) -> dict[str, object]:
    if taken.plan is not None:
        return plan_as_json(taken.plan, place)
    return {key: taken.numbers.get(key, 0) for key in ("added", "removed")}


def _print_taken(name: str, taken: "Taken", *, dry: bool) -> None:
    assert taken.plan is not None
    print_plan(f"import:{name}", taken.plan, dry=dry, details=False)
