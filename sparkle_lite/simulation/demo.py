"""The demo: a server with a week in it and traffic going on, for who wants to look, or to try a client that they write.

All of it lies in a temporary folder. A reset lets the server go down and come up again in the same process, with a new
folder and a new week; its address and the credentials stay.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from sparkle_lite import config as configuration
from sparkle_lite.accounts.secrets import Credentials
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.app import Application
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.lifecycle import HttpServer
from sparkle_lite.http.problems import Envelope, MethodNotAllowed
from sparkle_lite.http.requests import Receive, Scope, Send, answer, header, is_proxy_header, refuse
from sparkle_lite.server import Server, running
from sparkle_lite.simulation.connection import is_here
from sparkle_lite.simulation.own_server import intervals
from sparkle_lite.simulation.scenes import Stage
from sparkle_lite.simulation.week import go_on, play_week

RESET_PATH = "/demo/reset"
HOST = "127.0.0.1"
# How long a reset may take, and how often to see how far it is: a machine that does much else needs many times longer.
_PATIENCE_S = 120.0
_LOOK_S = 0.05
_HEADERS = [(b"content-type", b"application/json; charset=utf-8"), (b"cache-control", b"no-store")]
# What stands in the configuration's file of a demo, and what its clients are told while the week is played and after.
_CONFIG = """
[database]
synchronous = "normal"
[auth]
anonymous_apps = true
[retention]
snapshots = "14d"

[[rules]]
type = "ip"
category = "PCDN"
content = ["203.0.113.128/25", "2001:db8:bad::/48"]
[[rules]]
type = "port"
category = "suspicious-port"
content = [65000, 65001]
[[rules]]
type = "peer_id"
category = "leecher"
content = ["-XL00"]
[[rules]]
type = "client_name"
category = "leecher"
content = [{ method = "STARTS_WITH", content = "xunlei" }]
[[exceptions]]
type = "ip"
category = "our-seedboxes"
content = ["198.51.100.7", "2001:db8:5eed::/64"]
[[exceptions]]
type = "peer_id"
category = "our-seedboxes"
content = ["-LT20A0-"]
"""


class Entrance(NamedTuple):
    """How to get in: `token` is an administrator's for the REST API, `login_url` is for a browser, once."""

    url: str
    credentials: Credentials
    login_url: str
    token: str

    def document(self) -> dict[str, str]:
        """The same as JSON."""
        return {
            "url": self.url,
            "configUrl": f"{self.url}/ping/config",
            "appId": self.credentials.app_id,
            "appSecret": self.credentials.secret,
            "loginUrl": self.login_url,
            "token": self.token,
        }


class Tell(Protocol):
    """Told how to get in whenever a demo has begun, `is_first` for the first time."""

    def __call__(self, entrance: Entrance, *, is_first: bool) -> None: ...


class Demo:
    """What the process of a demo serves, from one reset to the next."""

    def __init__(self, credentials: Credentials, tell: Tell) -> None:
        self._credentials = credentials
        self._tell = tell
        self._application = Application(self._begin)
        self._is_stopping: Callable[[], bool] = lambda: False
        self._url = ""
        self._stage: Stage | None = None
        self._traffic: asyncio.Task[None] | None = None
        self._entrance: Entrance | None = None
        self._resetting = asyncio.Lock()

    def serve(self, port: int) -> None:
        """Serve in the foreground until SIGTERM, SIGINT or SIGHUP. Raises SparkleError where the port can't be had."""
        http = HttpServer(self, host=HOST, port=port, on_ready=self._on_ready, on_hup=lambda: http.stop())
        self._is_stopping = lambda: http.should_exit
        try:
            http.run()
        except SparkleError as error:
            # What a server says of it names the configuration's file, which a demo doesn't have.
            raise SparkleError("conflict", "demo.no_port", port=port) if error.code == "conflict" else error from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a reset; all else is the server's."""
        if scope["type"] == "http" and scope["path"] == RESET_PATH:
            await self._answer_reset(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    # --- From one reset to the next -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[Server]:
        """A server with a new week in it, and nothing of it afterwards."""
        with tempfile.TemporaryDirectory(prefix="sparkle-demo-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            self._stage = await play_week(_config(folder, "1h", "6h"), self._credentials, self._is_stopping)
            async with running(_config(folder, "1m", "1m")) as server:
                try:
                    yield server
                finally:
                    await self._stop_traffic()

    async def _on_ready(self, url: str) -> None:
        self._url = url
        self._application.announce = self._announce
        await self._announce()

    async def _announce(self) -> None:
        """Let the traffic begin, and say how to get in."""
        server = self._application.parts
        assert self._stage is not None
        self._traffic = asyncio.create_task(go_on(self._stage, self._application), name="the demo's traffic")
        admin = await server.users.named("admin")
        link = await server.sessions.login_link(admin.id)
        token = await server.sessions.sign_in(admin, "demo")
        is_first = self._entrance is None
        self._entrance = Entrance(self._url, self._credentials, f"{self._url}/login?token={link}", token)
        self._tell(self._entrance, is_first=is_first)

    async def _stop_traffic(self) -> None:
        if self._traffic is not None:
            self._traffic.cancel()
            await asyncio.gather(self._traffic, return_exceptions=True)

    # --- The reset ----------------------------------------------------------------------------------------------------

    async def _answer_reset(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(scope["method"], ("POST",))
            _require_here(scope)
            entrance = await self._reset()
        except SparkleError as error:
            await refuse(scope, receive, send, error)
        else:
            body = msgspec.json.encode(Envelope(success=True, data=entrance.document()))
            await answer(send, 200, body, _HEADERS)

    async def _reset(self) -> Entrance:
        """Begin anew, one reset after the other; how to get in afterwards. Raises SparkleError: overloaded."""
        async with self._resetting:
            before = self._entrance
            self._application.parts.restart.set()
            deadline = time.monotonic() + _PATIENCE_S
            while self._entrance is before or self._entrance is None:
                if self._is_stopping() or time.monotonic() > deadline:
                    raise SparkleError("overloaded", "server.coming_up", retry_after=2)
                await asyncio.sleep(_LOOK_S)
            return self._entrance


def _config(folder: Path, told: str, asked: str) -> configuration.Config:
    """The configuration of a demo in a folder; `told` and `asked` say how often clients tell and ask."""
    path = folder / "config.toml"
    abilities = intervals(told, asked, "heartbeat", more='random_initial_delay = "1s"\n')
    path.write_text(abilities + _CONFIG, "utf-8")
    return configuration.load(SCHEMA, path, {})


def _require_here(scope: Scope) -> None:
    """Refuse whoever isn't on this machine, or may be a page from elsewhere in a browser on it: secrets go out.

    Where a name was rebound to this machine, Host shows it.
    """
    client, host = scope.get("client"), header(scope, b"host")
    names = [name.decode("latin-1") for name, _ in scope["headers"]]
    is_straight = client is not None and is_here(client[0]) and not any(map(is_proxy_header, names))
    is_ours = is_here(_name_in(host)) and header(scope, b"origin") in ("", f"http://{host}")
    if not is_straight or not is_ours or header(scope, b"sec-fetch-site") not in ("", "none", "same-origin"):
        raise SparkleError("forbidden", "demo.not_here")


def _name_in(host: str) -> str:
    """The name or address in Host, "" where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
