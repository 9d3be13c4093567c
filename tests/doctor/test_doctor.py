"""`doctor`: what is wrong is found and its mend told, nothing is changed, and what was set aside can be taken back."""

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from server import RunningServer, catalogue, rows, segment_file, start_server, wait_for

from sparkle_lite.cli.main import main
from sparkle_lite.doctor.bundle import Veil

Start = Callable[..., RunningServer]
SMALL = "import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 10"
TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
# What may stand in a finding of which nothing is to be done.
FINE = {"ok", "note"}


def command(server: RunningServer, *arguments: str) -> tuple[int, str, str]:
    """A command beside a server: its exit status and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), ThreadPoolExecutor(1) as pool:
        status = pool.submit(main, [*arguments, "--config", str(server.config)]).result()
    return status, out.getvalue(), err.getvalue()


def doctor(server: RunningServer, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """What each check found, with an exit status that goes with the worst of it."""
    status, out, _ = command(server, "doctor", "--json", *arguments)
    told = json.loads(out)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in told["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    levels = {finding["level"] for finding in told["findings"]}
    assert (status == 0) == (levels <= FINE) == (told["worst"] in FINE)
    return found


def levels(found: dict[str, list[dict[str, Any]]]) -> dict[str, set[str]]:
    return {check: {finding["level"] for finding in findings} for check, findings in found.items()}


def settle(server: RunningServer, more: str = "") -> None:
    """Write the port that the server was given into its configuration, where commands look for it."""
    server.config.write_text(f"[server]\nport = {server.port}\n{more}", "utf-8")


def body(number: int, count: int = 5) -> dict[str, Any]:
    peers = [{"ip_address": f"198.51.{number}.{n}", "torrent_identifier": TORRENT} for n in range(count)]
    return {"populate_time": int(time.time() * 1000) + number, "peers": peers}


def fill(server: RunningServer) -> Path:
    """Two closed segments and a hot one; the file of the first."""
    for number in range(5):
        assert server.post(body(number)).status == 200
    wait_for(lambda: [each["state"] for each in catalogue(server.database, "snapshot")][:2] == ["indexed"] * 2, 10)
    return segment_file(server.database, catalogue(server.database, "snapshot")[0])


def files(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder as it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


# --- Findings ---------------------------------------------------------------------------------------------------------


def test_backups_that_are_overdue_are_named(start: Start) -> None:
    server = start('[backup]\nevery = "1d"\n')
    folder = server.folder / "data" / "backups"
    # The server makes one by itself as soon as it can.
    wait_for(lambda: levels(doctor(server))["backups"] == {"ok"}, 30)
    for made in folder.iterdir():
        made.rename(folder / "2026-01-01-000000")
    [finding] = doctor(server)["backups"]
    assert (finding["level"], "2026-01-01" in str(finding)) == ("warn", True)


def test_what_is_in_order_is_found_so_and_what_is_wrong_with_files_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(prelude=SMALL)
    closed = fill(server)
    settle(server)
    found = levels(doctor(server))
    assert found == {check: {"ok"} for check in found} | {"public_url": {"note"}, "backups": {"note"}}
    server.stop()
    before = files(server.folder)
    found = levels(doctor(server, "--deep"))
    assert files(server.folder) == before
    assert found == {check: {"ok"} for check in found} | {"server": {"note"}, "backups": {"note"}}
    for language, word in (("C.UTF-8", "whole"), ("zh_CN.UTF-8", "完好")):
        monkeypatch.setenv("LC_ALL", language)
        assert word in command(server, "doctor")[1]
    # Now all that can go wrong with them.
    settle(server, '[retention]\nmax_database_size = "900000GiB"\n')
    server.database.chmod(0o644)
    server.segments.chmod(0o777)
    with closed.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(os.urandom(4096))
    hot = segment_file(server.database, catalogue(server.database, "snapshot")[-1])
    with contextlib.closing(sqlite3.connect(hot)) as connection:
        connection.execute("PRAGMA user_version=99")
    if os.geteuid() == 0:
        os.chown(hot, 4711, -1)
    told = doctor(server, "--deep")
    assert [finding["mend"] for finding in told["rights"]][:1] == [f"chmod 600 {server.database}"]
    assert f"chmod 700 {server.segments}" in {finding["mend"] for finding in told["rights"]}
    assert os.geteuid() or f"chown 0 {hot}" in " ".join(finding["mend"] for finding in told["rights"])
    assert "879 TiB" in told["room"][0]["message"] and told["room"][0]["level"] == "warn"
    assert str(hot) in told["versions"][0]["message"]
    assert str(closed) in told["integrity"][0]["message"] and told["integrity"][0]["level"] == "bad"


def test_without_a_database_and_with_a_wrong_configuration_the_rest_is_told(tmp_path: Path) -> None:
    server = RunningServer(tmp_path, "", {})
    server.config.write_text("[server]\nhost = 7\n")
    assert levels(doctor(server)) == {"configuration": {"bad"}}
    server.config.write_text('[server]\nport = 1\n[[rules]]\ntype = "ip"\ncategory = "x"\ncontent = ["nonsense"]\n')
    found = doctor(server)
    assert levels(found) == {"configuration": {"bad"}, "database": {"note"}, "server": {"note"}}
    assert "config.toml:6" in found["configuration"][0]["message"]
    assert list(tmp_path.iterdir()) == [server.config]


def test_a_restore_that_waits_is_left_alone_and_the_log_out_without_names(start: Start, tmp_path: Path) -> None:
    server = start()
    settle(server)
    server.stop()
    server.database.write_bytes(b"no database" * 1000)
    ready = server.database.with_name("sparkle.db.restore-ready")
    ready.mkdir()
    before = files(server.database.parent)
    log = tmp_path / "log"
    log.write_text("mallory was here\n")
    doctor(server, "--bundle", str(tmp_path / "bundle.tgz"), "--log", str(log))
    assert files(server.database.parent) == before
    with tarfile.open(tmp_path / "bundle.tgz") as archive:
        text = archive.extractfile("sparkle-lite/log.txt").read().decode()  # type: ignore[union-attr]
    assert "mallory" not in text and "Left out" in text


def test_clients_that_send_nothing_of_use_are_named(start: Start) -> None:
    server = start()
    settle(server)
    rejected, silent, gone = (server.add_app() for _ in range(3))
    private = {
        "populate_time": int(time.time() * 1000),
        "peers": [{"ip_address": "192.168.1.1", "torrent_identifier": TORRENT}],
    }
    assert server.post(private, rejected).rejected == 1
    assert server.post(body(1)).status == 200
    assert server.get("/ping/config", silent).status == 200
    server.stop()
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        connection.execute("UPDATE userapp SET created_at=0")
    told = [(finding["level"], finding["message"]) for finding in doctor(server)["clients"]]
    assert [level for level, _ in told] == ["warn", "warn", "note"]
    for (_, message), app in zip(told, (rejected, silent, gone), strict=True):
        assert app.app_id in message and server.app.app_id not in message


# --- The public URL ---------------------------------------------------------------------------------------------------


class _Proxy(BaseHTTPRequestHandler):
    """Passes GET on to a port, with more headers."""

    port = 0
    more: Sequence[tuple[str, str]] = ()

    def do_GET(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", self.path, headers=dict(self.more))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def proxy(port: int) -> Iterator[tuple[int, type[_Proxy]]]:
    """A proxy before a port; its own, and where its headers can be changed."""
    handler = type("Proxy", (_Proxy,), {"port": port})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield listening.server_port, handler
        finally:
            listening.shutdown()
            thread.join()


def test_the_public_url_is_tried_and_the_proxy_on_the_way_judged(start: Start, tmp_path: Path) -> None:
    server = start()
    with proxy(server.port) as (port, handler):
        told: dict[tuple[str, bool], str] = {}
        for trusted in ("[]", '["127.0.0.1"]'):
            more = f'public_url = "http://127.0.0.1:{port}"\ntrusted_proxies = {trusted}\n'
            server.reload(f"[server]\nport = {server.port}\n{more}")
            for says in (False, True):
                handler.more = [("X-Forwarded-For", "203.0.113.9")] if says else []
                [finding] = doctor(server)["public_url"]
                told[trusted, says] = f"{finding['level']} {finding['mend']}"
    assert [text.partition(" ")[0] for text in told.values()] == ["ok", "bad", "bad", "ok"]
    assert "server.trusted_proxies" in told["[]", True]
    assert "X-Forwarded-For" in told['["127.0.0.1"]', False]
    # Another server of the same kind answers there.
    with start_server(tmp_path / "other") as other:
        settle(server, f'public_url = "{other.url}"\n')
        [finding] = doctor(server)["public_url"]
    assert finding["level"] == "bad" and "Something else" in finding["message"]
    settle(server, f'public_url = "http://127.0.0.1:{port}"\n')
    # Nothing listens there any more.
    assert levels(doctor(server))["public_url"] == {"bad"}


def test_what_never_answers_is_not_waited_for(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparkle_lite.doctor import installation, network

    monkeypatch.setattr(network, "_LIMITS", network._LIMITS._replace(read_s=0.3))
    monkeypatch.setattr(installation, "_SERVER_S", 0.3)
    server = start()
    settle(server)
    other = RunningServer(tmp_path, "", {})
    other.config.write_text(server.config.read_text())
    assert levels(doctor(other))["server"] == {"warn"}
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        server.config.write_text(f'[server]\nport = {port}\npublic_url = "http://127.0.0.1:{port}"\n')
        started = time.monotonic()
        found = levels(doctor(server))
        assert time.monotonic() - started < 10
    assert (found["server"], found["public_url"], found["integrity"]) == ({"bad"}, {"bad"}, {"ok"})


# --- Taking back ------------------------------------------------------------------------------------------------------


def test_a_file_that_was_set_aside_is_taken_back_when_it_is_right(start: Start) -> None:
    server = start(prelude=SMALL)
    settle(server)
    closed = fill(server)
    whole, before = closed.read_bytes(), rows(server.database, "snapshot")
    server.stop()
    closed.write_bytes(b"x" * 5000)
    server.start()
    settle(server)
    [finding] = doctor(server)["set_aside"]
    assert finding["level"] == "warn" and finding["mend"].endswith(f"doctor adopt {closed.name}")
    status, _, err = command(server, "doctor", "adopt", closed.name)
    assert status == 1 and "damaged" in err
    away = server.database.with_name("sparkle.db.set-aside") / closed.name
    away.write_bytes(whole)
    (log := closed.with_name(closed.name + "-wal")).write_bytes(b"")
    status, _, err = command(server, "doctor", "adopt", closed.name)
    assert status == 1 and str(log) in err
    log.unlink()
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        # As one that was killed halfway leaves it.
        connection.execute("UPDATE segment_aside SET file=''")
    status, out, err = command(server, "doctor", "adopt", str(away))
    assert (status, err) == (0, "") and "is served: 10 rows" in out
    assert rows(server.database, "snapshot") == before
    assert levels(doctor(server))["set_aside"] == {"ok"}
    assert command(server, "doctor", "adopt", closed.name)[0] == 1


def test_a_segment_that_nothing_names_is_taken_back_where_it_belongs_and_nowhere_else(start: Start) -> None:
    server = start(prelude=SMALL)
    closed = fill(server)
    before = rows(server.database, "snapshot")
    server.stop()
    shutil.copy(closed, server.segments / "snapshot-00000099.db")
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        connection.execute("DELETE FROM segment WHERE id=(SELECT min(id) FROM segment WHERE kind='snapshot')")
    server.start()
    settle(server)
    assert {finding["level"] for finding in doctor(server)["set_aside"]} == {"warn"}
    server.stop()
    assert "newer main database" in command(server, "doctor", "adopt", "snapshot-00000099.db")[2]
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        # As if this main file were an older copy that has gone another way since.
        [(found,)] = connection.execute("SELECT found_at FROM client_identity").fetchall()
        connection.execute("UPDATE client_identity SET found_at=found_at+3600000")
    assert "main file back" in command(server, "doctor", "adopt", closed.name)[2]
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        connection.execute("UPDATE client_identity SET found_at=?", (found,))
    status, out, _ = command(server, "doctor", "adopt", closed.name)
    assert status == 0 and "is served" in out
    assert rows(server.database, "snapshot") == before
    server.start()
    assert server.request("GET", "/readyz").json()["set_aside"] == ["snapshot-00000099.db"]


# --- The archive ------------------------------------------------------------------------------------------------------

SECRETS = """
[auth]
jwt_secret = "a-jwt-secret-that-is-long-enough-to-be-one"
[auth.github]
client_id = "github-client"
client_secret = "github-secret-value"
[[imports]]
name = "paid"
url = "http://127.0.0.1:9/list.txt?key=list-key-value"
allow_private = true
[[imports]]
name = "neighbour"
format = "sparkle"
url = "http://127.0.0.1:9/feeds/decisions.json"
app_id = "0f0f0f0f-1111-4222-8333-444444444444"
app_secret = "neighbour-secret-value"
allow_private = true
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.77", "2001:db8:77:1234::5/128"]
"""
NAMES = ("mallory", "小明")


def test_the_archive_holds_no_secret_no_address_and_no_name(start: Start, tmp_path: Path) -> None:
    server = start(SECRETS)
    settle(server, SECRETS)
    private = {server.app.secret, *re.findall(r'(?:secret|key)\w* ?= ?"?([\w-]{8,})', SECRETS)}
    for name in NAMES:
        server.run("user", "add", name)
        app = server.add_app(name)
        server.post({"populate_time": 1, "peers": [{"ip_address": "10.0.0.1", "torrent_identifier": "x"}]}, app)
        private |= {app.secret, app.app_id, app.source, server.token(name), name}
    link = server.run("user", "login-link", NAMES[0]).strip()
    key = server.run("feed-key", "add", "router").strip()
    private |= {key, link.rpartition("=")[2], "60.220.182.77", "2001:db8:77:1234::5", "203.0.113.57"}
    server.request("GET", f"/feeds/cidr.txt?key={key}")
    for path in (f"/feeds/{key}", "/ip/203.0.113.57", link.partition("?")[0][len(server.url) :]):
        server.request("GET", path)
    # What is wrong with a client is written down once a second.
    wait_for(lambda: "warn" in levels(doctor(server))["clients"], 5)
    target = tmp_path / "bundle.tgz"
    doctor(server, "--bundle", str(target), "--log", str(server.folder / "stderr"))
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        parts = {Path(each.name).name: archive.extractfile(each).read().decode() for each in archive}  # type: ignore[union-attr]
    assert set(parts) == {
        "doctor.json",
        "system.json",
        "readyz.json",
        "config.toml",
        "metrics.txt",
        "files.json",
        "log.txt",
    }
    assert "/ip/203.0.113.0/24" in parts["log.txt"] and "2001:db8:77::/48" in parts["config.toml"]
    assert "were rejected" in parts["doctor.json"] and "user-" in parts["doctor.json"]
    assert "sparkle_job_runs_total" in parts["metrics.txt"] and '"userapp": 3' in parts["files.json"]
    text = "\n".join(parts.values())
    assert len(private) > 15 and [secret for secret in private if secret and secret in text] == []
    status, _, err = command(server, "doctor", "--bundle", str(target))
    assert status == 1 and str(target) in err


@pytest.mark.parametrize(
    ("text", "veiled"),
    [
        ("from 203.0.113.57:6881, [2001:db8:1:2::3]:80", "from 203.0.113.0/24:6881, [2001:db8:1::/48]:80"),
        ("::ffff:203.0.113.57 fe80::1%eth0", "203.0.113.0/24 fe80::/48"),
        ("60.220.182.0/24 10.0.0.0/8 10.1.2.3/32", "60.220.182.0/24 10.0.0.0/8 10.1.2.0/24"),
        ("203.0.113.77/24 203.0.113.77_6881 x.203.0.113.77.5", "203.0.113.0/24 203.0.113.0/24_6881 x.203.0.113.0/24.5"),
        ("1:2:3:4:5:6:7:: ip:2001:db8:1:2::3: no", "1:2:3::/48 ip:2001:db8:1::/48: no"),
        ("2002:cb00:714d::1 2001:0:4136:e378:8000:63bf:3fff:fdd2", "2002::/16 2001::/32"),
        (
            'web-1 | {"m": "a\\n203.0.113.77\\nann\\n2001:db8:1:2::3"}',
            'web-1 | {"m": "a\\n203.0.113.0/24\\nU\\n2001:db8:1::/48"}',
        ),
        ("http://u:p@a.example/b?key=S&x=y", "http://***@a.example/b?key=***&x=***"),
        ("127.0.0.1:7799 0.0.0.0 ::1 12:34:56 2026-11-28T08:46:16.123Z", None),
        ("ann and anne, 'ann'", "U and V, 'U'"),
        ("joanna annex", None),
        ("用户小明的应用", "用户W的应用"),
        ('{"user": "\\u5c0f\\u660e", "other": "a \\"b\\" c"}', '{"user": "W", "other": "X"}'),
    ],
)
def test_addresses_are_shortened_and_names_replaced(text: str, veiled: str | None) -> None:
    veil = Veil({"ann": "U", "anne": "V", "小明": "W", 'a "b" c': "X"})
    assert veil(text) == (text if veiled is None else veiled)


def test_many_names_and_a_long_log_take_a_moment() -> None:
    names = {f"user {number:x} 人": f"U{number}" for number in range(20_000)}
    lines = [f"a line of user {number:x} 人 from 198.51.100.{number % 256}" for number in range(0, 20_000, 100)]
    # Name by name this would outlast the patience of the tests.
    veiled = Veil(names)("\n".join(lines * 5))
    assert "人" not in veiled and "a line of U100 from 198.51.100.0/24" in veiled
