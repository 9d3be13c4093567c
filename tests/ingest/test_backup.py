"""Everything in one file, taken beside a server that takes submissions, and put back: what it holds, and what it can't.

Everything here is in the way of an operator: commands, killed or not, beside real servers, on damaged files.
"""

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import App, RunningServer, put_back, start_server, wait_for
from test_durability import Load, check_catalogue, expected, stored

from sparkle_lite.cli.main import main
from sparkle_lite.db import archive
from sparkle_lite.db.restore import restore
from sparkle_lite.errors import SparkleError

sys.path.insert(0, str(Path(__file__).parents[1] / "ingest"))

SMALL = "import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 400"
UNLIMITED = "[limits]\nrequests_per_minute = 0\n"


def command(config: Path, *arguments: object, prelude: str = "") -> list[str]:
    script = f"import sys; {prelude or 'pass'}; from sparkle_lite.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", script, *map(str, arguments), "--config", str(config)]


def run(config: Path, *arguments: object, prelude: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *arguments, prelude=prelude), capture_output=True, text=True, timeout=30)


def told(config: Path, *arguments: str) -> str:
    """What a command prints that is run in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, [*arguments, "--config", str(config)]).result() == 0
    return out.getvalue()


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Made(NamedTuple):
    """A backup that was taken under load, and what the server was then."""

    path: Path
    folder: Path
    acknowledged: set[int]
    sent: set[int]
    app: App
    token: str
    versions: dict[str, str]


RULES = ("/ping/ruleIpDenylist", "/ping/rulePeerIdentity", "/ping/ruleIpAllowlist")


def versions(server: RunningServer, app: App) -> dict[str, str]:
    """The version of each document of rules, as an application is told."""
    found = {path: server.get(path, app) for path in RULES}
    return {path: answer.headers["x-btn-contentversion"] for path, answer in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Several backups are taken while bodies come as fast as they can and segments are rolled; this is the last."""
    folder = tmp_path_factory.mktemp("made")
    with start_server(folder / "server", UNLIMITED, prelude=SMALL) as server:
        server.run("rules", "deny", "1.2.3.4")
        wait_for(lambda: b"1.2.3.4" in server.get("/ping/ruleIpDenylist").body, 5)
        app, token, told = server.add_app(), server.token(), versions(server, server.app)
        load = Load(server, 1)
        wait_for(lambda: len(load.acknowledged) > 40, 20)
        for number in range(3):
            acknowledged = set(load.acknowledged)
            path = folder / f"{number}.tar"
            done = run(server.config, "backup", path)
            assert (done.returncode, done.stderr) == (0, ""), done
        load.end()
        server.kill()
        shutil.rmtree(server.folder / "data")
        yield Made(path, folder, acknowledged, set(load.sent), app, token, told)


