"""The wiring: one Litestar application over one runtime, served by one process."""

import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

import sparkle_lite
from sparkle_lite import config as configuration
from sparkle_lite import logs, rulebook
from sparkle_lite.accounts import FirstStart, peerbanhelper_lines
from sparkle_lite.config import Config
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.http import api_accounts, api_rules, btn_openapi, github, operation, server
from sparkle_lite.http.btn import Btn
from sparkle_lite.http.observe import Observe
from sparkle_lite.http.problems import internal, problem
from sparkle_lite.runtime import Runtime

logger = logging.getLogger("sparkle.app")


def create_app(runtime: Runtime) -> Litestar:
    """The application of one runtime; its lifespan opens and closes the runtime."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await runtime.open()
        try:
            yield
        finally:
            await runtime.close()

    @get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
        schema = request.app.openapi_schema.to_schema()
        return Response({**schema, "paths": {**btn_openapi.paths(), **schema["paths"]}})

    return Litestar(
        [
            *Btn(runtime).routes(),
            *operation.routes(runtime),
            *api_accounts.routes(runtime),
            *api_rules.routes(runtime),
            *github.routes(runtime),
            openapi,
        ],
        lifespan=[lifespan],
        exception_handlers={Exception: _on_exception},
        openapi_config=OpenAPIConfig(
            title="Sparkle Lite",
            version=sparkle_lite.__version__,
            description="A BTN (BitTorrent Threat Network) server.",
            path="/docs",
            render_plugins=[JsonRenderPlugin()],
        ),
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )


def _on_exception(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error, HTTPException):
        error = _of_framework(error)
    if not isinstance(error, SparkleError):
        logger.error("a request failed", exc_info=error)
        error = internal()
    status, headers, body = problem(error)
    return Response(body, status_code=status, headers={k.decode(): v.decode() for k, v in headers})


def _of_framework(error: HTTPException) -> Exception:
    match error.status_code:
        case 404:
            return SparkleError("not_found", "There is nothing at this path.", "404 Not Found - 资源未找到")
        case 405:
            return SparkleError("method_not_allowed", "This path does not take that method.", "不允许的请求方式。")
        case 400:
            return SparkleError("bad_request", f"The request is not valid: {error.detail}", "无效参数。")
        case 413:
            return SparkleError("too_large", "The request body is too large.", "请求体过大。")
        case _:
            return error


def serve(config: Config, *, config_path: Callable[[], Path | None], host: str | None, port: int | None) -> None:
    """Run the server in the foreground until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    `config_path` finds the file anew each time, because one may have been made since. Raises SparkleError when the
    database or the address can't be used.
    """
    logs.setup(config.server.log_format)
    _tune()
    runtime = Runtime(config)

    def on_ready(url: str) -> None:
        logger.info("listening", extra={"url": url, "version": sparkle_lite.__version__})
        if runtime.first_start is not None:
            print(_welcome(config.server.public_url or url, runtime.first_start), file=sys.stdout, flush=True)
            runtime.first_start = None

    async def on_hup() -> None:
        try:
            fresh = configuration.load(config_path(), os.environ, check=rulebook.check)
        except ConfigError as error:
            for line in error.lines:
                logger.error("the configuration was not reloaded: %s", line)
            return
        for key in await runtime.reload(fresh):
            logger.warning("%s has changed, which needs a restart", key)
        logger.info("the configuration was reloaded")

    try:
        server.run(
            Observe(create_app(runtime), runtime),
            host=config.server.host if host is None else host,
            port=config.server.port if port is None else port,
            on_ready=on_ready,
            on_hup=on_hup,
        )
    except ExceptionGroup as group:
        # The framework's start-up wraps what stopped it.
        refusals, others = group.split(SparkleError)
        if refusals is None or others is not None:
            raise
        raise _first(refusals) from None


def _tune() -> None:
    """Settle the interpreter for a server: what was imported stays for ever, and threads change places more often.

    At the default interval of 5 ms a request would wait that long for a body that is being decoded.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(0.001)


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


def _welcome(url: str, first: FirstStart) -> str:
    return (
        f"\nSparkle Lite is running at {url}\n\n"
        f"Sign in as 'admin' with this link (valid once, for 30 minutes):\n  {url}/login?token={first.login_token}\n\n"
        "Paste these lines into PeerBanHelper's config.yml (they are shown only now):\n"
        f"{peerbanhelper_lines(url, first.app_id, first.secret)}\n"
    )
