"""The wiring: one Litestar application over one runtime, served by one process."""

import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

import sparkle_lite
from sparkle_lite import config as configuration
from sparkle_lite import logs, rulebook
from sparkle_lite.accounts import FirstStart, peerbanhelper_lines
from sparkle_lite.config import Config
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.http import api_accounts, api_rules, api_search, docs, github, openapi, operation, server, web
from sparkle_lite.http.btn import Btn
from sparkle_lite.http.head import Head
from sparkle_lite.http.observe import Observe
from sparkle_lite.http.problems import internal, known, problem, with_head
from sparkle_lite.http.requests import PlainRequest
from sparkle_lite.http.web.render import Pages, is_for_person
from sparkle_lite.notes import notes
from sparkle_lite.runtime import Runtime

logger = logging.getLogger("sparkle.app")


def create_app(runtime: Runtime) -> Litestar:
    """The application of one runtime; its lifespan opens and closes the runtime."""
    pages = Pages(runtime)

    def on_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        shown = known(error, request.method)
        if shown is None:
            logger.error("a request failed", exc_info=error)
            shown = internal()
        return pages.refusal(request, shown) if is_for_person(request) else _refusal(shown)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await runtime.open()
        try:
            yield
        finally:
            await runtime.close()

    documented: list[HTTPRouteHandler | Router] = [
        *operation.routes(runtime),
        *api_accounts.routes(runtime),
        *api_search.routes(runtime),
        *api_rules.routes(runtime),
        *github.routes(runtime, partial(web.sign_in_page, pages)),
    ]
    return Litestar(
        [*Btn(runtime).routes(), *documented, *web.routes(pages), *openapi.routes(documented), *docs.routes()],
        lifespan=[lifespan],
        before_request=_options,
        exception_handlers={Exception: on_exception},
        request_class=PlainRequest,
        openapi_config=None,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )


def _options(request: Request[Any, Any, Any]) -> Response[None] | None:
    """Answer OPTIONS: the framework's own answer names only the methods of the handler that came first."""
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
    logs.setup(config.server.log_format)
    _tune()
    runtime = Runtime(config, configuration.given(config_path(), os.environ))
    _log_notes(config, config_path())

    def on_ready(url: str) -> None:
        logger.info("listening", extra={"url": url, "version": sparkle_lite.__version__})
        if runtime.first_start is not None:
            print(_welcome(config.server.public_url or url, runtime.first_start), file=sys.stdout, flush=True)
            runtime.first_start = None

    async def reread() -> list[str]:
        """Read the file again; the keys that need a restart. Raises ConfigError."""
        fresh = configuration.load(config_path(), os.environ, check=rulebook.check)
        stay = await runtime.reload(fresh, configuration.given(config_path(), os.environ))
        for key in stay:
            logger.warning("%s has changed, which needs a restart", key)
        _log_notes(fresh, config_path())
        logger.info("the configuration was reloaded")
        return stay

    runtime.reread = reread

    async def on_hup() -> None:
        try:
            await reread()
        except ConfigError as error:
            for line in error.lines:
                logger.error("the configuration was not reloaded: %s", line)

    try:
        server.run(
            Observe(Head(create_app(runtime)), runtime),
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


def _log_notes(config: Config, path: Path | None) -> None:
    for line in configuration.explain(notes(config), configuration.source(path, os.environ)):
        logger.warning("a note about the configuration: %s", line)


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