def place(tmp_path: Path, text: str = UNLIMITED) -> Path:
    """The configuration of a server that isn't there yet."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    (folder / "config.toml").write_text(text)
    return folder / "config.toml"


def test_everything_is_there_after_the_folder_was_lost(made: Made, tmp_path: Path) -> None:
    for path in made.folder.glob("*.tar"):
        assert path.stat().st_mode & 0o777 == 0o600
    config = place(tmp_path)
    done = run(config, "restore", made.path)
    assert (done.returncode, done.stderr) == (0, ""), done
    with RunningServer(config.parent, SMALL, {**os.environ, "PYTHONUNBUFFERED": "1"}) as server:
        server.app = made.app
        server.start()
        assert server.request("GET", "/readyz").json()["set_aside"] == []
        found = stored(server.database)
        # What was acknowledged before it began is there once, and of what came meanwhile no part of a body twice.
        for kind, bodies in expected(made.acknowledged).items():
            assert {number: found[kind][number] for number in bodies} == bodies
        for kind, bodies in expected(made.sent).items():
            assert {number: rows for number, rows in found[kind].items() if rows != bodies[number]} == {}
        check_catalogue(server.database, finished=False)
        assert versions(server, made.app) == made.versions
        headers = {"Authorization": f"Bearer {made.token}"}
        assert server.request("GET", "/api/user/me", headers=headers).status == 200


def test_each_backup_under_load_is_whole(made: Made, tmp_path: Path) -> None:
    """None shows rows that its main database knows nothing of, or the other way round."""
    for number, path in enumerate(sorted(made.folder.glob("*.tar"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = place(folder)
        assert run(config, "restore", path).returncode == 0
        found = stored(config.parent / "data" / "sparkle.db")
        for kind, bodies in expected(made.sent).items():
            assert {number: rows for number, rows in found[kind].items() if rows != bodies[number]} == {}


def test_what_was_there_is_set_aside_and_a_running_server_is_left_alone(made: Made, tmp_path: Path) -> None:
    with start_server(tmp_path / "fresh", UNLIMITED) as server:
        refused = run(server.config, "restore", made.path)
        assert refused.returncode == 1 and "A server is running on" in refused.stderr
        server.run("user", "add", "somebody")
        server.stop()
        before = listing(server.folder / "data")
        assert run(server.config, "restore", made.path).returncode == 0
        [old] = server.database.parent.glob("sparkle.db.before-restore-*")
        after = listing(old)
        assert after == {name: data for name, data in before.items() if name in after}
        assert "sparkle.db" in after
        server.app = made.app
        server.start()
        assert server.get("/ping/config", made.app).status == 200
        server.stop()
        # It can be brought back in the same way.
        shutil.rmtree(server.segments)
        server.database.unlink()
        (old / "sparkle.db").rename(server.database)
        (old / "sparkle.db.segments").rename(server.segments)
        assert "somebody" in server.run("user", "list")


def test_what_is_there_already_is_not_overwritten_unless_told(made: Made, tmp_path: Path) -> None:
    config = place(tmp_path)
    assert run(config, "restore", made.path).returncode == 0
    target = tmp_path / "there.tar"
    target.write_text("mine")
    done = run(config, "backup", target)
    assert done.returncode == 1 and "there already" in done.stderr and target.read_text() == "mine"
    assert run(config, "backup", target, "--force").returncode == 0
    with closing(archive.open_backup(target)) as backup:
        archive.check(backup, lambda _: None)
    assert run(config, "backup", tmp_path / "nowhere" / "x.tar").stderr.count("There is no folder") == 1
    missing = tmp_path / "empty"
    missing.mkdir()
    assert run(place(missing), "backup", tmp_path / "y.tar").returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"fresh", "empty", "there.tar"}


SLOW = (
    "import sparkle_lite.db.archive as a, sparkle_lite.db.backup as b, time; a.PIECE = 4096; do = b.Meter.step;"
    " b.Meter.step = lambda meter, size: (time.sleep(0.02), do(meter, size))"
)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_backup_that_is_killed_leaves_nothing(made: Made, tmp_path: Path, how: signal.Signals) -> None:
    config = place(tmp_path)
    assert run(config, "restore", made.path).returncode == 0
    target = tmp_path / "out" / "x.tar"
    target.parent.mkdir()
    process = subprocess.Popen(command(config, "backup", target, prelude=SLOW), stderr=subprocess.DEVNULL)
    wait_for(lambda: list(target.parent.glob(".sparkle-backup-*/archive")), 10)
    process.send_signal(how)
    assert process.wait(10) != 0
    if how is signal.SIGKILL:
        # Nobody could clear away behind it; the next one does.
        assert not target.exists()
        assert run(config, "backup", target.with_name("y.tar")).returncode == 0
        target.with_name("y.tar").unlink()
    assert list(target.parent.iterdir()) == []


KILLED = (
    "import os, pathlib; do = pathlib.Path.rename; left = iter(range({renames})); os.fsync = lambda file: None;"
    " pathlib.Path.rename = lambda path, target: os._exit(9) if next(left, None) is None else do(path, target)"
)


def test_a_restore_that_is_killed_leaves_the_old_or_the_new(made: Made, tmp_path: Path) -> None:
    """Whatever was the last rename: the next start or the next command finds one of the two, whole."""
    config = place(tmp_path)
    with start_server(config.parent, UNLIMITED) as server:
        server.run("user", "add", "old-one")
        server.stop()
    old = tmp_path / "old"
    shutil.copytree(config.parent / "data", old)
    seen = set()
    for moment in range(12):
        shutil.rmtree(config.parent / "data")
        shutil.copytree(old, config.parent / "data")
        status = run(config, "restore", made.path, prelude=KILLED.format(renames=moment)).returncode
        users = told(config, "user", "list")
        is_old = "old-one" in users
        found = stored(config.parent / "data" / "sparkle.db")
        assert is_old == (not any(found.values())), moment
        assert "admin" in users
        left = {path.name.partition("-2")[0] for path in (config.parent / "data").iterdir()}
        assert "sparkle.db.restored" not in left
        seen.add((status, is_old))
        if status == 0:
            break
    assert seen == {(9, True), (9, False), (0, False)}


def test_an_older_archive_is_migrated_by_the_next_start(made: Made, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    with tarfile.open(made.path) as tar:
        tar.extractall(unpacked, filter="data")
    put_back(unpacked / "sparkle.db", 11)
    (unpacked / "manifest.json").unlink()
    config = place(tmp_path)
    shutil.copytree(unpacked, config.parent / "data")
    # A backup changes nothing, so it can be taken by the new version before the upgrade.
    assert run(config, "backup", tmp_path / "old.tar").returncode == 0
    with closing(archive.open_backup(tmp_path / "old.tar")) as backup:
        assert backup.manifest.schemas["main"] == 11
    assert run(config, "restore", tmp_path / "old.tar").returncode == 0
    assert "admin" in told(config, "user", "list")


# --- Damaged and hostile ones -----------------------------------------------------------------------------------------


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def edited(good: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """An archive with another manifest."""
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        members = [(each, tar.extractfile(each).read()) for each in tar]  # type: ignore[union-attr]
    manifest = json.loads(members[-1][1])
    change(manifest)
    return packed(*members[:-1], (tarfile.TarInfo("manifest.json"), json.dumps(manifest).encode()))


def hostile(good: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        members = [(each, tar.extractfile(each).read()) for each in tar]  # type: ignore[union-attr]
    manifest = members[-1]

    def file(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
        return tarfile.TarInfo(name), data

    def grow(each: dict[str, object]) -> None:
        each["files"][0]["bytes"] = 1 << 50  # type: ignore[index]

    def climb(each: dict[str, object]) -> None:
        each["files"][0]["name"] = "../sparkle.db"  # type: ignore[index]

    return {
        "empty": b"",
        "zeros": bytes(10240),
        "no archive": b"SQLite format 3\0" * 1000,
        "cut in the middle": good[: len(good) // 2],
        "cut before the manifest": good[: -(-len(good) // 512) * 512 - 6 * 512],
        "a path that climbs": packed(file("../../evil"), *members),
        "an absolute path": packed(file("/tmp/evil"), *members),
        "a symbolic link": packed((link("sparkle.db", tarfile.SYMTYPE, "/etc/passwd"), b""), *members),
        "a hard link": packed((link("sparkle.db", tarfile.LNKTYPE, "/etc/passwd"), b""), *members),
        "a device": packed((link("sparkle.db", tarfile.CHRTYPE, ""), b""), *members),
        "a file twice": packed(members[0], *members),
        "a file too many": packed(file("sparkle.db.segments/swarm-99999999.db"), *members),
        "a file too few": packed(*members[1:]),
        "a bomb": edited(good, grow),
        "a name in the manifest": edited(good, climb),
        "a newer format": edited(good, lambda each: each.update(format=2)),
        "a time that nobody can show": edited(good, lambda each: each.update(created_at=1 << 62)),
        "a newer schema": edited(good, lambda each: each.update(schemas={"main": 9999})),
        "no object": packed(*members[:-1], file("manifest.json", b"[" * 100_000)),
        "another kind of file": packed(file("sparkle.db", b"x" * 100), *members[1:-1], manifest),
        "compressed": gzip.compress(good),
    }


def test_a_damaged_or_hostile_archive_changes_nothing(made: Made, tmp_path: Path) -> None:
    good = made.path.read_bytes()
    database = tmp_path / "data" / "sparkle.db"
    bad = tmp_path / "bad.tar"
    for name, data in hostile(good).items():
        bad.write_bytes(data)
        with pytest.raises(SparkleError) as refused:
            restore(database, bad, 0, lambda _: None)
        assert "hanged" in refused.value.message and str(bad) in refused.value.message, name
        assert {path.name for path in tmp_path.iterdir()} == {"bad.tar"}, name
    config = place(tmp_path)
    done = run(config, "restore", bad)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_no_changed_byte_goes_unnoticed(made: Made, at: float, flip: int, cut: bool) -> None:
    good = made.path.read_bytes()
    # What follows the manifest fills up the last block.
    end = good.rindex(b"}") + 1
    place = int(at * end)
    bad = made.folder / "bad"
    bad.write_bytes(good[:place] if cut else good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :])
    try:
        with closing(archive.open_backup(bad)) as backup:
            archive.check(backup, lambda _: None)
            with closing(archive.open_backup(made.path)) as whole:
                # What isn't said of a file's content may differ: times, owners, the name of the machine.
                assert [f.sha256 for f in backup.manifest.files] == [f.sha256 for f in whole.manifest.files]
    except SparkleError as error:
        assert str(bad) in error.message


@pytest.mark.parametrize("at", [0, 4096], ids=["its head", "inside"])
def test_a_damaged_segment_is_named_and_costs_its_own_rows(made: Made, tmp_path: Path, at: int) -> None:
    config = place(tmp_path)
    assert run(config, "restore", made.path).returncode == 0
    database = config.parent / "data" / "sparkle.db"
    with closing(sqlite3.connect(database)) as main:
        [kind, number] = main.execute("SELECT kind, id FROM segment WHERE state<>'hot' ORDER BY id").fetchone()
    file = database.with_name("sparkle.db.segments") / f"{kind}-{number:08d}.db"
    data = bytearray(file.read_bytes())
    data[at : at + 4096] = random.Random(1).randbytes(4096)
    file.write_bytes(data)
    done = run(config, "backup", tmp_path / "x.tar")
    assert done.returncode == 0 and file.name in done.stderr
    assert run(config, "restore", tmp_path / "x.tar").returncode == 0
    file.unlink()
    done = run(config, "backup", tmp_path / "y.tar")
    assert done.returncode == 0 and f"{file.name} is not as it should be" in done.stderr
