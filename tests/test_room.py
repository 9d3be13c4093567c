"""Room on the disk: what goes where the size is limited, and what one application may have stored in a day."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from clocks import DAY, SetClock
from server import App, RunningServer, catalogue, count, embedded, opened, rows, wait_for

from sparkle_lite.accounts.actors import COMMAND_LINE
from sparkle_lite.config import LimitsSection
from sparkle_lite.db import rewriting, segments
from sparkle_lite.db.conditions import Filter, Query
from sparkle_lite.errors import SparkleError
from sparkle_lite.server import Server
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
PBH = detect("PeerBanHelper/9.5.0")
MIB = 1 << 20
Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    return SetClock(monkeypatch)


@pytest.fixture
async def serve(tmp_path: Path, clock: SetClock) -> AsyncIterator[Serve]:
    """Starts a server in this process in place of the one before, with three applications; it runs no job by itself."""
    async with AsyncExitStack() as stack:

        async def begin(config_text: str = "") -> Server:
            await stack.aclose()
            server = await stack.enter_async_context(embedded(tmp_path, config_text, jobs=False))
            while count(server.database.path, "userapp") < 3:
                await server.apps.add(1, "one", COMMAND_LINE)
            return server

        yield begin


async def submit(server: Server, body: dict[str, Any], userapp: int = 1) -> int:
    return (await server.ingest.submit(Owner(None, userapp), None, json.dumps(body).encode(), "", PBH)).accepted


def peers(number: int, many: int, **more: Any) -> dict[str, Any]:
    found = [
        {"ip_address": f"198.{18 + number % 2}.{n >> 8}.{n & 255}", "torrent_identifier": TORRENT, **more}
        for n in range(many)
    ]
    return {"populate_time": number, "peers": found}


def histories(number: int, many: int) -> dict[str, Any]:
    return peers(number, many, downloaded_offset=0, first_time_seen=number, last_time_seen=number)


def bans(first: int, many: int, text: int = 4096, name: str = "m") -> dict[str, Any]:
    found = [
        {
            "peer_ip": f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}",
            "torrent_identifier": TORRENT,
            "module": name,
            "ban_at": n + 1,
            "rule": "r" * (text // 4),
            "description": f"{n}" + "d" * text,
        }
        for n in range(first, first + many)
    ]
    return {"bans": found}


def owners(path: Path, kind: str) -> dict[int, int]:
    """How many rows of a kind are stored of whom."""
    found: dict[int, int] = {}
    files = [path]
    if kind != "ban":
        folder = path.with_name(path.name + ".segments")
        files = [segments.segment_path(folder, kind, segment["id"]) for segment in catalogue(path, kind)]  # type: ignore[arg-type]
    for file in files:
        sql = "SELECT userapp, count(*) FROM ban GROUP BY 1"
        if kind != "ban":
            sql = f"SELECT b.userapp, count(*) FROM {kind} s JOIN submission b ON b.id=s.submission GROUP BY 1"
        with opened(file) as connection:
            for userapp, many in connection.execute(sql):
                found[userapp] = found.get(userapp, 0) + many
    return found


def on_disk(server: Server) -> int:
    """Bytes of all files of the database."""
    paths = [*server.database.path.parent.glob("sparkle.db*"), *server.database.segment_folder.iterdir()]
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.name.endswith("-shm"))


# --- The limit of the size --------------------------------------------------------------------------------------------


async def test_bans_with_long_texts_push_out_nobody_elses_observations(serve: Serve, clock: SetClock) -> None:
    server = await serve('[retention]\nmax_database_size = "12MiB"\n[limits]\ntext_per_day = "0"')
    for number in range(10):
        await submit(server, peers(number, 1000), 2)
        clock.go(1000)
    await submit(server, bans(0, 40, 100), 2)
    for number in range(48):
        await submit(server, bans(100 * number, 100, name="other"), 3)
        clock.go(1000)
    assert on_disk(server) > 24 * MIB
    await server.housekeeping.apply_retention()
    assert on_disk(server) <= 12 * MIB
    # The file of the main database is no larger than what it holds.
    with opened(server.database.path) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] < 50
    assert owners(server.database.path, "snapshot") == {2: 10_000}
    left = owners(server.database.path, "ban")
    assert left[2] == 40
    assert 500 < left[3] < 2500
    # The first ones went.
    with opened(server.database.path) as connection:
        assert connection.execute("SELECT min(ban_at) FROM ban WHERE userapp=3").fetchone()[0] == 4801 - left[3]
        # What they came in is gone with them, and every ban has its body.
        assert connection.execute("SELECT count(*) FROM submission WHERE userapp=3").fetchone()[0] < 30
        orphans = "SELECT count(*) FROM ban WHERE submission NOT IN (SELECT id FROM submission)"
        assert connection.execute(orphans).fetchone()[0] == 0


async def test_rows_of_who_stores_most_go_and_the_others_stay_where_they_are(
    serve: Serve, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 6000)
    server = await serve('[retention]\nmax_database_size = "2MiB"')
    for number in range(60):
        await submit(server, peers(number, 350), 3)
        await submit(server, histories(number, 100), 3)
        if number % 6 == 0:
            await submit(server, peers(1000 + number, 50), 2)
            await submit(server, histories(1000 + number, 50), 2)
        clock.go(1000)
    await server.housekeeping.index()
    path = server.database.path
    before = {kind: [row for row in rows(path, kind) if row["populate_time"] >= 1000] for kind in segments.KINDS}
    assert on_disk(server) > 2.4 * MIB
    await server.housekeeping.apply_retention()
    assert on_disk(server) <= 2 * MIB
    for kind in segments.KINDS:
        left = [row for row in rows(path, kind) if row["populate_time"] >= 1000]
        assert [dropped(row) for row in left] == [dropped(row) for row in before[kind]]
    assert owners(path, "snapshot")[2] == 500
    assert owners(path, "swarm")[2] == 500
    assert sum(owners(path, kind)[3] for kind in segments.KINDS) > 5000
    assert not list(server.database.segment_folder.glob("*.rewritten*"))
    # What is in the catalogue is what is there; rows stand one after the other.
    for kind in segments.KINDS:
        for segment in catalogue(path, kind):
            file = segments.segment_path(server.database.segment_folder, kind, segment["id"])
            if segment["state"] != "hot":
                with opened(file) as connection:
                    sql = f"SELECT count(*), max(id), (SELECT sum(rows) FROM submission) FROM {kind}"
                    assert tuple(connection.execute(sql).fetchone()) == (segment["rows"],) * 3


def dropped(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its ids, which change when rows before it in its segment go."""
    return {key: value for key, value in row.items() if key not in ("id", "submission")}


