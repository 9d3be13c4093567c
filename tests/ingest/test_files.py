"""Whatever happens to a file of the database: it costs its own rows alone, is named, and is never deleted."""

import os
import pickle
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from server import Answer, App, RunningServer, catalogue, segment_file, start_server, wait_for

import sparkle_lite
from sparkle_lite.cli.main import main

Start = Callable[..., RunningServer]
SMALL = "import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 10"
UNLIMITED = "[limits]\nrequests_per_minute = 0\n"
TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
SEGMENTS = ("closed snapshot", "closed swarm", "hot snapshot", "hot swarm")


def body(number: int) -> dict[str, Any]:
    """Five snapshots, or five cumulative rows where the number is odd, of addresses that no other body has."""
    more = {"downloaded_offset": 1, "uploaded_offset": 2, "last_time_seen": 1} if number % 2 else {}
    peers = [
        {"ip_address": f"198.51.{number}.{n}", "torrent_identifier": TORRENT, "client_name": f"c{number}", **more}
        for n in range(5)
    ]
    return {"populate_time": number, "peers": peers}


def fill(server: RunningServer) -> None:
    """Two closed segments of each kind, indexed, and a hot one with five rows."""
    for number in range(10):
        assert server.post(body(number)).status == 200
    wait_for(lambda: states(server) == ["indexed", "indexed", "hot"] * 2, 10)


def states(server: RunningServer) -> list[str]:
    return [segment["state"] for kind in ("snapshot", "swarm") for segment in catalogue(server.database, kind)]


def chosen(server: RunningServer) -> dict[str, tuple[Path, set[int]]]:
    """A file of each kind, and the bodies that it holds."""
    found = {}
    for kind, first in (("snapshot", 0), ("swarm", 1)):
        oldest, _, hot = catalogue(server.database, kind)
        found[f"closed {kind}"] = segment_file(server.database, oldest), {first, first + 2}
        found[f"hot {kind}"] = segment_file(server.database, hot), {first + 8}
    return found


