"""Taking back a file that was set aside: one that the catalogue names and that was mended, or one that it doesn't name.

A segment refers to people, torrents and names by their numbers in the main database. One that the catalogue doesn't
name is taken only where these can't mean something else by now: all of them are there, none came later than what
refers to it, and the numbers of its rows are still free.
"""

import asyncio
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast

from sparkle_lite.db import aside, segments
from sparkle_lite.db.aside import AsideRow, Wrong
from sparkle_lite.db.connection import Connection, fetch_all, fetch_one, plain_uri, refused, transaction
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import BESIDE
from sparkle_lite.db.segments import Kind, SegmentRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import phrase

_NAME = re.compile(r"(snapshot|swarm)-(\d{8,})\.db(?:\.\d+)?")
# What a row refers to by number: the table, and the columns of a segment.
_REFERENCES = {"torrent": ("torrent",), "client_identity": ("client",), "label": ("flags", "downloader")}
_Outcome = Literal["served", "waits"]


class Adopted(NamedTuple):
    """What became of a file: the segment that it is, and whether it is served or waits for the server to notice."""

    segment: SegmentRow
    outcome: _Outcome


async def adopt(database: Database, file: str, now_ms: int, *, served: bool) -> Adopted:
    """Take back a file of the folder of what was set aside, by its name or path; `served`: a server runs.

    Raises SparkleError: not_found, conflict with what is wrong with it, and FileFault.
    """
    folder = segments.set_aside_folder(database.segment_folder)
    path = _path_in(folder, file)
    async with database.reader() as reader:
        row = _row_of(path.name, await aside.rows(reader))
        belongs = await aside.belongs_to(reader, database.stamp)
    if row is None:
        segment = await _derive(database, path)
    else:
        segment = await asyncio.to_thread(_as_closed, row.segment, path)
    wrong = await asyncio.to_thread(partial(aside.examine, path, segment, belongs, deep=True))
    if wrong is not None:
        raise SparkleError("conflict", "adopt.wrong", path=path, why=_said(wrong))
    place = segments.segment_path(database.segment_folder, segment.kind, segment.id)
    await asyncio.to_thread(_require_free, place)
    if row is None:
        await _require_known(database, path, segment)
    # Without the name of a file it waits until one is in its place, whoever looks in between.
    await database.write(partial(_expect, row=AsideRow(segment, Wrong("missing"), "", now_ms)))
    with refused("write", place):
        await asyncio.to_thread(aside.bring_back, path, place)
    if served:
        # Its own process takes it up: it knows what it has open.
        return Adopted(segment, "waits")
    async with transaction(database.main) as main:
        if not await aside.take_back(main, segment):
            raise SparkleError("conflict", "adopt.no_place", path=place)
    return Adopted(segment, "served")


async def is_served(database: Database, segment: SegmentRow) -> bool:
    """Whether the catalogue names a segment by now."""
    async with database.reader() as reader:
        return bool(await segments.catalogue(reader, "id=?", (segment.id,)))


def _row_of(name: str, rows: Sequence[AsideRow]) -> AsideRow | None:
    """What is known of a file of the folder; where no row names it, it may be the one that a segment misses."""
    match = _NAME.fullmatch(name)
    segment = segments.segment_path(Path(), cast(Kind, match[1]), int(match[2])).name if match else None
    missing = (each for each in rows if not each.file and aside.name_of(each.segment) == segment)
    return next((each for each in rows if each.file == name), None) or next(missing, None)


def _path_in(folder: Path, file: str) -> Path:
    given = Path(file)
    path = given if given.parent != Path() else folder / file
    if not path.is_file() or path.resolve().parent != folder.resolve():
        raise SparkleError("not_found", "adopt.none", file=file, folder=folder)
    return folder / path.name


def _require_free(place: Path) -> None:
    """Raises SparkleError: conflict where a file is, or what would be taken for its log."""
    for taken in (place.with_name(place.name + suffix) for suffix in ("", *BESIDE)):
        if os.path.lexists(taken):
            raise SparkleError("conflict", "adopt.taken", path=taken)


def _said(wrong: Wrong) -> object:
    said = phrase(f"aside.{wrong.reason}")
    return phrase("adopt.with_details", said=said, details=wrong.details) if wrong.details else said


