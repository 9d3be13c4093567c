"""The HTTP server from binding its sockets to the last commit.

`app` calls `run`, tests use `HttpServer`. Nothing here knows a route.
"""

import asyncio
import errno
import inspect
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from sparkle_lite.http.connection import Protocol
from sparkle_lite.http.sockets import bind, bind_error, url_of
from sparkle_lite.service_manager import ServiceManager

if TYPE_CHECKING:
    from types import FrameType

    from uvicorn._types import ASGIApplication

logger = logging.getLogger("sparkle.server")


class _Lifespan(LifespanOn):
    """Starts and stops the application; what stops a start-up is raised, not logged with its traceback."""

    failure: BaseException | None = None

    async def startup(self) -> None:
        self._task = asyncio.create_task(self.main())
        await self.receive_queue.put({"type": "lifespan.startup"})
        await self.startup_event.wait()
        if self.failure is not None:
            raise self.failure

    async def main(self) -> None:
        scope: Any = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.config.loaded_app(scope, self.receive, self._keep_failures)
        except BaseException as exc:
            self.error_occurred = True
            if self.startup_event.is_set() and not isinstance(exc, asyncio.CancelledError):
                logger.exception("the application failed to stop cleanly")
            else:
                self.failure = exc
        finally:
            self.startup_event.set()
            self.shutdown_event.set()

    async def _keep_failures(self, message: Any) -> None:
        # Frameworks report a failure as a formatted traceback and raise it right after: the exception says it better.
        if message["type"] == "lifespan.startup.failed":
            self.failure = RuntimeError(message.get("message", "the application refused to start"))
        elif message["type"] != "lifespan.shutdown.failed":
            await self.send(message)


class HttpServer(uvicorn.Server):
    """One listening server, from binding its sockets to the last commit.

    `port` 0 takes any free port. `on_ready` gets the URL once requests are accepted. `on_hup` runs on
    the loop at each SIGHUP. SIGTERM, SIGINT or `stop()` let running requests finish for `graceful_timeout` s, cancel
    the rest and shut the application down, 10 s in all; a second signal skips the waiting. A service manager is told of
    all that.
    """

    def __init__(
        self,
        app: "ASGIApplication",
        *,
        host: str = "127.0.0.1",
        port: int = 7799,
        sockets: Sequence[socket.socket] | None = None,
        graceful_timeout: int = 8,
        on_ready: Callable[[str], Awaitable[None] | None] | None = None,
        on_hup: Callable[[], Awaitable[None] | None] | None = None,
        protocol: type[Protocol] = Protocol,
    ) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Clients come back every few seconds to minutes; PeerBanHelper keeps idle connections for 5 minutes.
            timeout_keep_alive=65,
            timeout_graceful_shutdown=graceful_timeout,
        )
        config.load()
        config.lifespan_class = _Lifespan
        super().__init__(config)
        self.url = ""
        self._bound = list(sockets or ())
        self._on_ready = on_ready
        self._on_hup = on_hup
        self._hup_task: asyncio.Task[None] | None = None
        self._manager = ServiceManager(os.environ)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, on uvloop where there is one."""
        _allow_files(self.config.http_protocol_class)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self.serve(sockets))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on this loop until told to stop.

        Raises SparkleError("conflict") if the address can't be had, and whatever stopped the application's start-up.
        """
        bound = sockets or self._bound or bind(self.config.host, self.config.port)
        hup = self._listen_for_hup()
        try:
            await super().serve(sockets=bound)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            raise bind_error(self.config.host, self.config.port, exc) from None
        finally:
            if hup:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            for sock in bound:
                sock.close()

    def stop(self) -> None:
        """Begin the graceful stop; callable from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen, then say so."""
        await super().startup(sockets=sockets)
        if sockets:
            self.url = url_of(self.config.host, sockets[0])
        if self._on_ready is not None and not self.should_exit:
            try:
                outcome = self._on_ready(self.url)
                if inspect.isawaitable(outcome):
                    await outcome
            except BaseException:
                # The threads of an application that is up would keep the process alive.
                await self.shutdown(sockets=sockets)
                raise
        if not self.should_exit:
            self._manager.begin()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what runs, then shut the application down; what hangs is left behind."""
        self._manager.end()
        logger.info("stopping", extra={"running_requests": len(self.server_state.tasks)})
        try:
            async with asyncio.timeout((self.config.timeout_graceful_shutdown or 0) + 1.5):
                await super().shutdown(sockets=sockets)
        except TimeoutError:
            logger.error("the application did not stop in time")

    def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
        """First signal: stop gracefully. Second: now. Third: the system's default, which ends the process.

        uvicorn would raise the signal again at the end, which turns every clean stop into a death by signal.
        """
        if self.should_exit:
            self.force_exit = True
            signal.signal(sig, signal.SIG_DFL)
        self.should_exit = True

    def _listen_for_hup(self) -> bool:
        if self._on_hup is None or os.name != "posix" or threading.current_thread() is not threading.main_thread():
            return False
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hup)
        return True

    def _hup(self) -> None:
        # A second SIGHUP while one is being worked on waits for it: reloading is never run twice at once.
        before = self._hup_task
        self._hup_task = asyncio.get_running_loop().create_task(self._run_hup(before))

    async def _run_hup(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await before
        try:
            outcome = self._on_hup() if self._on_hup else None
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            logger.exception("reloading failed")


def run(
    app: "ASGIApplication",
    *,
    host: str = "127.0.0.1",
    port: int = 7799,
    sockets: Sequence[socket.socket] | None = None,
    graceful_timeout: int = 8,
    on_ready: Callable[[str], Awaitable[None] | None] | None = None,
    on_hup: Callable[[], Awaitable[None] | None] | None = None,
) -> None:
    """Serve `app` in the foreground until SIGTERM or SIGINT; see HttpServer."""
    HttpServer(
        app,
        host=host,
        port=port,
        sockets=sockets,
        graceful_timeout=graceful_timeout,
        on_ready=on_ready,
        on_hup=on_hup,
    ).run()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop that a server runs on; None for the usual one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _allow_files(protocol: Any) -> None:
    """Raise the soft limit of open files to what the connections and the database may need, as far as allowed."""
    if os.name != "posix":
        return
    import resource

    wanted = getattr(protocol, "max_connections", 0) * 5 // 4 + 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
