"""Backups that a server makes by itself: what they share, which stay, and what happens when one fails."""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from clocks import DAY, HOUR, SetClock
from server import embedded, opened, segment_file
from test_durability import all_indexed, expected, stored, submit

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.db import archive, backup, segments
from sparkle_lite.db.faults import FileFault
from sparkle_lite.db.restore import RestoreOrder, arm, restore, stage
from sparkle_lite.server import Server

pytestmark = pytest.mark.anyio
HOURLY = '[backup]\nevery = "1h"\nkeep = 2\n'


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 100)


async def fill(server: Server, first: int, last: int) -> None:
    """Submit bodies a few at a time, so that segments are closed, and have those indexed."""
    for start in range(first, last, 5):
        await submit(server, *range(start, start + 5))
    await server.jobs.run_now("index")
    await all_indexed(server)


def places(folder: Path) -> dict[str, os.stat_result]:
    return {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*.db")}


def beside(database: Path) -> set[str]:
    """What is in the folder of a main database, but for its log."""
    return {path.name for path in database.parent.iterdir() if not path.name.endswith(("-wal", "-shm"))}


def require_whole(folder: Path) -> archive.Manifest:
    with closing(archive.open_backup(folder)) as backup:
        archive.check(backup, lambda _: None)
        return backup.manifest


async def test_the_second_backup_costs_only_what_is_new_and_the_newest_stay(tmp_path: Path) -> None:
    async with embedded(tmp_path, HOURLY, jobs=False) as server:
        await fill(server, 1, 31)
        await server.jobs.run_now("backup")
        assert server.jobs.failed == {}
        # It is not time for another one.
        await server.jobs.run_now("backup")
        [first] = await server.backups.all()
        folder = tmp_path / "data" / "backups"
        await fill(server, 31, 51)
        assert await server.backups.make()
        second, first = await server.backups.all()
        older, newer = places(folder / first.name), places(folder / second.name)
        same = {name for name in newer if name in older and newer[name].st_ino == older[name].st_ino}
        new = {name for name in newer if name not in older}
        with opened(server.database.path) as main:
            indexed = main.execute("SELECT kind, id FROM segment WHERE state='indexed'").fetchall()
        names = {f"sparkle.db.segments/{kind}-{number:08d}.db" for kind, number in indexed}
        assert same and new and {name for name in newer if newer[name].st_nlink >= 2} == names
        # The data's own files have these names, too.
        for kind, number in indexed:
            assert segment_file(server.database.path, {"kind": kind, "id": number}).stat().st_nlink >= 2
        alone = sum(newer[name].st_size for name in newer.keys() - names)
        manifest_bytes = (folder / second.name / "manifest.json").stat().st_size
        assert second.own == alone + manifest_bytes < second.bytes
        assert server.backups.room == first.own + second.own
        assert await server.backups.make()
        assert [backup.name for backup in await server.backups.all()][1:] == [second.name]
        for backup in await server.backups.all():
            require_whole(folder / backup.name)
        assert {path.name for path in folder.iterdir()} == {backup.name for backup in await server.backups.all()}
        newest = (await server.backups.all())[0]
    shutil.rmtree(tmp_path / "data" / "sparkle.db.segments")
    restore(server.database.path, folder / newest.name, 0, lambda _: None)
    assert stored(server.database.path) == expected(range(1, 51))


async def test_what_retention_writes_anew_does_not_change_a_backup(tmp_path: Path) -> None:
    async with embedded(tmp_path, f"{HOURLY}[retention]\nmax_database_size = '1MiB'\n", jobs=False) as server:
        await fill(server, 1, 31)
        assert await server.backups.make()
        [backup] = await server.backups.all()
        before = places(server.database.segment_folder)
        folder = server.backups.folder / backup.name
        for path in server.database.segment_folder.glob("*.db"):
            # As rewriting does it (db/rewriting.py: replace): a new file takes the name.
            fresh = path.with_name("fresh")
            fresh.write_bytes(b"x" * path.stat().st_size)
            fresh.replace(path)
        assert before.keys() == places(server.database.segment_folder).keys()
        require_whole(folder)


async def test_on_another_file_system_backups_share_among_themselves(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as elsewhere:
        text = f'[backup]\nfolder = "{elsewhere}"\n'
        async with embedded(tmp_path, text, jobs=False) as server:
            await fill(server, 1, 31)
            for _ in range(2):
                assert await server.backups.make()
            second, first = await server.backups.all()
            older, newer = (places(Path(elsewhere) / backup.name) for backup in (first, second))
            assert any(newer[name].st_ino == older[name].st_ino for name in newer)
            for backup in (first, second):
                require_whole(Path(elsewhere) / backup.name)


async def test_one_that_fails_is_named_leaves_nothing_and_is_made_later(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "backups"
    async with embedded(tmp_path, HOURLY, jobs=False) as server:
        await fill(server, 1, 10)
        folder.write_text("in the way")
        await server.jobs.run_now("backup")
        assert "backup" in server.readiness()["failing_jobs"]  # type: ignore[operator]
        assert str(tmp_path) not in str(server.readiness()["failing_jobs"])
        assert isinstance(server.backups.failure, FileFault) and str(folder) in server.backups.failure.message
        # It is not tried again at once, and still said.
        await server.jobs.run_now("backup")
        assert "backup" in server.jobs.failed
        folder.unlink()
        assert await server.backups.make()
        await server.jobs.run_now("backup")
        assert server.jobs.failed == {}
        # What somebody put there is neither taken for a backup nor removed.
        [backup] = await server.backups.all()
        (folder / "2020-01-01-000000").mkdir()
        (folder / backup.name / "mine.txt").write_text("x")
        for _ in range(2):
            assert await server.backups.make()
        assert (folder / backup.name / "mine.txt").exists() and (folder / "2020-01-01-000000").exists()


async def test_where_the_size_is_limited_the_oldest_go_and_the_newest_stays(tmp_path: Path) -> None:
    text = f"{HOURLY.replace('2', '9')}[retention]\nmax_database_size = '1MiB'\n"
    async with embedded(tmp_path, text, jobs=False) as server:
        await fill(server, 1, 31)
        await server.housekeeping.measure()
        for _ in range(4):
            assert await server.backups.make()
        assert 1 <= len(await server.backups.all()) < 4
        before = stored(server.database.path)
        await server.jobs.run_now("retention")
        assert stored(server.database.path) == before


async def test_a_wrong_clock_makes_no_backup_after_the_other_and_costs_none_of_the_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SetClock(monkeypatch)

    async def names_after(server: Server, ms: int) -> set[str]:
        clock.turn(ms)
        for _ in range(3):
            clock.go(60_000)
            await server.jobs.run_now("backup")
        return {backup.name for backup in await server.backups.all()}

    async with embedded(tmp_path, HOURLY, jobs=False) as server:
        await server.jobs.run_now("backup")
        clock.go(2 * HOUR)
        good = await names_after(server, 0)
        assert len(good) == 2
        # Nothing is due by a clock that nobody believes.
        for turn in (3 * DAY, -3 * DAY - 2 * HOUR, 2 * HOUR):
            assert await names_after(server, turn) == good
        # Somebody believed it, and it was wrong.
        clock.turn(3 * DAY)
        server.timekeeping.clock.accept()
        ahead = await names_after(server, 0) - good
        assert len(ahead) == 1
        clock.turn(-3 * DAY)
        clock.go(2 * HOUR)
        server.timekeeping.clock.accept()
        kept = await names_after(server, 0)
        assert len(kept) == 2 and not kept & ahead and len(kept & good) == 1


async def test_only_what_was_armed_takes_the_place_and_what_is_anybodys_stays(tmp_path: Path) -> None:
    text = '[database]\npath = "data/of [mine].db"\n'
    async with embedded(tmp_path, text, jobs=False) as server:
        await fill(server, 1, 6)
        assert await server.backups.make()
        [backup] = await server.backups.all()
        source, database = server.backups.folder / backup.name, server.database.path
        await fill(server, 6, 11)
    notes = database.with_name(f"{database.name}.restored-notes")
    notes.mkdir()
    (notes / "mine.txt").write_text("x")
    database.with_name(f"{database.name}.restored-20260101-000000").write_text("x")
    before = beside(database)
    # The server was killed before it could arm what was staged for it.
    stage(RestoreOrder(database, source), lambda _: None)
    async with embedded(tmp_path, text, jobs=False):
        pass
    assert stored(database) == expected(range(1, 11))
    assert beside(database) == before
    arm(database, stage(RestoreOrder(database, source), lambda _: None), 0)
    [ready] = database.parent.glob("*.restored-19700101-000000")
    (ready / "mine.txt").write_text("x")
    async with embedded(tmp_path, text, jobs=False):
        pass
    assert stored(database) == expected(range(1, 6))
    [old] = beside(database) - before
    assert old == f"{database.name}.before-restore-19700101-000000"
    assert (database.with_name(old) / ready.name / "mine.txt").exists()


async def test_a_damaged_file_that_backups_share_costs_its_own_rows_and_the_next_is_whole(tmp_path: Path) -> None:
    async with embedded(tmp_path, HOURLY, jobs=False) as server:
        await fill(server, 1, 31)
        assert await server.backups.make()
        admin = Actor(None, admin=True, by="test")
        [first] = await server.backups.all()
        source = server.backups.folder / first.name
        shared = max(source.rglob("snapshot-*.db"), key=lambda path: path.stat().st_nlink)
        with shared.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        server.backups.begin_check(first.name, admin)
        while server.backups.progress is not None:
            await asyncio.sleep(0.02)
        assert server.backups.checked[first.name][1] is not None
        assert await server.backups.make()
        require_whole(server.backups.folder / (await server.backups.all())[0].name)
    name = f"sparkle.db.segments/{shared.name}"
    other = tmp_path / "other" / "sparkle.db"
    restored = restore(other, source, 0, lambda _: None)
    assert restored.staged.left_out == (name,)
    (tmp_path / "other" / "of").mkdir()
    async with embedded(tmp_path / "other" / "of", '[database]\npath = "../sparkle.db"\n', jobs=False) as server:
        assert shared.name in str(server.readiness()["set_aside"])


async def test_a_backup_of_another_server_is_shown_and_never_removed(tmp_path: Path) -> None:
    text = f'{HOURLY.replace("keep = 2", "keep = 1")}folder = "{tmp_path}/backups"\n'
    names = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        async with embedded(tmp_path / name, text, jobs=False) as server:
            assert await server.backups.make()
            assert await server.backups.make()
            found = await server.backups.all()
            names.append([backup.name for backup in found if not backup.is_brought])
    assert [len(own) for own in names] == [1, 1]
    assert {backup.name for backup in found} == {*names[0], *names[1]}
    # A disk that isn't there is no place to make folders in.
    (tmp_path / "three").mkdir()
    async with embedded(tmp_path / "three", f'[backup]\nfolder = "{tmp_path}/none/backups"\n', jobs=False) as server:
        assert not await server.backups.make()
        assert server.backups.failure is not None and server.backups.failure.said.key == "backup.no_folder"
    assert not (tmp_path / "none").exists()


async def test_a_moment_is_taken_anew_where_something_was_committed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moments of the segments and that of the main database nothing may be committed to either."""
    async with embedded(tmp_path, jobs=False) as server:
        await submit(server, 1, 2, 3)
        database, folder = server.database.path, server.database.segment_folder
    hot = next(folder.glob("snapshot-*.db"))
    tries: list[backup.Moment] = []

    class Disturbed(backup.Moment):
        def __init__(self, main: sqlite3.Connection, now_ms: int) -> None:
            super().__init__(main, now_ms)
            tries.append(self)
            if len(tries) < 4:
                with closing(sqlite3.connect(hot)) as other:
                    other.execute("UPDATE submission SET rejected=rejected+1")
                    other.commit()

    monkeypatch.setattr(backup, "Moment", Disturbed)
    order = backup.BackupOrder(database=database, segments=folder, target=tmp_path / "x.tar", now_ms=0)
    with backup.moment(order) as held:
        rejected = {
            row.kind: connection.execute("SELECT max(rejected) FROM submission").fetchone()[0]
            for row, connection in held.copied.items()
        }
    assert len(tries) == 4 and rejected["snapshot"] == 3