async def _expect(main: Connection, row: AsideRow) -> None:
    await aside.drop(main, [row.segment.id])
    await aside.keep(main, row)


# --- A file that the catalogue names ----------------------------------------------------------------------------------


def _as_closed(segment: SegmentRow, path: Path) -> SegmentRow:
    """The segment as it is to be served; of one that was hot the file says what is in it."""
    if segment.state != "hot":
        return segment
    return _counted(segment, path)


def _counted(segment: SegmentRow, path: Path) -> SegmentRow:
    try:
        rows, submissions, first, last = aside.measure(path, segment.kind)
    except sqlite3.DatabaseError as error:
        raise SparkleError("conflict", "adopt.wrong", path=path, why=_said(Wrong("damaged", str(error)))) from None
    return segment._replace(
        state="closed",
        rows=rows,
        submissions=submissions,
        first_received_at=first,
        last_received_at=last,
        bytes=segments.file_size(path),
    )


# --- A file that it doesn't name --------------------------------------------------------------------------------------


async def _derive(database: Database, path: Path) -> SegmentRow:
    """The row of the catalogue for such a file: the number that it is called by, and numbers for its rows."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise SparkleError("conflict", "adopt.no_name", path=path)
    kind, number = cast(Kind, match[1]), int(match[2])
    blank = SegmentRow(
        id=number,
        kind=kind,
        state="closed",
        first_row=0,
        rows=0,
        submissions=0,
        created_at=0,
        first_received_at=None,
        last_received_at=None,
        bytes=0,
    )
    segment = await asyncio.to_thread(_counted, blank, path)
    async with database.reader() as reader:
        first_row = await _free_place(reader, segment)
    if first_row is None:
        raise SparkleError("conflict", "adopt.no_place", path=path)
    return segment._replace(first_row=first_row, created_at=segment.first_received_at or 0)


async def _free_place(main: Connection, segment: SegmentRow) -> int | None:
    """The number of the first row where all of its rows have free ones in the order of the segments."""
    both = (
        "(SELECT id, kind, state, first_row, rows FROM segment"
        " UNION ALL SELECT id, kind, state, first_row, rows FROM segment_aside)"
    )
    if await fetch_one(main, f"SELECT 1 FROM {both} WHERE id=?", (segment.id,)):
        return None
    before = await fetch_all(
        main, f"SELECT state, first_row + rows FROM {both} WHERE kind=? AND id<?", (segment.kind, segment.id)
    )
    after = await fetch_one(
        main, f"SELECT min(first_row) FROM {both} WHERE kind=? AND id>?", (segment.kind, segment.id)
    )
    # Behind one that is written to, or whose rows nobody counted, no number is known to be free.
    if after is None or after[0] is None or any(state == "hot" for state, _ in before):
        return None
    first_row = max((int(end) for _, end in before), default=1)
    return first_row if first_row + segment.rows <= after[0] else None


async def _require_known(database: Database, path: Path, segment: SegmentRow) -> None:
    """Raises SparkleError: conflict where what it refers to is not, or no longer, what it was."""
    is_strange = await asyncio.to_thread(_is_strange, database.path, path, segment)
    if is_strange:
        raise SparkleError("conflict", "adopt.strange", path=path)


def _is_strange(main: Path, path: Path, segment: SegmentRow) -> bool:
    with refused("read", path), closing(sqlite3.connect(plain_uri(path), uri=True)) as file:
        file.execute("ATTACH ? AS main_database", (plain_uri(main),))
        return any(file.execute(f"SELECT EXISTS ({sql})").fetchone()[0] for sql in _strange_rows(segment.kind))


def _strange_rows(kind: Kind) -> Iterator[str]:
    for table, names in _REFERENCES.items():
        for name in sorted(set(names) & set(segments.columns(kind))):
            yield (
                f"SELECT 1 FROM {kind} WHERE {name} IS NOT NULL"
                f" AND {name} NOT IN (SELECT id FROM main_database.{table})"
            )
    yield "SELECT 1 FROM submission WHERE userapp NOT IN (SELECT id FROM main_database.userapp)"
    # A name that was found later than the row that refers to it is another one's number by now.
    yield (
        f"SELECT 1 FROM {kind} r JOIN submission s ON s.id = r.submission"
        " JOIN main_database.client_identity c ON c.id = r.client WHERE c.found_at > s.received_at"
    )
