"""A real server in a process of its own, requests to it, and what it stored, read back from its files.

Whatever reads stored rows goes through `rows`, so that the layout of the files is known to this module alone.
"""

import contextlib
import gzip
import http.client
import io
import ipaddress
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, cast, get_args

from sparkle_lite import config
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.app import create_app
from sparkle_lite.cli.main import main
from sparkle_lite.server import Server, running
from sparkle_lite.simulation.programs import chunked as chunked

Kind = Literal["snapshot", "swarm", "ban"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Headers = dict[str, str]

PBH20 = (
    "PeerBanHelper/9.5.0 (docker; Linux,6.8.0-45-generic,bookworm unknown) BTN-Protocol/2.0.1 BTN-Protocol-Version/20"
)
_ADDRESSES = itertools.count(2)


class App(NamedTuple):
    """Credentials, and the loopback address that this client's requests come from."""

    app_id: str
    secret: str
    source: str = ""

    @property
    def headers(self) -> Headers:
        """The plainest of the forms in which clients name themselves."""
        return {"X-BTN-AppID": self.app_id, "X-BTN-AppSecret": self.secret}


class Answer(NamedTuple):
    """One response; header names are in lower case."""

    status: int
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def refusal(self, status: int) -> str:
        """The sentence of a refusal by the protocol, which is there in both languages."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        envelope = self.json()
        assert list(envelope) == ["success", "message", "data"]
        assert (envelope["success"], envelope["data"]) == (False, None)
        message: str = envelope["message"]
        assert re.search(r"[a-z]{3}", message)
        assert re.search(r"[\u4e00-\u9fff]{2}", message)
        assert "<" not in message
        return message

    @property
    def rejected(self) -> int:
        """How many rows the server says it dropped."""
        return int(self.headers["x-sparkle-rejected"])


class RunningServer:
    """A `serve` process on a free port; `folder` holds its config.toml, data, and what it printed."""

    def __init__(self, folder: Path, prelude: str, environ: dict[str, str]) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.database = folder / "data" / "sparkle.db"
        self.segments = folder / "data" / "sparkle.db.segments"
        self.process: subprocess.Popen[bytes]
        self.port = 0
        self.app = App("", "")
        self._prelude = prelude
        self._environ = environ

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stdout(self) -> str:
        """What all its runs printed."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What all its runs logged."""
        return (self.folder / "stderr").read_text()

    def logged(self) -> list[dict[str, Any]]:
        """The log's lines; the log is written up to 0.1 s after what it tells of."""
        time.sleep(0.15)
        return [json.loads(line) for line in self.stderr.splitlines()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start the process and wait until it listens."""
        seen = len(self.stderr) if (self.folder / "stderr").exists() else 0
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            self.process = subprocess.Popen(self.command(), stdout=out, stderr=err, env=self._environ)
        started = _wait_for(lambda: self._listening(seen), 20)
        self.port = int(started["url"].rpartition(":")[2])
        if not self.app.app_id:
            _wait_for(lambda: self._has_told(seen), 20)
            found = dict(re.findall(r'(app-id|app-secret): "([^"]+)"', self.stdout))
            self.app = App(found["app-id"], found["app-secret"])

    def command(self) -> list[str]:
        """The command line of this server, for a second one beside it."""
        arguments = ["--config", str(self.config), "serve", "--host", "127.0.0.1", "--port", "0"]
        if not self._prelude:
            return [sys.executable, "-m", "sparkle_lite", *arguments]
        script = f"import sys; {self._prelude}; from sparkle_lite.cli.main import main; sys.exit(main(sys.argv[1:]))"
        return [sys.executable, "-c", script, *arguments]

    def _listening(self, seen: int) -> dict[str, Any] | None:
        for line in self.stderr[seen:].splitlines():
            if '"listening"' in line and line.endswith("}"):
                return dict(json.loads(line))
        self._require_running(seen)
        return None

    def _has_told(self, seen: int) -> bool:
        """Whether a first start has said how to get in; it listens a moment before."""
        if "app-secret" in self.stdout:
            return True
        self._require_running(seen)
        return False

    def _require_running(self, seen: int) -> None:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.stderr[seen:]}")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait(5)

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same files."""
        if self.process.poll() is None:
            self.stop()
        self.start()

    def reload(self, config_text: str) -> list[str]:
        """Write another configuration, send SIGHUP and wait; the messages logged meanwhile."""
        self.config.write_text(config_text, "utf-8")
        before = len(self.logged())
        self.process.send_signal(signal.SIGHUP)

        def done() -> list[str]:
            lines = [line["message"] for line in self.logged()[before:]]
            return lines if any("reloaded" in line for line in lines) else []

        return list(_wait_for(done, 5))

    def run(self, *arguments: str) -> str:
        """What a command of the command line prints when it is run beside this server."""
        out = io.StringIO()
        # A test, or the browser that it drives, may have an event loop on this thread.
        with contextlib.redirect_stdout(out), ThreadPoolExecutor(1) as pool:
            assert pool.submit(main, [*arguments, "--config", str(self.config)]).result() == 0
        return out.getvalue()

    def token(self, user: str = "admin") -> str:
        """The token of a new session of a user."""
        return self.run("user", "token", user).strip()

    def add_app(self, user: str = "admin") -> App:
        """A new application of a user, with a source address of its own where the system has so many."""
        made = json.loads(self.run("app", "add", "--user", user, "--json"))
        number = next(_ADDRESSES)
        source = f"127.1.{number >> 8}.{number & 255}" if sys.platform == "linux" else ""
        return App(made["app_id"], made["app_secret"], source)

    # --- Requests -----------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Headers | None = None, app: App | None = None
    ) -> Answer:
        """One request on a connection of its own with just these headers; `app` is where it comes from."""
        source = (app.source, 0) if app and app.source else None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=source)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, app: App | None = None, agent: str = PBH20, **headers: str) -> Answer:
        """A GET with credentials (the first application's unless given); underscores in header names are hyphens."""
        app = app or self.app
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("GET", path, headers={**app.headers, "User-Agent": agent, **more}, app=app)

    def post(
        self,
        body: bytes | dict[str, Any],
        app: App | None = None,
        path: str = "/ping/peers/submit",
        agent: str = PBH20,
        **headers: str,
    ) -> Answer:
        """Submit a body: a dict as gzip, bytes as they are."""
        app = app or self.app
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body = gzip.compress(json.dumps(body).encode(), 1)
            more.setdefault("Content-Encoding", "gzip")
        return self.request("POST", path, body, {**app.headers, "User-Agent": agent, **more}, app)

    @contextlib.contextmanager
    def connect(self, app: App | None = None) -> Iterator[socket.socket]:
        """A raw connection."""
        source = (app.source, 0) if app and app.source else None
        with socket.create_connection(("127.0.0.1", self.port), 15, source_address=source) as sock:
            yield sock

    def send(self, data: bytes, app: App | None = None) -> Answer:
        """One raw request on a connection of its own, byte for byte."""
        with self.connect(app) as sock:
            sock.sendall(data)
            return read_answer(sock)

    def resident(self, what: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int:
        """Bytes of memory that the process has now, or had at the most."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def metric(self, name: str, **labels: str) -> float:
        """The value of one line of /metrics, 0.0 if there is none."""
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{text}}} " if labels else f"{name} "
        lines = self.request("GET", "/metrics").body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted)), 0.0)

    def rows(self, kind: Kind, app: App | None = None) -> list[dict[str, Any]]:
        """The stored rows of an application (the first one unless given), in order of receipt."""
        return rows(self.database, kind, (app or self.app).app_id)


def served_paths() -> list[str]:
    """Every path that the application knows, with its parameters in braces."""
    # The routes are the same whatever server they are for.
    return [route.path for route in create_app(cast(Server, None)).routes]


@contextlib.asynccontextmanager
async def embedded(folder: Path, config_text: str = "", *, jobs: bool = True) -> AsyncIterator[Server]:
    """A server without its HTTP in this process, with its files in `folder`; `jobs`: whether it runs any by itself."""
    (folder / "config.toml").write_text(config_text, "utf-8")
    async with running(config.load(SCHEMA, folder / "config.toml", {})) as server:
        if not jobs:
            await server.jobs.stop()
        yield server


def start_server(
    folder: Path, config_text: str = "", *, env: dict[str, str] | None = None, prelude: str = ""
) -> RunningServer:
    """Start a server with its files in `folder`; use it as a context manager, so that it never outlives the test.

    `prelude` is Python that runs in the process first, to make a constant of the program small enough to be reached.
    """
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(config_text, "utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SPARKLE_")}
    # Compiled modules may be kept: compiling anew would be half of each start.
    environ |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
    server = RunningServer(folder, prelude, environ | (env or {}))
    try:
        server.start()
    except BaseException:
        server.kill()
        raise
    return server


def _wait_for(find: Any, seconds: float) -> Any:
    """The first true result of a function."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = find()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("timed out")


wait_for = _wait_for


def read_answer(sock: socket.socket, method: str = "POST") -> Answer:
    """One whole response from a raw connection; interim ones are passed over."""
    response = http.client.HTTPResponse(sock, method=method)
    with contextlib.closing(response):
        response.begin()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


# --- What is stored ---------------------------------------------------------------------------------------------------

_PEER = """{row}.peer_ip, {row}.peer_port, c.peer_id, c.client_name AS peer_client_name,
    t.identifier AS torrent_identifier, t.size AS torrent_size, t.private AS torrent_is_private, t.big_endian,
    from_peer_traffic, from_peer_traffic_speed, to_peer_traffic, to_peer_traffic_speed, peer_progress,
    downloader_progress, f.text AS peer_flag"""
_JOINS = """JOIN torrent t ON t.id = {row}.torrent JOIN client_identity c ON c.id = {row}.client
    LEFT JOIN label f ON f.id = {row}.flags"""
_SUBMISSION = "s.received_at, s.address, s.populate_time"
_OBSERVED = {
    "snapshot": f"SELECT r.id, {_SUBMISSION}, {_PEER} FROM seg.snapshot r JOIN seg.submission s ON s.id = r.submission"
    f" JOIN userapp a ON a.id = s.userapp {_JOINS} WHERE a.app_id = coalesce(?, a.app_id) ORDER BY r.id",
    "swarm": f"""SELECT r.id, {_SUBMISSION}, {_PEER}, version_key, origin, d.text AS downloader,
    from_peer_traffic_offset, to_peer_traffic_offset, from_peer_traffic_speed_max, to_peer_traffic_speed_max,
    first_time_seen, last_time_seen FROM seg.swarm r JOIN seg.submission s ON s.id = r.submission
    JOIN userapp a ON a.id = s.userapp {_JOINS} LEFT JOIN label d ON d.id = r.downloader
    WHERE a.app_id = coalesce(?, a.app_id) ORDER BY r.id""",
}
_BANS = f"""SELECT r.id, {_SUBMISSION}, {_PEER}, ban_at, btn_ban, m.text AS module, rule, description, ban_unique_id,
    structured_data FROM ban r JOIN submission s ON s.id = r.submission JOIN userapp a ON a.id = r.userapp {_JOINS}
    JOIN label m ON m.id = r.module WHERE a.app_id = coalesce(?, a.app_id) ORDER BY r.id"""


def head_of(path: str, *lines: str, method: str = "POST") -> bytes:
    """The head of a request with these lines."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", "")).encode()


@contextlib.contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A database file for reading only."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def rows(database: Path, kind: Kind, app_id: str | None = None) -> list[dict[str, Any]]:
    """The stored rows of an application (of all unless given) with the names of the wire, in order of receipt.

    `id` is the id that the world sees.
    """
    with opened(database) as connection:
        if kind == "ban":
            return [_readable(row) for row in connection.execute(_BANS.format(row="r"), (app_id,))]
        found = []
        for segment in catalogue(database, kind):
            file = segment_file(database, segment)
            connection.execute("ATTACH ? AS seg", (f"{file.as_uri()}?mode=ro",))
            stored = connection.execute(_OBSERVED[kind].format(row="r"), (app_id,)).fetchall()
            first = int(segment["first_row"]) - 1
            found += [_readable(row) | {"id": first + row["id"], "segment": segment["id"]} for row in stored]
            connection.execute("DETACH seg")
        return found


def _readable(row: sqlite3.Row) -> dict[str, Any]:
    values = dict(row)
    for name in ("peer_ip", "address"):
        values[name] = values[name] and str(ipaddress.ip_address(values[name]))
    if isinstance(values["torrent_identifier"], bytes):
        values["torrent_identifier"] = values["torrent_identifier"].hex()
    values["torrent_is_private"] = {1: True, 0: False, -1: None}[values["torrent_is_private"]]
    if "btn_ban" in values:
        values["btn_ban"] = bool(values["btn_ban"])
    if "origin" in values:
        values["origin"] = ("history", "swarm")[values["origin"]]
    return values


def catalogue(database: Path, kind: str) -> list[dict[str, Any]]:
    """What the main database knows of the segments of a kind, oldest first."""
    with opened(database) as connection:
        return [dict(row) for row in connection.execute("SELECT * FROM segment WHERE kind=? ORDER BY id", (kind,))]


def segment_file(database: Path, segment: dict[str, Any]) -> Path:
    """The file of a segment of the catalogue."""
    return database.with_name(f"{database.name}.segments") / f"{segment['kind']}-{segment['id']:08d}.db"


def count(database: Path, table: str) -> int:
    """How many rows a table of the main database has."""
    with opened(database) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# What each version of the main database added, taken back.
_UNDO = {
    15: "ALTER TABLE decision DROP COLUMN vouched;",
    14: "DROP TABLE import_source; DROP TABLE import_state; DROP TABLE import_run; DROP TABLE import_support;"
    " DROP TABLE feed_key; DELETE FROM setting WHERE name='node';",
    13: "DROP TABLE word; ALTER TABLE user DROP COLUMN vouched_at; ALTER TABLE decision DROP COLUMN decisive;"
    " DELETE FROM setting WHERE name='words_began';",
    12: "DROP TABLE segment_aside;",
    11: "",
    10: "DROP TABLE userapp_trouble;",
}


def put_back(database: Path, version: int) -> None:
    """Make a database what an earlier version of the program had it as."""
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("".join(_UNDO[each] for each in range(max(_UNDO), version, -1)))
        connection.executescript(f"PRAGMA user_version={version}")