def harm(path: Path, fault: str) -> None:
    """Do to a file what the name of the fault says."""
    size = path.stat().st_size
    match fault:
        case "missing":
            path.unlink()
        case "empty":
            os.truncate(path, 0)
        case "truncated":
            os.truncate(path, size // 2)
        case "garbage":
            with path.open("r+b") as file:
                file.write(os.urandom(size))
        case "garbage inside":
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(os.urandom(size - 4096))


def query(server: RunningServer, token: str, kind: str) -> Answer:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return server.request("POST", f"/api/{kind}/query", b'{"pageSize": 100}', headers)


def shown(server: RunningServer, token: str) -> set[int]:
    """The bodies of which rows are shown to who asks."""
    found = set()
    for kind in ("snapshot", "swarm"):
        answer = query(server, token, kind)
        assert answer.status == 200, answer
        found |= {int(row["peerIp"].split(".")[2]) for row in answer.json()["data"]["results"]}
    return found


def readiness(server: RunningServer) -> dict[str, Any]:
    return dict(server.request("GET", "/readyz").json())


def log_of(server: RunningServer, level: str = "ERROR") -> str:
    return "\n".join(line["message"] for line in server.logged() if line["level"].upper() == level)


def away(server: RunningServer) -> dict[str, bytes]:
    folder = server.database.with_name("sparkle.db.set-aside")
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else {}


FAULTS = ("missing", "empty", "truncated", "garbage", "garbage inside")
ALL = set(range(10))


# --- Segments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a link to itself", "another database"])
@pytest.mark.parametrize("when", ["stopped", "running"])
def test_what_is_no_segment_in_the_place_of_one_costs_its_rows(
    start: Start, tmp_path: Path, when: str, what: str
) -> None:
    if when == "running" and what == "a pipe":
        pytest.skip("who reads at that moment waits for ever")
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    token, files = server.token(), chosen(server)
    if when == "stopped":
        server.stop()
    for path in (path for which, (path, _) in files.items() if which.startswith("closed")):
        path.unlink()
        match what:
            case "a folder":
                path.mkdir()
            case "a pipe":
                os.mkfifo(path)
            case "a link to itself":
                path.symlink_to(path.name)
            case "another database":
                with closing(sqlite3.connect(path)) as other:
                    other.execute("CREATE TABLE x (y)")
    if when == "stopped":
        server.start()
    # Whoever searches comes by it, and has it looked at.
    assert shown(server, token) == {4, 5, 6, 7, 8, 9}
    assert set(readiness(server)["set_aside"]) == {"snapshot-00000001.db", "swarm-00000002.db"}
    assert server.post(body(20)).status == 200
    server.restart()
    assert shown(server, server.token()) == {4, 5, 6, 7, 8, 9, 20}


def test_a_link_that_leads_nowhere_and_that_nothing_names_is_put_away(start: Start) -> None:
    server = start(UNLIMITED)
    link = server.segments / "snapshot-00000099.db"
    link.symlink_to("nowhere")
    place = server.database.with_name("sparkle.db.set-aside") / link.name
    wait_for(place.is_symlink, 10)
    assert not link.is_symlink()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_segment_that_is_harmed_while_the_server_is_stopped_costs_its_own_rows(start: Start, fault: str) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.stop()
    files = chosen(server)
    for path, _ in files.values():
        harm(path, fault)
    harmed = {path.name: path.read_bytes() for path, _ in files.values() if path.exists()}
    server.start()
    token = server.token()
    # What a first look doesn't see is found by who reads it.
    assert shown(server, token) == ALL - set().union(*(bodies for _, bodies in files.values()))
    names = {path.name for path, _ in files.values()}
    wait_for(lambda: set(readiness(server)["set_aside"]) == names, 5)
    assert readiness(server)["ready"] is True
    settings = server.request("GET", "/admin/settings", headers={"Authorization": f"Bearer {token}"}).body.decode()
    assert [name for name in names if name not in settings or name not in log_of(server)] == []
    assert {name: data for name, data in away(server).items() if name in harmed} == harmed
    for number in (20, 21):
        assert server.post(body(number)).status == 200
    server.restart()
    assert shown(server, server.token()) >= {20, 21}
    assert set(readiness(server)["set_aside"]) == names


@pytest.mark.parametrize("fault", FAULTS)
def test_a_segment_that_is_harmed_while_the_server_runs_costs_its_own_rows(start: Start, fault: str) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    token, files = server.token(), chosen(server)
    assert shown(server, token) == ALL
    for path, _ in files.values():
        harm(path, fault)
    for number in (20, 21):
        assert server.post(body(number)).status == 200
    # What a hot file held that was taken away is saved from the connection that has it.
    harmed = {which: each for which, each in files.items() if fault != "missing" or not which.startswith("hot")}
    names, lost = {path.name for path, _ in harmed.values()}, set().union(*(bodies for _, bodies in harmed.values()))
    # What stands in a hot file's log as well is found only when all files are read, 10 s after the start.
    wait_for(lambda: shown(server, token) and set(readiness(server)["set_aside"]) == names, 30)
    kept = shown(server, token)
    # What came in before somebody saw the damage may be in the damaged file.
    assert ALL - lost <= kept <= ALL - lost | {20, 21}
    if fault in ("missing", "empty", "truncated"):
        assert {20, 21} <= kept
    assert [name for name in names if name not in log_of(server)] == []
    for number in (22, 23):
        assert server.post(body(number)).status == 200
    assert readiness(server)["ready"] is True
    server.restart()
    assert shown(server, server.token()) == kept | {22, 23}


def test_a_segment_that_comes_back_is_served_again(start: Start, tmp_path: Path) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.stop()
    files = {path: path.rename(tmp_path / path.name) for path, _ in chosen(server).values()}
    server.start()
    token = server.token()
    assert shown(server, token) == {4, 5, 6, 7}
    assert server.post(body(20)).status == 200
    for place, path in files.items():
        path.rename(place)
    wait_for(lambda: readiness(server)["set_aside"] == [], 10)
    assert shown(server, token) == ALL | {20}
    ids = [row["id"] for row in query(server, token, "snapshot").json()["data"]["results"]]
    assert len(ids) == len(set(ids)) == 30
    server.restart()
    assert shown(server, server.token()) == ALL | {20}


def test_a_file_that_nothing_names_is_set_aside_and_never_deleted(start: Start) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.stop()
    whole = chosen(server)["closed swarm"][0].read_bytes()
    strange = {"snapshot-00000099.db": b"x" * 100, "snapshot-00000099.db-wal": b"y", "swarm-00000098.db": whole}
    strange |= {"snapshot-00000001.db.rescue": whole, "swarm-00000097.db": b""}
    for name, data in strange.items():
        (server.segments / name).write_bytes(data)
    server.start()
    assert away(server) == strange
    assert set(readiness(server)["set_aside"]) == set(strange) - {"snapshot-00000099.db-wal"}
    (server.segments / "swarm-00000098.db").write_bytes(b"z")
    wait_for(lambda: away(server).get("swarm-00000098.db.2") == b"z", 10)
    assert shown(server, server.token()) == ALL
    # Whoever has looked at them takes them away.
    shutil.rmtree(server.database.with_name("sparkle.db.set-aside"))
    wait_for(lambda: readiness(server)["set_aside"] == [], 10)


def test_a_file_that_nothing_names_and_that_cannot_be_moved_is_told_once(start: Start) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    blocked = server.database.with_name("sparkle.db.set-aside")
    blocked.write_bytes(b"")
    (server.segments / "snapshot-00000099.db").write_bytes(b"x")
    wait_for(lambda: readiness(server)["set_aside"] == ["snapshot-00000099.db"], 10)
    looks = server.metric("sparkle_job_runs_total", job="files", outcome="ok")
    wait_for(lambda: server.metric("sparkle_job_runs_total", job="files", outcome="ok") > looks + 1, 10)
    assert log_of(server).count("snapshot-00000099.db is not named") == 1
    blocked.unlink()
    wait_for(lambda: away(server) == {"snapshot-00000099.db": b"x"}, 10)
    assert readiness(server)["set_aside"] == ["snapshot-00000099.db"]


def test_a_segment_of_another_database_is_not_taken_for_ours(start: Start, tmp_path: Path) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.stop()
    with start_server(tmp_path / "other", UNLIMITED, prelude=SMALL) as other:
        fill(other)
        other.stop()
        foreign = {which: path.read_bytes() for which, (path, _) in chosen(other).items()}
    files = chosen(server)
    for which, data in foreign.items():
        files[which][0].write_bytes(data)
    server.start()
    assert shown(server, server.token()) == {4, 5, 6, 7}
    assert set(readiness(server)["set_aside"]) == {path.name for path, _ in files.values()}


# --- The main file ----------------------------------------------------------------------------------------------------


def refused_start(server: RunningServer) -> str:
    ended = subprocess.run(server.command(), capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if line.startswith("sparkle-lite:")]) == 1
    return ended.stderr


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "garbage"])
def test_without_its_main_file_a_server_does_not_begin_anew(start: Start, tmp_path: Path, fault: str) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.stop()
    before = {path.name: path.read_bytes() for path in server.segments.iterdir()}
    shutil.copy(server.database, tmp_path / "kept.db")
    harm(server.database, fault)
    said = refused_start(server)
    assert str(server.database) in said
    assert "backup" in said
    for command in ("user add x", "user list", "app list", "rules list"):
        with_command = subprocess.run(
            [sys.executable, "-m", "sparkle_lite", *command.split(), "--config", str(server.config)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert with_command.returncode == 1
        assert "Traceback" not in with_command.stderr
        assert "backup" in with_command.stderr
    assert {path.name: path.read_bytes() for path in server.segments.iterdir()} == before
    shutil.copy(tmp_path / "kept.db", server.database)
    server.start()
    assert shown(server, server.token()) == ALL
    assert readiness(server)["set_aside"] == []


def test_a_log_that_was_left_behind_is_not_deleted_with_a_new_main_file(start: Start, tmp_path: Path) -> None:
    server = start(UNLIMITED)
    server.run("user", "add", "bob")
    server.kill()
    shutil.rmtree(server.segments)
    log = server.database.with_name("sparkle.db-wal")
    before = log.read_bytes()
    assert before
    server.database.rename(tmp_path / "main")
    assert "sparkle.db-wal" in refused_start(server)
    assert log.read_bytes() == before
    (tmp_path / "main").rename(server.database)
    server.start()
    assert "bob" in server.run("user", "list")


def test_a_main_file_that_is_taken_away_while_the_server_runs_is_saved(start: Start, tmp_path: Path) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.run("user", "add", "bob")
    server.database.unlink()
    wait_for(server.database.exists, 10)
    wait_for(lambda: server.request("GET", "/readyz").status == 200, 10)
    wait_for(lambda: server.post(body(20)).status == 200, 5)
    assert shown(server, server.token()) == ALL | {20}
    assert str(server.database) in log_of(server)
    server.restart()
    assert "bob" in server.run("user", "list")
    assert shown(server, server.token()) == ALL | {20}


def test_a_main_file_that_is_replaced_while_the_server_runs_loses_neither(start: Start, tmp_path: Path) -> None:
    server = start(UNLIMITED)
    server.stop()
    shutil.copy(server.database, tmp_path / "older.db")
    server.start()
    server.run("user", "add", "bob")
    (tmp_path / "older.db").replace(server.database)
    saved = server.database.with_name("sparkle.db.replaced-1")
    wait_for(saved.exists, 10)
    wait_for(lambda: server.request("GET", "/readyz").status == 200, 10)
    with closing(sqlite3.connect(saved)) as connection:
        assert connection.execute("SELECT count(*) FROM user WHERE name='bob'").fetchone() == (1,)


@pytest.mark.parametrize("taken", ["-wal", "-shm", "-wal -shm"])
@pytest.mark.parametrize("whose", ["main", "hot snapshot"])
def test_a_log_that_is_taken_away_while_the_server_runs_loses_nothing(start: Start, whose: str, taken: str) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    fill(server)
    server.run("user", "add", "bob")
    path = server.database if whose == "main" else chosen(server)[whose][0]
    for suffix in taken.split():
        path.with_name(path.name + suffix).unlink()
    wait_for(lambda: path.name in log_of(server) and "saved as" in log_of(server), 10)
    wait_for(lambda: readiness(server)["ready"], 10)
    server.run("user", "add", "carl")
    wait_for(lambda: server.post(body(20)).status == 200, 5)
    assert shown(server, server.token()) == ALL | {20}
    server.kill()
    server.start()
    assert shown(server, server.token()) == ALL | {20}
    assert "bob" in (users := server.run("user", "list")) and "carl" in users


def test_a_main_file_that_is_emptied_while_the_server_runs_is_told(start: Start) -> None:
    server = start(UNLIMITED)
    assert server.post(body(1)).status == 200
    os.truncate(server.database, 0)
    wait_for(lambda: server.request("GET", "/readyz").status == 503, 10)
    assert readiness(server)["writer"] is False
    assert server.post(body(2)).status == 503
    wait_for(lambda: str(server.database) in log_of(server), 5)
    assert server.get("/ping/rules/retrieve").status == 200


def test_an_older_copy_of_the_main_file_loses_nothing_of_the_newer(start: Start, tmp_path: Path) -> None:
    server = start(UNLIMITED, prelude=SMALL)
    for number in range(4):
        server.post(body(number))
    server.stop()
    shutil.copy(server.database, tmp_path / "older.db")
    server.start()
    for number in range(4, 10):
        server.post(body(number))
    wait_for(lambda: states(server) == ["indexed", "indexed", "hot"] * 2, 10)
    server.stop()
    server.database.rename(tmp_path / "newer.db")
    shutil.copy(tmp_path / "older.db", server.database)
    server.start()
    # The names that newer rows refer to are not in this copy.
    assert shown(server, server.token()) == set(range(4))
    assert readiness(server)["set_aside"]
    assert server.post(body(30)).status == 200
    server.stop()
    (tmp_path / "newer.db").replace(server.database)
    server.start()
    assert shown(server, server.token()) == ALL


def test_a_young_main_database_is_in_its_own_file(start: Start) -> None:
    server = start(UNLIMITED)
    server.kill()
    for suffix in ("-wal", "-shm"):
        server.database.with_name(f"sparkle.db{suffix}").unlink()
    server.start()
    assert server.post(body(1)).status == 200
    assert server.stdout.count("app-secret") == 1


# --- The first start --------------------------------------------------------------------------------------------------


def test_a_first_start_that_was_killed_before_it_told_is_told_by_the_next(tmp_path: Path) -> None:
    killed = "import os, sparkle_lite.app as app; app._welcome = lambda *_: os._exit(9)"
    with (
        pytest.raises(AssertionError, match="ended with 9"),
        start_server(tmp_path / "server", prelude=killed),
    ):
        pass
    with start_server(tmp_path / "server") as server:
        assert server.stdout.count("app-secret") == 1
        assert server.post(body(1)).status == 200
        server.restart()
        assert server.stdout.count("app-secret") == 1


def test_a_first_start_that_was_killed_while_it_told_keeps_what_it_told(tmp_path: Path) -> None:
    killed = "import os, sparkle_lite.accounts.parts as p; p.Accounts.note_told = lambda *_: os._exit(9)"
    server = RunningServer(tmp_path / "server", killed, dict(os.environ))
    with suppress(AssertionError), start_server(tmp_path / "server", prelude=killed):
        pass
    told = re.findall(r'(?:app-id|app-secret): "([^"]+)"', server.stdout)
    with start_server(tmp_path / "server") as server:
        again = re.findall(r'(?:app-id|app-secret): "([^"]+)"', server.stdout)
        assert again[:2] == told
        assert server.stdout.count("app-secret") == 2
        for app in (App(*told), App(*again[2:])):
            assert server.post(body(1), app).status == 200


def test_a_first_start_that_can_not_print_serves_and_is_told_by_the_next(tmp_path: Path) -> None:
    with start_server(tmp_path / "server") as server:
        server.stop()
        shutil.rmtree(server.database.parent)
        (tmp_path / "server" / "stdout").unlink()
        (tmp_path / "server" / "stdout").symlink_to("/dev/full")
        server.start()
        assert server.request("GET", "/readyz").status == 200
        assert "the next start tells it" in log_of(server)
        assert server.stop() == 0
        (tmp_path / "server" / "stdout").unlink()
        server.start()
        wait_for(lambda: server.stdout.count("app-secret") == 1, 5)


# --- Rights -----------------------------------------------------------------------------------------------------------

NOBODY = 65534
# Before it gives up its rights it imports everything: the interpreter may lie where others can't read.
AS_NOBODY = (
    f"import codecs, importlib, os, pkgutil, sparkle_lite, uvicorn.lifespan.on, uvicorn.loops.auto; {SMALL};"
    " [codecs.lookup(name) for name in ('utf-8-sig', 'idna', 'latin-1', 'ascii', 'unicode_escape', 'cp437')];"
    " [importlib.import_module(each.name) for each in pkgutil.walk_packages(sparkle_lite.__path__, 'sparkle_lite.')"
    f" if '__main__' not in each.name]; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
)


@pytest.fixture
def modest() -> Iterator[RunningServer]:
    """A filled server of a user without rights, where only root can have one started."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a server as somebody else")
    if not all(each.stat().st_mode & stat.S_IXOTH for each in Path(sparkle_lite.__file__).parents):
        pytest.skip("others may not read the program here")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.chown(folder, NOBODY, NOBODY)
        with start_server(folder, UNLIMITED, prelude=AS_NOBODY) as server:
            fill(server)
            yield server


def test_a_segment_that_may_not_be_read_is_passed_over_until_it_may(modest: RunningServer) -> None:
    token, files = modest.token(), chosen(modest)
    modest.stop()
    closed = files["closed snapshot"][0]
    os.chown(closed, 0, 0)
    modest.start()
    assert shown(modest, token) == ALL - files["closed snapshot"][1]
    assert readiness(modest)["set_aside"] == [closed.name]
    assert readiness(modest)["ready"] is True
    assert f"{closed} may not be used by this program" in log_of(modest)
    assert "it belongs to root (uid 0)" in log_of(modest)
    # It stays where it is, and is served again as soon as it may be read.
    os.chown(closed, NOBODY, NOBODY)
    wait_for(lambda: readiness(modest)["set_aside"] == [], 10)
    assert shown(modest, token) == ALL


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_database_of_somebody_else_is_one_sentence_with_its_owner(modest: RunningServer, what: str) -> None:
    modest.stop()
    harmed = modest.database.parent if what == "folder" else modest.database
    os.chown(harmed, 1234, 1234)
    said = refused_start(modest)
    assert str(harmed) in said
    assert "it belongs to uid 1234" in said
    assert "chown" in said
    for arguments in ("app list", "app add --user admin", "user list", "user add x", "rules list"):
        command = [*modest.command()[:3], "--config", str(modest.config), *arguments.split()]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode == 1
        # One line and no traceback.
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert str(harmed) in ended.stderr
        assert "uid 1234" in ended.stderr


# --- Ends without a word too many -------------------------------------------------------------------------------------

CHILD = "import time; from sparkle_lite.worker_process import serve; serve(lambda order: time.sleep(order))"


@pytest.mark.parametrize("how", ["while it works", "in the middle of an order"])
def test_the_child_of_a_server_that_was_killed_ends_without_a_word(how: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin and child.stdout and child.stderr
    order = pickle.dumps(0.5)
    child.stdin.write(order if how == "while it works" else order[:-2])
    child.stdin.close()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.wait(10)


def test_a_fault_of_the_program_is_one_line_on_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch("sparkle_lite.config.load", side_effect=RuntimeError("no such\nluck")):
        assert main(["user", "list"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "RuntimeError: no such luck" in said