async def test_a_hot_segment_is_closed_where_there_is_no_other_to_take_from(serve: Serve, clock: SetClock) -> None:
    server = await serve('[retention]\nmax_database_size = "1MiB"')
    await submit(server, peers(1, 100), 2)
    for number in range(60):
        await submit(server, peers(number, 1000), 3)
    assert on_disk(server) > 3 * MIB
    await server.housekeeping.apply_retention()
    assert on_disk(server) <= MIB
    assert owners(server.database.path, "snapshot") == {2: 100}
    # It goes on, and takes what comes.
    await submit(server, peers(100, 1000), 3)
    assert owners(server.database.path, "snapshot") == {2: 100, 3: 1000}


async def test_two_that_store_as_much_lose_as_much(serve: Serve, clock: SetClock) -> None:
    server = await serve('[retention]\nmax_database_size = "12MiB"')
    for number in range(20):
        await submit(server, bans(100 * number, 100, 3000), 2)
        await submit(server, bans(100 * number, 100, 3000, "other"), 3)
    await server.housekeeping.apply_retention()
    left = owners(server.database.path, "ban")
    assert on_disk(server) <= 12 * MIB
    assert abs(left[2] - left[3]) < 500
    assert left[2] > 600


async def test_names_that_only_they_used_go_too(serve: Serve, clock: SetClock) -> None:
    server = await serve('[retention]\nmax_database_size = "3MiB"')
    for start in range(0, 16_000, 1000):
        names = [
            {"ip_address": "198.18.0.1", "torrent_identifier": f"{n:0128}", "client_name": f"{n:0240}"}
            for n in range(start, start + 1000)
        ]
        await submit(server, {"populate_time": start, "peers": names}, 3)
    await submit(server, peers(1, 10), 2)
    assert on_disk(server) > 8 * MIB
    await server.housekeeping.apply_retention()
    assert on_disk(server) <= 3 * MIB
    assert owners(server.database.path, "snapshot") == {2: 10}
    assert count(server.database.path, "torrent") == 1


