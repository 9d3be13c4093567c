"""A clock that is wrong for a while: nothing is deleted or ends by it, and what it stamped is brought back."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from clocks import DAY, HOUR, FileClock, SetClock
from server import RunningServer, catalogue, count, embedded, opened, rows, wait_for

import sparkle_lite.clock
from sparkle_lite.accounts.actors import COMMAND_LINE
from sparkle_lite.cli.main import main
from sparkle_lite.clock import Clock
from sparkle_lite.db import rewriting, segments
from sparkle_lite.server import Server
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
PBH = detect("PeerBanHelper/9.5.0")
Serve = Callable[..., Awaitable[Server]]
JUMPS = (400 * DAY, -400 * DAY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    return SetClock(monkeypatch)


@pytest.fixture
async def serve(tmp_path: Path, clock: SetClock) -> AsyncIterator[Serve]:
    """Starts a server in this process in place of the one before; it runs no job by itself."""
    async with AsyncExitStack() as stack:

        async def begin(config_text: str = "") -> Server:
            await stack.aclose()
            return await stack.enter_async_context(embedded(tmp_path, config_text, jobs=False))

        yield begin


def peers(number: int, **more: Any) -> dict[str, Any]:
    row = {"ip_address": f"198.18.{number >> 8}.{number & 255}", "torrent_identifier": TORRENT, **more}
    return {"populate_time": number, "peers": [row]}


def ban(number: int) -> dict[str, Any]:
    peer_ip = f"198.18.{number >> 8}.{number & 255}"
    return {"bans": [{"peer_ip": peer_ip, "torrent_identifier": TORRENT, "module": "m", "ban_at": number}]}


async def submit(server: Server, *bodies: dict[str, Any]) -> None:
    for body in bodies:
        await server.ingest.submit(Owner(None, 1), None, json.dumps(body).encode(), "", PBH)


async def fill(server: Server, clock: SetClock) -> None:
    """Rows of each kind in a closed segment and in a hot one, and bans; received one after the other."""
    number = count(server.database.path, "ban")
    for _ in range(2):
        await submit(server, peers(number), peers(number, downloaded_offset=0, first_time_seen=1), ban(number + 1))
        number += 1
        clock.go(1000)
        for stream in server.ingest.streams.values():
            if number % 2:
                await server.database.write(lambda main, one=stream: one.roll(main, clock.ms), alone=True)
    await server.housekeeping.index()


def stored(server: Server) -> tuple[int, ...]:
    path = server.database.path
    return (*(len(rows(path, kind)) for kind in ("snapshot", "swarm")), count(path, "ban"), count(path, "session"))


def received(path: Path) -> list[int]:
    """When everything was received, in order of storage: in segments, then in the main database."""
    found = []
    for kind in segments.KINDS:
        for segment in catalogue(path, kind):
            file = segments.segment_path(path.with_name(path.name + ".segments"), kind, segment["id"])
            with opened(file) as connection:
                found += [row[0] for row in connection.execute("SELECT received_at FROM submission ORDER BY id")]
    with opened(path) as connection:
        found += [row[0] for row in connection.execute("SELECT received_at FROM ban ORDER BY id")]
        found += [row[0] for row in connection.execute("SELECT received_at FROM submission ORDER BY id")]
    return found


def said(server: Server) -> str:
    return str(server.readiness()["clock"])


async def signed_in(server: Server) -> str:
    [admin] = [user for user in await server.users.all() if user.name == "admin"]
    return await server.sessions.sign_in(admin, "command line")


# --- While it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_clock_that_jumps_deletes_nothing_and_ends_nothing(serve: Serve, clock: SetClock, jump: int) -> None:
    server = await serve()
    await fill(server, clock)
    token = await signed_in(server)
    assert said(server) == "ok"
    before = stored(server)
    clock.turn(jump)
    await server.timekeeping.watch()
    assert "jumped to" in said(server)
    assert "doctor accept-clock" in said(server)
    await fill(server, clock)
    await server.housekeeping.roll()
    await server.housekeeping.apply_retention()
    assert stored(server) == (before[0] + 2, before[1] + 2, before[2] + 2, before[3])
    assert (await server.sessions.user(token)).name == "admin"
    # What is begun now lasts as long as it should, too.
    assert (await server.sessions.user(await signed_in(server))).name == "admin"
    clock.go(23 * HOUR)
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (4, 4, 4)
    # It is right again before anybody has said that it is right.
    clock.turn(-jump)
    await server.timekeeping.watch()
    assert said(server) == "ok"
    await server.housekeeping.apply_retention()
    assert stored(server) == (4, 4, 4, 2)
    assert (await server.sessions.user(token)).name == "admin"


async def test_the_time_is_taken_over_after_24_hours_of_running(serve: Serve, clock: SetClock) -> None:
    server = await serve()
    await fill(server, clock)
    clock.turn(400 * DAY)
    await server.timekeeping.watch()
    clock.go(24 * HOUR - 1)
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (2, 2, 2)
    clock.go(1)
    await server.timekeeping.watch()
    assert said(server) == "ok"
    assert server.timekeeping.settled.is_set()
    await server.housekeeping.roll()
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (0, 0, 0)
    # The next start asks nothing again.
    assert said(await serve()) == "ok"


async def test_another_jump_begins_the_24_hours_anew(serve: Serve, clock: SetClock) -> None:
    server = await serve()
    clock.turn(3 * DAY)
    await server.timekeeping.watch()
    clock.go(20 * HOUR)
    clock.turn(2 * DAY)
    assert "jumped" in said(server)
    clock.go(24 * HOUR - 1)
    assert "jumped" in said(server)
    clock.go(1)
    assert said(server) == "ok"


async def test_small_corrections_are_no_jump_however_many(serve: Serve, clock: SetClock) -> None:
    server = await serve()
    for step in (HOUR, HOUR, HOUR, -HOUR, -2000):
        clock.turn(step)
        clock.go(60_000)
        await server.timekeeping.watch()
        assert said(server) == "ok"
    clock.turn(HOUR + 1)
    assert said(server) != "ok"


@pytest.mark.parametrize("jump", JUMPS)
async def test_an_administrator_takes_the_time_as_right_at_once(serve: Serve, clock: SetClock, jump: int) -> None:
    server = await serve()
    await fill(server, clock)
    clock.turn(jump)
    await server.timekeeping.watch()
    await server.timekeeping.accept(COMMAND_LINE)
    assert said(server) == "ok"
    await server.housekeeping.roll()
    await server.housekeeping.apply_retention()
    # Forwards, all that is old by now goes; backwards, it is brought back to now and goes when it is old again.
    assert stored(server)[:3] == ((0, 0, 0) if jump > 0 else (2, 2, 2))
    assert all(at <= clock.ms + HOUR for at in received(server.database.path))
    clock.go(50 * DAY)
    await server.housekeeping.roll()
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (0, 0, 0)


async def test_what_was_stamped_ahead_is_brought_back_and_goes_in_its_time(serve: Serve, clock: SetClock) -> None:
    server = await serve()
    await fill(server, clock)
    years = 40 * 365 * DAY
    clock.turn(years)
    await fill(server, clock)
    assert max(received(server.database.path)) > clock.ms - DAY
    clock.turn(-years)
    await server.timekeeping.watch()
    await submit(server, peers(100), peers(100, downloaded_offset=0, first_time_seen=1), ban(100))
    assert sum(at > clock.ms + HOUR for at in received(server.database.path)) == 8
    assert rows(server.database.path, "snapshot")[-1]["received_at"] == clock.ms
    clock.go(1000)
    await server.housekeeping.apply_retention()
    times = received(server.database.path)
    assert len(times) == 20
    assert all(clock.ms - HOUR <= at <= clock.ms for at in times)
    assert [len(rows(server.database.path, kind)) for kind in ("snapshot", "swarm")] == [5, 5]
    with opened(server.database.path) as connection:
        lost = (
            "SELECT count(*) FROM ban b LEFT JOIN submission s ON s.id=b.submission"
            " WHERE s.received_at IS NOT b.received_at"
        )
        assert connection.execute(lost).fetchone()[0] == 0
    # Retention reaches all of it.
    clock.go(DAY)
    await server.housekeeping.roll()
    clock.go(50 * DAY)
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (0, 0, 0)


async def test_a_body_that_comes_again_after_a_jump_is_stored_once(serve: Serve, clock: SetClock) -> None:
    server = await serve()
    for jump in (0, 3 * DAY, -3 * DAY, -3 * DAY, 3 * DAY):
        clock.turn(jump)
        await submit(server, peers(1))
        assert len(rows(server.database.path, "snapshot")) == 1
    server = await serve()
    await submit(server, peers(1))
    assert len(rows(server.database.path, "snapshot")) == 1


# --- At a start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jump", "sentence"), [(400 * DAY, "long after"), (-400 * DAY, "was received until")])
async def test_a_start_with_a_wrong_clock_deletes_and_ends_nothing(
    serve: Serve, clock: SetClock, jump: int, sentence: str
) -> None:
    server = await serve()
    await fill(server, clock)
    token = await signed_in(server)
    clock.turn(jump)
    server = await serve()
    assert sentence in said(server)
    assert (await server.sessions.user(token)).name == "admin"
    await submit(server, peers(50))
    await server.housekeeping.roll()
    await server.housekeeping.apply_retention()
    assert stored(server) == (3, 2, 2, 1)
    # Neither does another start, nor the right time.
    server = await serve()
    assert sentence in said(server)
    clock.turn(-jump)
    server = await serve()
    await server.housekeeping.apply_retention()
    assert (await server.sessions.user(token)).name == "admin"
    assert stored(server) == (3, 2, 2, 1)
    assert all(abs(at - clock.ms) < HOUR for at in received(server.database.path))


async def test_the_clock_may_be_set_right_while_a_server_runs_that_began_with_a_wrong_one(
    serve: Serve, clock: SetClock
) -> None:
    server = await serve()
    await fill(server, clock)
    await serve()
    # A machine without a clock of its own begins in 1970 and learns the time from the network.
    there = clock.ms
    clock.turn(1_000_000 - there)
    server = await serve()
    assert "was received until" in said(server)
    await submit(server, peers(50))
    clock.turn(there + 5 * DAY - clock.ms)
    await server.timekeeping.watch()
    assert said(server) == "ok"
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (3, 2, 2)


async def test_a_server_that_was_off_for_a_month_asks_nothing(serve: Serve, clock: SetClock) -> None:
    await fill(await serve(), clock)
    await serve()
    clock.go(30 * DAY - 1000)
    assert said(await serve()) == "ok"
    clock.go(31 * DAY)
    assert "long after" in said(await serve())


async def test_rows_that_an_earlier_program_stamped_ahead_are_found(serve: Serve, clock: SetClock) -> None:
    server = await serve()
    await fill(server, clock)
    token = await signed_in(server)
    path = server.database.path
    await serve("")
    years = 40 * 365 * DAY
    server = await serve()
    folder = server.database.segment_folder
    for kind in segments.KINDS:
        for segment in catalogue(path, kind):
            with sqlite3.connect(segments.segment_path(folder, kind, segment["id"])) as connection:
                connection.execute("UPDATE submission SET received_at=received_at+?", (years,))
            connection.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE segment SET last_received_at=last_received_at+?", (years,))
        connection.execute("UPDATE ban SET received_at=received_at+?", (years,))
        connection.execute("UPDATE submission SET received_at=received_at+?", (years,))
        connection.execute("DELETE FROM setting WHERE name GLOB 'clock*'")
    connection.close()
    server = await serve()
    assert "was received until" in said(server)
    assert (await server.sessions.user(token)).name == "admin"
    await server.timekeeping.watch()
    await server.timekeeping.accept(COMMAND_LINE)
    await server.housekeeping.apply_retention()
    assert stored(server) == (2, 2, 2, 1)
    assert set(received(path)) == {clock.ms}
    assert said(await serve()) == "ok"


async def test_times_are_brought_back_once_more_after_a_crash(
    serve: Serve, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve()
    clock.turn(400 * DAY)
    await server.timekeeping.watch()
    await fill(server, clock)
    clock.turn(-400 * DAY)
    await server.timekeeping.watch()

    async def crash(*_: object) -> None:
        raise ZeroDivisionError

    # Replaced, but not entered into the catalogue.
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "enter", crash)
        with pytest.raises(ZeroDivisionError):
            await server.housekeeping.apply_retention()
    server = await serve()
    assert {segment["state"] for segment in catalogue(server.database.path, "snapshot")} == {"indexed", "hot"}
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (2, 2, 2)
    assert all(abs(at - clock.ms) < HOUR for at in received(server.database.path))
    assert not list(server.database.segment_folder.glob("*.rewritten*"))


# --- A server in a process of its own ---------------------------------------------------------------------------------


@pytest.fixture
def file_clock(tmp_path: Path) -> FileClock:
    return FileClock(tmp_path / "clock")


def clock_of(server: RunningServer) -> str:
    answer = server.request("GET", "/readyz")
    assert answer.status == 200
    return str(answer.json()["clock"])


def test_rules_sessions_and_rows_outlast_a_jump_until_the_time_is_accepted(
    start: Callable[..., RunningServer], file_clock: FileClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("", prelude=file_clock.prelude)
    server.post(ban(1))
    bearer = {"Authorization": f"Bearer {server.token()}"}
    server.run("rules", "deny", "198.51.100.7", "--expires", "30d")
    wait_for(lambda: b"198.51.100.7" in server.get("/ping/ruleIpDenylist").body, 5)
    file_clock.turn(400 * DAY)
    wait_for(lambda: "jumped" in clock_of(server), 5)
    assert b"198.51.100.7" in server.get("/ping/ruleIpDenylist").body
    assert server.request("GET", "/api/user/me", headers=bearer).status == 200
    assert len(server.rows("ban")) == 1

    def told() -> list[str]:
        return [line["level"] for line in server.logged() if "The clock jumped to" in line["message"]]

    assert wait_for(told, 5) == ["error"]
    # The command runs on the same machine, so it sees the same time.
    monkeypatch.setattr(sparkle_lite.clock, "now_ms", lambda: time.time_ns() // 1_000_000 + 400 * DAY)
    assert "taken as right" in server.run("doctor", "accept-clock")
    wait_for(lambda: clock_of(server) == "ok", 2)
    wait_for(lambda: not server.rows("ban"), 5)
    wait_for(lambda: b"198.51.100.7" not in server.get("/ping/ruleIpDenylist").body, 2)
    assert server.request("GET", "/api/user/me", headers=bearer).status == 403


def test_the_settings_page_tells_of_the_clock_and_has_a_button(
    start: Callable[..., RunningServer], file_clock: FileClock
) -> None:
    server = start("", prelude=file_clock.prelude)
    page = {"Cookie": f"X-BTN-Token={server.token()}", "Accept-Language": "zh"}
    assert "accept-clock" not in server.request("GET", "/admin/settings", headers=page).body.decode()
    file_clock.turn(-400 * DAY)
    wait_for(lambda: "jumped" in clock_of(server), 5)
    text = server.request("GET", "/admin/settings", headers=page).body.decode()
    assert "时钟跳到了" in text
    assert '/admin/settings/clock"' in text
    origin = {"Origin": server.url}
    assert server.request("POST", "/admin/settings/clock", b"", headers=page | origin).status == 303
    assert clock_of(server) == "ok"


def test_a_command_gives_links_that_a_server_takes_which_goes_by_a_later_time(
    start: Callable[..., RunningServer], file_clock: FileClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("", prelude=file_clock.prelude)
    wait_for(lambda: "clock" in settings_of(server), 5)
    file_clock.turn(-400 * DAY)
    monkeypatch.setattr(sparkle_lite.clock, "now_ms", lambda: time.time_ns() // 1_000_000 - 400 * DAY)
    bearer = {"Authorization": f"Bearer {server.token()}"}
    assert server.request("GET", "/api/user/me", headers=bearer).status == 200


async def test_the_next_start_takes_a_time_that_was_accepted_before_it(
    serve: Serve, clock: SetClock, tmp_path: Path
) -> None:
    server = await serve()
    await fill(server, clock)
    await serve()
    clock.turn(400 * DAY)
    command = ["doctor", "accept-clock", "--config", str(tmp_path / "config.toml")]
    assert await asyncio.to_thread(main, command) == 0
    server = await serve()
    assert said(server) == "ok"
    await server.housekeeping.roll()
    await server.housekeeping.apply_retention()
    assert stored(server)[:3] == (0, 0, 0)


def settings_of(server: RunningServer) -> set[str]:
    with opened(server.database) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM setting")}


def test_accepting_a_clock_needs_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("")
    assert main(["doctor", "accept-clock", "--config", str(tmp_path / "config.toml")]) == 1
    assert "sparkle.db" in capsys.readouterr().err


# --- The clock by itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "newest", "accepted", "wall", "is_believed", "settled"),
    [
        (None, None, None, 100, True, 100),
        (100, 90, None, 100, True, 100),
        (100, 99, None, 129, True, 129),
        (100, 90, None, 121, False, 121),  # Its rows are old, though it ran since: what ends may go by the clock.
        (100, 90, None, 140, False, 100),
        (100, 90, None, 60, False, 100),
        (None, 100, None, 60, False, 60),
        (None, 60, None, 100, False, 60),
        (100, 900, None, 101, False, 101),
        (100, 50, 95, 101, True, 101),
        (100, 50, 60, 101, False, 101),
        (100, 900, 95, 101, False, 101),
    ],
)
def test_what_a_start_believes(
    known: int | None, newest: int | None, accepted: int | None, wall: int, is_believed: bool, settled: int
) -> None:
    """All in days."""

    def ms(days: int | None) -> int | None:
        return None if days is None else days * DAY

    clock = Clock(lambda: wall * DAY, lambda: 7)
    clock.start(known=ms(known), newest=ms(newest), accepted=ms(accepted))
    assert (clock.doubt is None) == is_believed
    assert clock.settled() == settled * DAY
    assert clock.stamp() == max(clock.settled(), wall * DAY)


def test_waking_up_is_no_jump() -> None:
    # On Linux the elapsed time goes on while the machine sleeps.
    assert time.CLOCK_BOOTTIME == sparkle_lite.clock._ELAPSED
    assert abs(sparkle_lite.clock.elapsed_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000) < 1000
    assert asyncio.iscoroutinefunction(Server.health)
