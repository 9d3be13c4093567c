"""Looks after the files of one server's segments: at its start, every few seconds, and where reading or writing fails.

What is wrong costs its own rows alone (aside.py says what happens to it). What a hot segment held whose file was taken
away is saved from the connection that still has it.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from sparkle_lite.db import aside, segments
from sparkle_lite.db.aside import AsideRow, Belongs, SetAside, Wrong, examine
from sparkle_lite.db.connection import Connection, plain_uri, remove_file, still_uri, transaction
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import FileFault
from sparkle_lite.db.segments import HotFault, Kind, SegmentRow, Stream, segment_path
from sparkle_lite.errors import SparkleError

# Between two files that are read as a whole: so many times what the last one took, so that nobody feels it.
_PAUSES = 4.0

logger = logging.getLogger("sparkle.files")


class Keeper:
    """The files of one server's segments.

    `entries` are those that aren't served. `skipped` are the ids of those that the catalogue still names, because it
    can't be written: nobody shall look into them.
    """

    def __init__(self, database: Database, streams: Mapping[Kind, Stream], clock: Callable[[], int]) -> None:
        self.entries: Sequence[SetAside] = ()
        self.skipped: set[int] = set()
        self._database = database
        self._streams = streams
        self._clock = clock
        self._folder = database.segment_folder
        self._aside = segments.set_aside_folder(self._folder)
        self._looking = asyncio.Lock()
        # What indexed files looked like: they never change. And what was found to be no better than before.
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._no_better: dict[int, tuple[int, int, int]] = {}
        # What nothing names and can't be moved, and why.
        self._stuck: dict[Path, str] = {}

    # --- At the start -------------------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Make catalogue and folder agree, before anything is read or written. Raises FileFault."""
        if self._database.is_still:
            await self._look_only()
            return
        main = self._database.main
        await asyncio.to_thread(segments.discard_unready, self._folder)
        belongs = await aside.belongs_to(main, self._database.stamp)
        known = await segments.catalogue(main)
        for segment, wrong in await asyncio.to_thread(lambda: list(self._examined(known, belongs))):
            await self._put_aside(main, segment, wrong)
        await self._tidy(main)

    async def _look_only(self) -> None:
        """The same on a disk that can't be written: what can't be served is passed over."""
        async with self._database.reader() as reader:
            belongs = await aside.belongs_to(reader, self._database.stamp)
            known = await segments.catalogue(reader)
        wrongs = dict(await asyncio.to_thread(lambda: list(self._examined(known, belongs))))
        self._skip(wrongs)
        await self.refresh(wrongs)

    def _examined(self, known: Iterable[SegmentRow], belongs: Belongs) -> Iterator[tuple[SegmentRow, Wrong]]:
        """What is wrong with segments; one that was set aside and is named again comes back. On a thread."""
        still = self._database.is_still
        for segment in known:
            path, away = self._path(segment), self._aside / aside.name_of(segment)
            deep = segment.state == "hot"
            if not still and not path.exists() and away.exists() and not examine(away, segment, belongs, deep=True):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                aside.bring_back(away, path)
                logger.info("a segment file that was set aside is named again", extra={"file": str(path)})
            try:
                uri = still_uri(path) if still and path.exists() and path.stat().st_size else None
                wrong = examine(path, segment, belongs, deep=deep, uri=uri)
            except FileFault as fault:
                if not still:
                    raise
                wrong = Wrong("unreadable", fault.message)
            if wrong:
                yield segment, wrong

    # --- While it runs ------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look whether all files are there, whole at first sight, and known; what is right again is served again."""
        if self._database.is_still:
            return
        for fault in await asyncio.to_thread(lambda: list(self._hot_faults())):
            await self._database.write(partial(self.mend, fault=fault), alone=True)
        async with self._database.reader() as reader:
            known = await segments.catalogue(reader)
            away = await aside.rows(reader)
        for segment in await asyncio.to_thread(lambda: list(self._changed(known))):
            await self.suspect(segment.id)
        named = {aside.name_of(each) for each in (*known, *(row.segment for row in away))}
        unnamed = await asyncio.to_thread(self._unnamed, named)
        self._stuck = {path: why for path, why in self._stuck.items() if path in unnamed}
        if away or unnamed:
            await self._database.write(self._tidy, alone=True)
        else:
            await self.refresh()

    def _hot_faults(self) -> Iterator[HotFault]:
        for stream in self._streams.values():
            try:
                stream.verify()
            except HotFault as fault:
                yield fault

    def _changed(self, known: Sequence[SegmentRow]) -> Iterator[SegmentRow]:
        """Closed segments whose file is gone, or an indexed one's that is another than it was."""
        for segment in known:
            if segment.state == "hot" or segment.id in self.skipped:
                continue
            found = _looks(self._path(segment))
            if found is None:
                yield segment
            elif segment.state == "indexed" and self._seen.setdefault(segment.id, found) != found:
                self._seen[segment.id] = found
                yield segment

    async def suspect(self, number: int) -> bool:
        """Read all of a segment that could not be read; whether it is set aside now, or is no more."""
        async with self._looking, self._database.reader() as reader:
            found = await segments.catalogue(reader, "id=?", (number,))
            if not found or number in self.skipped:
                return True
            belongs = await aside.belongs_to(reader, self._database.stamp)
        [segment] = found
        path = self._path(segment)
        uri = still_uri(path) if self._database.is_still and path.exists() else None
        wrong = await asyncio.to_thread(partial(examine, path, segment, belongs, deep=True, uri=uri))
        if wrong is None:
            return False
        try:
            await self._database.write(partial(self._put_aside_running, number=number, wrong=wrong), alone=True)
        except SparkleError:
            logger.exception("segment file %s can't be served, and the catalogue can't be told", path)
            self._skip({segment: wrong})
            await self.refresh({segment: wrong})
        return True

    async def _put_aside_running(self, main: Connection, number: int, wrong: Wrong) -> None:
        belongs = await aside.belongs_to(main, self._database.stamp)
        for segment in await segments.catalogue(main, "id=?", (number,)):
            # One that was written anew meanwhile is another file, and the catalogue says so by now.
            if wrong.reason == "foreign" and not await asyncio.to_thread(
                examine, self._path(segment), segment, belongs
            ):
                continue
            stream = self._streams[segment.kind]
            if segment.state == "hot" and stream.hot and stream.hot.id == number:
                is_gone = wrong.reason in ("missing", "unreadable")
                await self.mend(main, HotFault(segment.kind, "missing" if is_gone else "damaged", wrong.details))
            else:
                await self._put_aside(main, segment, wrong)
        await self.refresh()

    async def check_all(self) -> None:
        """Read every file as a whole, newest first and slowly; what is damaged is set aside."""
        async with self._database.reader() as reader:
            known = await segments.catalogue(reader)
        loop = asyncio.get_running_loop()
        for segment in reversed(known):
            started = loop.time()
            await self.suspect(segment.id)
            await asyncio.sleep(_PAUSES * (loop.time() - started))

    # --- Hot segments: on the writer's task ---------------------------------------------------------------------------

    async def mend(self, main: Connection, fault: HotFault) -> None:
        """Write on in another file: with all that was in the one that was taken away, or behind a damaged one."""
        stream = self._streams[fault.kind]
        await stream.roll_back()
        try:
            # Somebody may have mended it since.
            await asyncio.to_thread(stream.verify)
            if fault.reason == "missing":
                return
        except HotFault:
            pass
        if fault.reason == "missing" and await self._rescue(main, stream, fault.details):
            return
        hot = stream.hot
        assert hot is not None
        number = await stream.new_number(main)
        connection = await stream.make(number)
        wrong = Wrong(
            "empty" if not _bytes(self._path(hot)) and fault.reason == "damaged" else fault.reason, fault.details
        )
        try:
            file = await self._moved(hot, wrong)
            rows, submissions, first, last = stream.counts
            closed = hot._replace(
                state="closed", rows=rows, submissions=submissions, first_received_at=first, last_received_at=last
            )
            async with transaction(main):
                await aside.note(main, AsideRow(closed, wrong, file, self._clock()))
                fresh = await stream.begin(main, number, self._clock())
        except BaseException:
            await connection.close()
            raise
        self._tell(closed, wrong)
        await stream.take(fresh, connection)
        await self.refresh()

    async def _rescue(self, main: Connection, stream: Stream, details: str) -> bool:
        """Save what a file held that was taken away, from the connection that still has it; whether that went."""
        hot, number = stream.hot, await stream.new_number(main)
        assert hot is not None
        try:
            connection = await stream.make(number, stream.connection)
        except (sqlite3.DatabaseError, FileFault) as error:
            if isinstance(error, FileFault) and error.kind in ("room", "read_only", "rights", "busy"):
                # There will be room again, and it is there still.
                raise
            logger.error("what was in %s can't be saved: %s", self._path(hot), error)
            return False
        try:
            async with transaction(main):
                await segments.renumber(main, hot.id, number)
        except BaseException:
            await connection.close()
            raise
        logger.error(
            "%s was taken away while it was written to%s; what it held is saved as %s",
            self._path(hot),
            f" ({details})" if details else "",
            stream.path(number),
        )
        await stream.take(hot._replace(id=number), connection)
        return True

    # --- Setting aside and taking back: on the writer's task, or before there is one ----------------------------------

    async def _put_aside(self, main: Connection, segment: SegmentRow, wrong: Wrong) -> None:
        file = await self._moved(segment, wrong)
        async with transaction(main):
            await aside.note(main, AsideRow(segment, wrong, file, self._clock()))
        self._tell(segment, wrong)

    async def _moved(self, segment: SegmentRow, wrong: Wrong) -> str:
        """The new name of a file that was put away; empty where it stayed."""
        path = self._path(segment)
        if not wrong.is_moved or not await asyncio.to_thread(path.exists):
            return ""
        try:
            return await asyncio.to_thread(aside.put_away, path, self._aside)
        except OSError as error:
            logger.error("%s can't be moved to %s: %s", path, self._aside, error)
            return ""

    def _tell(self, segment: SegmentRow, wrong: Wrong) -> None:
        logger.error(
            "segment file %s is set aside: %s",
            self._path(segment),
            aside.told(wrong),
            extra={"file": aside.name_of(segment), "rows": segment.rows},
        )

    async def _tidy(self, main: Connection) -> None:
        """Put away what nothing names, and take back what is right again."""
        for row in await aside.rows(main):
            await self._reclaim(main, row)
        named = {aside.name_of(each) for each in await segments.catalogue(main)}
        named |= {aside.name_of(row.segment) for row in await aside.rows(main)}
        for path in await asyncio.to_thread(self._unnamed, named):
            await asyncio.to_thread(self._put_unnamed_away, path)
        await self.refresh()

    def _unnamed(self, named: set[str]) -> list[Path]:
        """The files of the folder that nothing names."""
        files = [*self._folder.glob("*-????????.db"), *self._folder.glob(f"*-????????.db{segments.RESCUED}")]
        return sorted(path for path in files if path.name not in named)

    def _put_unnamed_away(self, path: Path) -> None:
        if self._is_empty_one_of_ours(path):
            # Made, and not named yet when the process was killed: there is nothing in it.
            remove_file(path)
            return
        try:
            name = aside.put_away(path, self._aside)
        except OSError as error:
            # Tried again at each look, and said once.
            if path not in self._stuck:
                logger.error(
                    "%s is not named by the main database, and can't be moved to %s: %s", path, self._aside, error
                )
            self._stuck[path] = str(error)
            return
        self._stuck.pop(path, None)
        logger.error("%s is not named by the main database and is set aside as %s", path, self._aside / name)

    def _is_empty_one_of_ours(self, path: Path) -> bool:
        kind: Kind = "swarm" if path.name.startswith("swarm") else "snapshot"
        # To open it for writing makes a log, in which there is nothing before the first row.
        if _bytes(path.with_name(f"{path.name}-wal")) or not _bytes(path):
            return False
        try:
            with closing(sqlite3.connect(f"{plain_uri(path)}&immutable=1", uri=True)) as file:
                (stamp,) = file.execute("PRAGMA application_id").fetchone()
                used = file.execute(f"SELECT EXISTS (SELECT 1 FROM {kind}) OR EXISTS (SELECT 1 FROM submission)")
                return bool(stamp) and stamp == self._database.stamp and not used.fetchone()[0]
        except sqlite3.DatabaseError:
            return False

    async def _reclaim(self, main: Connection, row: AsideRow) -> None:
        """Take a segment back whose file is in its place and right; forget one whose file left the folder."""
        segment, path = row.segment, self._path(row.segment)
        found = await asyncio.to_thread(_looks, path)
        if found is None:
            if row.file and not await asyncio.to_thread((self._aside / row.file).exists):
                async with transaction(main):
                    await aside.drop(main, [segment.id])
            return
        if self._no_better.get(segment.id) == found:
            return
        belongs = await aside.belongs_to(main, self._database.stamp)
        wrong = await asyncio.to_thread(partial(examine, path, segment, belongs, deep=True))
        if wrong is None:
            if segment.state == "hot":
                rows, submissions, first, last = await asyncio.to_thread(aside.measure, path, segment.kind)
                segment = segment._replace(
                    state="closed", rows=rows, submissions=submissions, first_received_at=first, last_received_at=last
                )
            async with transaction(main):
                if await aside.take_back(main, segment):
                    self.skipped.discard(segment.id)
                    logger.info("segment file %s is right again and is served", path)
                    return
        if wrong is None or wrong.reason not in ("missing", "unreadable"):
            self._no_better[segment.id] = found

    # --- What is shown ------------------------------------------------------------------------------------------------

    async def refresh(self, passed_over: Mapping[SegmentRow, Wrong] | None = None) -> None:
        """Know anew which files aren't served; `passed_over` are those that the catalogue still names."""
        async with self._database.reader() as reader:
            away = await aside.rows(reader)
        files = await asyncio.to_thread(aside.files_in, self._aside)
        entries = [
            SetAside(
                row.file or aside.name_of(row.segment),
                self._aside / row.file if row.file else self._path(row.segment),
                row.wrong,
                row.segment.rows,
                row.at,
            )
            for row in away
        ]
        entries += [
            SetAside(aside.name_of(segment), self._path(segment), wrong, segment.rows, self._clock())
            for segment, wrong in (passed_over or {}).items()
        ]
        named = {row.file for row in away}
        entries += [SetAside(path.name, path, Wrong("unnamed"), None, None) for path in files if path.name not in named]
        entries += [SetAside(path.name, path, Wrong("unnamed", why), None, None) for path, why in self._stuck.items()]
        if passed_over is None and self.skipped:
            names = {entry.name for entry in entries}
            entries += [
                entry for entry in self.entries if entry.name not in names and entry.path.parent == self._folder
            ]
        self.entries = tuple(entries)

    def _skip(self, wrongs: Mapping[SegmentRow, Wrong]) -> None:
        for segment, wrong in wrongs.items():
            self.skipped.add(segment.id)
            logger.error("segment file %s is passed over: %s", self._path(segment), aside.told(wrong))

    def _path(self, segment: SegmentRow) -> Path:
        return segment_path(self._folder, segment.kind, segment.id)


def _looks(path: Path) -> tuple[int, int, int] | None:
    """What a file looks like from outside: which one it is, its bytes, and when it was written (ns)."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _bytes(path: Path) -> int:
    looks = _looks(path)
    return looks[1] if looks else 0
