"""The wiring: one Litestar application over one server, in one process."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from litestar import Litestar, Response
from litestar.routes import HTTPRoute

import sparkle_lite
from sparkle_lite import config as configuration
from sparkle_lite import logs
from sparkle_lite.accounts.apps import peerbanhelper_lines
from sparkle_lite.accounts.parts import FirstStart
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.config import Config
from sparkle_lite.config.notes import notes
from sparkle_lite.db.lock import require_unused
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.http import btn, feeds, lifecycle, web
from sparkle_lite.http.api import docs, openapi
from sparkle_lite.http.base_path import BasePath
from sparkle_lite.http.downloads import Downloads
from sparkle_lite.http.head import Head
from sparkle_lite.http.observe import Observe
from sparkle_lite.http.problems import MethodNotAllowed, internal, known, problem, with_head
from sparkle_lite.http.requests import PlainRequest, Receive, Scope, Send
from sparkle_lite.http.session import DEPENDENCIES, AnyRequest
from sparkle_lite.http.visitors import LimitVisitors
from sparkle_lite.http.web.render import is_for_person, refusal
from sparkle_lite.rules import operator
from sparkle_lite.server import Server, running

# How long requests that run may take to finish before a restart (s), and how long until a failed one is tried again.
_FINISH_S, _AGAIN_S = 5.0, 5.0
logger = logging.getLogger("sparkle.app")


def create_app(parts: Server) -> Litestar:
    """The application that answers for one server."""
    app = Litestar(
        [
            *btn.handlers(parts),
            *feeds.handlers(parts),
            feeds.no_such_feed,
            *openapi.OPERATIONS,
            *openapi.HANDLERS,
            *docs.HANDLERS,
            web.router(),
        ],
        dependencies=DEPENDENCIES,
        before_request=_options,
        exception_handlers={Exception: _on_exception},
        request_class=PlainRequest,
        openapi_config=None,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    app.state.server = parts
    app.state.downloads = Downloads()
    return app


def _on_exception(request: AnyRequest, error: Exception) -> Response[bytes]:
    shown = known(error, request.method)
    if isinstance(shown, MethodNotAllowed) and feeds.is_no_feed(request.scope):
        return feeds.unknown_feed()
    if shown is None:
        logger.error("a request failed", exc_info=error)
        shown = internal()
    return refusal(request, shown) if is_for_person(request) else _refusal(shown)


class Application:
    """What one process serves: a server that comes up and goes down with it, and what answers for it meanwhile."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Server]]) -> None:
        self._start = start
        self._answer: Any = _not_up
        self._parts: Server | None = None
        self._running = 0
        self._is_up = asyncio.Event()
        # Called when a server has come up again in the same process.
        self.announce: Callable[[], Awaitable[None]] = _nothing

    @property
    def parts(self) -> Server:
        """The server, once it is up."""
        assert self._parts is not None
        return self._parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or come up and go down as the ASGI lifespan says; what stops a start is raised."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self._running += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._running -= 1

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._start() as parts:
            self._take(parts)
            await send({"type": "lifespan.startup.complete"})
            stop = asyncio.ensure_future(receive())
            await self._until_restart(parts, stop)
        while not stop.done():
            await self._live_again(stop)
        await send({"type": "lifespan.shutdown.complete"})

    def _take(self, parts: Server) -> None:
        self._parts, self._answer = (
            parts,
            Observe(LimitVisitors(Head(BasePath(create_app(parts), parts)), parts), parts),
        )
        self._is_up.set()

    async def _until_restart(self, parts: Server, stop: "asyncio.Future[Any]") -> None:
        """Wait until the process shall stop, or this server go down and come up again; then nobody uses it any more."""
        restart = asyncio.create_task(parts.restart.wait())
        await asyncio.wait((stop, restart), return_when=asyncio.FIRST_COMPLETED)
        restart.cancel()
        if not stop.done():
            logger.info("going down to come up again")
            self._answer = self._answer_later
            self._is_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_FINISH_S):
                    while self._running:
                        await asyncio.sleep(0.02)

    async def _live_again(self, stop: "asyncio.Future[Any]") -> None:
        """Come up again, and live until the next time; a start that fails is tried again later."""
        reread = self.parts.reread
        try:
            async with self._start() as parts:
                self._take(parts)
                parts.reread = reread
                await self.announce()
                await self._until_restart(parts, stop)
        except SparkleError as error:
            logger.error("the server can't come up again: %s", error)
            await asyncio.wait((stop,), timeout=_AGAIN_S)

    async def _answer_later(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer when the server has come up again; where that takes too long, that it will."""
        self._running -= 1
        try:
            async with asyncio.timeout(_FINISH_S):
                await self._is_up.wait()
        except TimeoutError:
            await _coming_up(scope, send)
            return
        finally:
            self._running += 1
        await self._answer(scope, receive, send)


async def _coming_up(scope: Scope, send: Send) -> None:
    status, headers, body = problem(SparkleError("overloaded", "server.coming_up", retry_after=2))
    if scope["path"] == "/readyz":
        body = b'{"ready":false,"writer":false,"rules_published":false}'
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nothing() -> None:
    """Nobody is told."""


async def _not_up(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a request came before the server was up")


async def _options(request: AnyRequest) -> Response[None] | None:
    """Answer OPTIONS: the framework's own answer names only the methods of the handler that came first.

    Async although it waits for nothing: the framework would send every request through a thread otherwise.
    """
    if request.method != "OPTIONS":
        return None
    path = request.scope["path_template"]
    methods = {
        method
        for route in request.app.routes
        if isinstance(route, HTTPRoute) and path in (route.path, route.path_format)
        for method in route.methods
    }
    return Response(None, status_code=204, headers={"allow": ", ".join(with_head(methods))})


def _refusal(error: SparkleError) -> Response[bytes]:
    status, headers, body = problem(error)
    return Response(body, status_code=status, headers={k.decode(): v.decode() for k, v in headers})


def serve(config: Config, *, config_path: Callable[[], Path | None], host: str | None, port: int | None) -> None:
    """Run the server in the foreground until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    `config_path` finds the file anew each time, because one may have been made since. Raises SparkleError when the
    database or the address can't be used.
    """
    # Whoever starts a second server should hear of the first, and not only of its port.
    require_unused(config.database.file)
    logs.setup(config.server.log_format)
    _tune()
    application = Application(partial(running, config, configuration.given(SCHEMA, config_path(), os.environ)))
    reread = partial(_reread, application, config_path)
    _log_notes(config, config_path())
    lifecycle.run(
        application,
        host=config.server.host if host is None else host,
        port=config.server.port if port is None else port,
        on_ready=partial(_announce, application, reread),
        on_hup=partial(_reread_on_hup, reread),
    )


def _log_notes(config: Config, path: Path | None) -> None:
    for line in configuration.explain(notes(config), configuration.source(SCHEMA, path, os.environ)):
        logger.warning("a note about the configuration: %s", line)


async def _announce(application: Application, reread: Callable[[], Awaitable[list[str]]], url: str) -> None:
    """Say where the server is, and on a first start how to get in."""
    logger.info("listening", extra={"url": url, "version": sparkle_lite.__version__})
    application.parts.reread = reread
    application.announce = partial(_tell_first_start, application, url)
    await application.announce()


async def _tell_first_start(application: Application, url: str) -> None:
    parts = application.parts
    if parts.first_start is not None:
        # Who is killed before has it told by the next start; who is killed in between, once more.
        await parts.accounts.note_telling(parts.first_start)
        try:
            print(_welcome(parts.config.server.public_url or url, parts.first_start), file=sys.stdout, flush=True)
        except OSError as error:
            logger.error("how to get in can't be printed, the next start tells it: %s", error)
            return
        parts.first_start = None
        with suppress(SparkleError):
            await parts.accounts.note_told()


async def _reread(application: Application, config_path: Callable[[], Path | None]) -> list[str]:
    """Read the configuration's file again; the keys that need a restart. Raises ConfigError."""
    fresh = configuration.load(SCHEMA, config_path(), os.environ, check=operator.check)
    stay = await application.parts.reload(fresh, configuration.given(SCHEMA, config_path(), os.environ))
    for key in stay:
        logger.warning("%s has changed, which needs a restart", key)
    _log_notes(fresh, config_path())
    logger.info("the configuration was reloaded")
    return stay


async def _reread_on_hup(reread: Callable[[], Awaitable[list[str]]]) -> None:
    try:
        await reread()
    except ConfigError as error:
        for line in error.lines:
            logger.error("the configuration was not reloaded: %s", line)


def _tune() -> None:
    """Settle the interpreter for a server: what was imported stays for ever, and threads change places more often.

    At the default interval of 5 ms a request would wait that long for a body that is being decoded.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(0.001)


def _welcome(url: str, first: FirstStart) -> str:
    return (
        f"\nSparkle Lite is running at {url}\n\n"
        f"Sign in as 'admin' with this link and its button (valid once, for 30 minutes):\n"
        f"  {url}/login?token={first.login_token}\n\n"
        "Paste these lines into PeerBanHelper's config.yml (they are shown only now):\n"
        f"{peerbanhelper_lines(url, first.app_id, first.secret)}\n"
    )
