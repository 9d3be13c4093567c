"""What the operator's tools ask: health, readiness, metrics; and the one-time login link."""

from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST

from sparkle_lite import net
from sparkle_lite.accounts import Actor
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.requests import client_address
from sparkle_lite.net import Network
from sparkle_lite.runtime import Runtime

NO_STORE = {"cache-control": "no-store"}


def routes(runtime: Runtime) -> list[HTTPRouteHandler]:
    """The handlers of one server."""

    @get("/healthz", summary="Whether the process and its database answer", tags=["operation"])
    async def healthz() -> Response[dict[str, str]]:
        try:
            await runtime.health()
        except (SparkleError, TimeoutError) as error:
            return Response({"status": "failing", "reason": str(error) or "timeout"}, status_code=503, headers=NO_STORE)
        return Response({"status": "ok"}, headers=NO_STORE)

    @get("/readyz", summary="Whether submissions are taken and rules are served", tags=["operation"])
    async def readyz() -> Response[dict[str, object]]:
        state = runtime.readiness()
        return Response(state, status_code=200 if state["ready"] else 503, headers=NO_STORE)

    @get("/metrics", summary="Counters for Prometheus, for configured networks only", tags=["operation"])
    async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        config = runtime.config
        if not config.metrics.allow:
            raise SparkleError("not_found", "Metrics are switched off on this server.", "此服务器未开放指标。")
        if not _is_within(client_address(request.scope, config.server.trusted_proxies), config.metrics.allow):
            raise SparkleError(
                "forbidden",
                "Metrics are only shown to the networks in metrics.allow.",
                "仅允许 metrics.allow 中的网络访问指标。",
            )
        return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST, headers=NO_STORE)

    @get("/login", summary="Exchange a one-time login link for a session", tags=["session"])
    async def login(request: Request[Any, Any, Any], token: str = "") -> Response[Envelope]:
        user = await runtime.accounts.use_login_link(token)
        address = client_address(request.scope, runtime.config.server.trusted_proxies)
        actor = Actor.of(user, address, request.headers.get("user-agent"))
        session = await runtime.accounts.session_token(user, "login link", actor)
        return Response(
            Envelope(success=True, data={"token": session, "user": user.name}),
            media_type=MediaType.JSON,
            headers={**NO_STORE, "referrer-policy": "no-referrer"},
        )

    return [healthz, readyz, metrics, login]


def _is_within(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = net.address_bytes(text)
    except net.AddressError:
        return False
    return any(network.contains(Network(address, len(address) * 8)) for network in networks)