async def test_submissions_go_on_while_a_large_main_file_shrinks(serve: Serve, clock: SetClock) -> None:
    server = await serve('[retention]\nmax_database_size = "12MiB"\n[limits]\ntext_per_day = "0"')
    for number in range(30):
        await submit(server, bans(200 * number, 200), 3)
    assert on_disk(server) > 30 * MIB
    work = asyncio.create_task(server.housekeeping.apply_retention())
    took = []
    number = 0
    while not work.done():
        started = time.perf_counter()
        await submit(server, peers(number, 1), 2)
        took.append(time.perf_counter() - started)
        number += 1
        await asyncio.sleep(0.01)
    await work
    assert on_disk(server) <= 12 * MIB
    # Some tens of ms where nothing else runs on the machine.
    assert statistics.median(took) < 0.2
    assert max(took) < 1


async def test_searches_go_on_while_segments_are_rewritten(
    serve: Serve, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 3000)
    server = await serve('[retention]\nmax_database_size = "1MiB"')
    for number in range(40):
        await submit(server, peers(number, 500), 3)
        await submit(server, peers(1000 + number, 20, client_name="kept"), 2)
    await server.housekeeping.index()
    kept = Query("snapshot", (Filter("peer_client_name", "EQUALS", "kept"),), limit=1000)
    everything, by_address = Query("snapshot", limit=50), Query("snapshot", order=("peer_ip",), limit=50)
    work = asyncio.create_task(server.housekeeping.apply_retention())
    found = []
    while not work.done():
        found.append((await server.search.page(kept, 3000, 1000)).total)
        for query in (everything, by_address):
            page = await server.search.page(query, 3000, 1000)
            assert len(page.rows) == 50
    await work
    assert set(found) == {800}
    assert len(found) > 3
    page = await server.search.page(everything, 3000, 1000)
    assert (page.total, page.exact) == (sum(owners(server.database.path, "snapshot").values()), True)
    assert page.total < 40 * 520
    await server.search.tidy()


@pytest.mark.parametrize("step", ["announce", "replace", "sync_folder", "enter"])
async def test_a_crash_while_a_segment_is_replaced_costs_nothing(
    serve: Serve, clock: SetClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    server = await serve('[retention]\nmax_database_size = "1MiB"')
    for number in range(20):
        await submit(server, peers(number, 1000), 3)
    await submit(server, peers(100, 100), 2)
    await server.database.write(lambda main: server.ingest.streams["snapshot"].roll(main, clock.ms), alone=True)

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, step, crash)
        with pytest.raises(ZeroDivisionError):
            await server.housekeeping.apply_retention()
    server = await serve('[retention]\nmax_database_size = "1MiB"')
    assert not list(server.database.segment_folder.glob("*.rewritten*"))
    [closed, _] = catalogue(server.database.path, "snapshot")
    assert closed["rows"] == sum(owners(server.database.path, "snapshot").values())
    await server.housekeeping.apply_retention()
    assert owners(server.database.path, "snapshot") == {2: 100}


