"""Killed at random moments of a first start, a migration, or under load while segments are rolled and rules published.

`--kills N` kills so many times.
"""

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from server import App, RunningServer, catalogue, count, put_back, segment_file, start_server, wait_for
from test_durability import Load, body_of, check_catalogue, expected, stored

from sparkle_lite.db.connection import schema

SMALL = "import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 200"
UNLIMITED = "[limits]\nrequests_per_minute = 0\n"
# How long a start takes here at the most (s): a moment of it is a part of that.
LONGEST_START_S = 1.5


def check(server: RunningServer, acknowledged: set[int]) -> None:
    """All that was acknowledged is there once, and no file was set aside for nothing."""
    found = stored(server.database)
    for kind, bodies in expected(acknowledged).items():
        assert {number: found[kind][number] for number in bodies} == bodies
    assert server.request("GET", "/readyz").json()["set_aside"] == []
    check_catalogue(server.database, finished=False)


def killed_while_starting(folder: Path, text: str = UNLIMITED) -> None:
    """Start a server in a folder, and kill it at a random moment of that."""
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(text)
    command = [sys.executable, "-m", "sparkle_lite", "--config", str(folder / "config.toml"), "serve", "--port", "0"]
    with (folder / "stdout").open("ab") as out, (folder / "stderr").open("ab") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        time.sleep(random.uniform(0.2, LONGEST_START_S))
        process.kill()
        process.wait(5)


def test_a_first_start(tmp_path: Path, kills: int) -> None:
    for number in range(kills):
        folder = tmp_path / str(number)
        killed_while_starting(folder)
        with start_server(folder, UNLIMITED) as server:
            told = re.findall(r'(?:app-id|app-secret): "([^"]+)"', server.stdout)
            assert told
            for app_id, secret in zip(told[::2], told[1::2], strict=True):
                assert server.get("/ping/config", App(app_id, secret)).status == 200
            assert count(server.database, "user") == 1
            check(server, set())


def test_a_migration(tmp_path: Path, kills: int) -> None:
    with start_server(tmp_path / "server", UNLIMITED, prelude=SMALL) as server:
        load = Load(server, 1)
        wait_for(lambda: len(load.acknowledged) > 30, 20)
        server.stop()
        load.end()
        put_back(server.database, 11)
        shutil.copytree(server.folder, tmp_path / "before")
        for _ in range(kills):
            shutil.rmtree(server.folder / "data")
            shutil.copytree(tmp_path / "before" / "data", server.folder / "data")
            killed_while_starting(server.folder)
            server.start()
            check(server, load.acknowledged)
            server.kill()


def test_under_load_while_rules_are_published(start: Callable[..., RunningServer], kills: int) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    token, sent, acknowledged, denied = server.token(), set[int](), set[int](), set[str]()
    answers: list[int] = []

    def publish() -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        with suppress(Exception):
            for number in range(250):
                address = f"1.2.{len(denied) >> 8}.{number}"
                body = b'{"target": "%s"}' % address.encode()
                if server.request("POST", "/api/rules/deny", body, headers).status in (200, 201):
                    denied.add(f"{address}/32")
                    answers.append(number)

    for _ in range(kills):
        load, publishing = Load(server, len(sent) + 1), threading.Thread(target=publish)
        publishing.start()
        # On a busy machine it may take a while until both have begun.
        answers.clear()
        wait_for(lambda load=load: answers and load.acknowledged, 20)
        time.sleep(random.uniform(0.0, 0.5))
        server.kill()
        load.end()
        publishing.join(10)
        sent, acknowledged = sent | load.sent, acknowledged | load.acknowledged
        server.start()
        check(server, acknowledged)
    assert acknowledged and denied
    listed = server.get("/ping/ruleIpDenylist").body.decode()
    assert [network for network in denied if network.removesuffix("/32") not in listed] == []


def test_in_the_middle_of_a_migration_of_several_steps(tmp_path: Path) -> None:
    """The database is as it was before, and so is its copy."""
    killed = (
        "import os, sparkle_lite.db.connection as c; do = c.statements;"
        " c.statements = lambda script: os._exit(9) if 'segment_aside' in script else do(script)"
    )
    server = RunningServer(tmp_path / "server", killed, dict(os.environ))
    server.database.parent.mkdir(parents=True)
    server.config.write_text(UNLIMITED)
    with closing(sqlite3.connect(server.database)) as connection:
        connection.create_function("stable_number", -1, lambda *_: 0, deterministic=True)
        for number in range(1, 10):
            connection.executescript(schema(f"main_{number:04}.sql"))
        connection.executescript("PRAGMA user_version=9; PRAGMA journal_mode=WAL")
    for _ in range(2):
        with pytest.raises(AssertionError, match="ended with 9"), server:
            server.start()
        [copy] = server.database.parent.glob("sparkle.db.before-v*")
        for path in (server.database, copy):
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("PRAGMA user_version").fetchone() == (9,)
    with start_server(tmp_path / "server", UNLIMITED) as server:
        check(server, set())
        assert server.post(body_of(7)).status == 200
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (9,)


KILLED = {
    "before it has its name": "do = s._name; s._name = lambda new, path: os._exit(9) if '-00000003' in path.name else"
    " do(new, path)",
    "before it is named": "do = s.Stream.begin; s.Stream.begin = lambda stream, main, number, now:"
    " os._exit(9) if number == 3 else do(stream, main, number, now)",
}


@pytest.mark.parametrize("moment", KILLED)
def test_while_a_segment_is_made(tmp_path: Path, moment: str) -> None:
    with start_server(tmp_path / "server", UNLIMITED, prelude=f"import os; {SMALL}; {KILLED[moment]}") as server:
        load = Load(server, 1)
        server.process.wait(20)
        load.end()
        assert server.process.returncode == 9
    with start_server(tmp_path / "server", UNLIMITED, prelude=SMALL) as server:
        # What was made is empty: it is neither set aside nor left behind.
        check(server, load.acknowledged)
        files = {path.name.removesuffix("-wal").removesuffix("-shm") for path in server.segments.iterdir()}
        named = [each for kind in ("snapshot", "swarm") for each in catalogue(server.database, kind)]
        assert files == {segment_file(server.database, each).name for each in named}