async def test_what_cannot_go_is_told_and_stays(
    serve: Serve, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve('[retention]\nmax_database_size = "1MiB"')
    for number in range(3000):
        server.registry.record_user_visit(number)
    await server.database.write(fill_audit)
    await server.housekeeping.apply_retention()
    assert "nothing more can go" in caplog.text
    assert count(server.database.path, "audit") > 2000


async def test_what_cannot_go_does_not_cost_all_that_was_reported(
    serve: Serve, clock: SetClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 1000)
    server = await serve('[retention]\nmax_database_size = "2MiB"')
    await server.database.write(fill_audit)
    for number in range(20):
        await submit(server, peers(number, 1000), 2 + number % 2)
        await submit(server, bans(10 * number, 10, 100), 2 + number % 2)
    await server.housekeeping.index()
    for _ in range(2):
        await server.housekeeping.apply_retention()
        assert "nothing more can go" in caplog.text
        # About a quarter of the limit, and the newest of it.
        kept = {row["populate_time"] for row in rows(server.database.path, "snapshot")}
        assert kept and kept == set(range(20 - len(kept), 20))
        reported = sum(segment["bytes"] for segment in catalogue(server.database.path, "snapshot"))
        assert MIB // 8 < reported < MIB
        assert count(server.database.path, "ban") > 0


async def fill_audit(main: Any) -> None:
    sql = "INSERT INTO audit (at, action, success, details) VALUES (?, 'ADMIN', 1, ?)"
    await main.executemany(sql, [(1_800_000_000_000, json.dumps({"x": "y" * 1000}))] * 3000)


# --- Daily quotas -----------------------------------------------------------------------------------------------------


async def refused(server: Server, body: dict[str, Any], userapp: int) -> SparkleError:
    with pytest.raises(SparkleError) as caught:
        await submit(server, body, userapp)
    assert caught.value.code == "too_many"
    return caught.value


async def test_rows_beyond_the_days_share_are_refused_until_tomorrow(serve: Serve, clock: SetClock) -> None:
    server = await serve("[limits]\nrows_per_day = 1000")
    clock.go(DAY - clock.ms % DAY)
    for number in range(3):
        # A body that begins within the share is stored whole.
        assert await submit(server, peers(number, 400), 2) == 400
    error = await refused(server, peers(3, 400), 2)
    assert (error.said.key, error.retry_after) == ("quota.rows", 24 * 3600)
    assert "limits.rows_per_day" in error.message
    # Who sent less is not touched, and what is not stored costs nothing.
    assert await submit(server, peers(4, 400), 3) == 400
    for _ in range(5):
        assert await submit(server, peers(4, 400), 3) == 400
    assert await submit(server, bans(0, 300, 10), 3) == 300
    for number in range(5):
        assert await submit(server, {**bans(0, 300, 10), "populate_time": number}, 3) == 300
    clock.go(DAY - 2500)
    error = await refused(server, peers(3, 400), 2)
    assert error.retry_after == 3
    clock.go(2500)
    assert await submit(server, peers(3, 400), 2) == 400
    # A reload changes it.
    server = await serve("[limits]\nrows_per_day = 0")
    for number in range(10, 14):
        assert await submit(server, peers(number, 400), 2) == 400


async def test_a_group_that_comes_together_keeps_the_share_too(serve: Serve, clock: SetClock) -> None:
    server = await serve("[limits]\nrows_per_day = 1000")
    outcomes = await asyncio.gather(*(submit(server, peers(n, 400), 2) for n in range(20)), return_exceptions=True)
    stored = sum(1 for outcome in outcomes if outcome == 400)
    assert stored == 3
    assert all(isinstance(o, SparkleError) and o.code == "too_many" for o in outcomes if o != 400)


async def test_texts_beyond_the_days_share_are_refused(serve: Serve, clock: SetClock) -> None:
    server = await serve('[limits]\ntext_per_day = "1MiB"')
    accepted = 0
    with pytest.raises(SparkleError) as caught:
        for number in range(10):
            accepted += await submit(server, bans(100 * number, 100, 2000), 2)
    assert caught.value.said.key == "quota.text"
    # 2.5 kB each.
    assert accepted == 500
    # Names count too: of torrents, clients and flags.
    with pytest.raises(SparkleError):
        for start in range(0, 10_000, 1000):
            names = [
                {"ip_address": "198.18.0.1", "torrent_identifier": f"{n:0128}", "client_name": f"{n:0240}"}
                for n in range(start, start + 1000)
            ]
            await submit(server, {"populate_time": start, "peers": names}, 3)
    assert 2500 <= count(server.database.path, "torrent") <= 3500
    assert await submit(server, peers(1, 10), 1) == 10


def test_a_client_is_told_when_to_come_again_and_its_owner_why(start: Callable[..., RunningServer]) -> None:
    server = start("[limits]\nrows_per_day = 100")
    assert server.post(peers(1, 150)).status == 200
    answer = server.post(peers(2, 150))
    assert "limits.rows_per_day" in answer.refusal(429)
    assert 0 < int(answer.headers["retry-after"]) <= 24 * 3600
    # It is refused before its body is sent.
    head = "".join(f"{name}: {value}\r\n" for name, value in server.app.headers.items())
    announced = f"POST /ping/peers/submit HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 9999999\r\n\r\n"
    assert server.send(announced.encode()).status == 429
    for language, words in (("en", "Its last list of peers was refused"), ("zh", "的上限")):
        page = {"Cookie": f"X-BTN-Token={server.token()}", "Accept-Language": language}
        path = f"/apps/{server.app.app_id}"
        wait_for(lambda p=path, h=page, w=words: w in server.request("GET", p, headers=h).body.decode(), 5)
    assert "limits.rows_per_day" in wait_for(lambda: told(server), 5)
    # Another list of another application is not concerned.
    other: App = server.add_app()
    assert server.post(peers(3, 50), other).status == 200


def told(server: RunningServer) -> str:
    return str(server.run("app", "list")) if "rows_per_day" in server.run("app", "list") else ""


def test_defaults_hold_a_first_upload_of_years_of_history() -> None:
    limits = LimitsSection()
    # 2,000 pages of PeerBanHelper, a thousand rows each, with names of 50 bytes.
    assert limits.rows_per_day >= 2000 * 1000
    assert limits.text_per_day >= 2000 * 1000 * 50
