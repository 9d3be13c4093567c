"""What the operator's tools ask: health, readiness, metrics."""

import secrets
from typing import Any

from litestar import Response, get
from litestar.openapi import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST

from sparkle_lite import __version__, net
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.api.common import described
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.requests import came_by, client_address, forwarded_addresses, is_from_proxy, is_proxy_header
from sparkle_lite.http.session import AnyRequest, Injected
from sparkle_lite.net import Network
from sparkle_lite.server import Server

# The framework adds the charset.
_TEXT = CONTENT_TYPE_LATEST.partition("; charset")[0]
NO_STORE = {"cache-control": "no-store"}
# Tells whether two ways lead to the same process.
_INSTANCE = secrets.token_hex(8)


@get(
    "/healthz",
    summary="Whether the process and its database answer",
    operation_id="health",
    tags=["operation"],
    responses={
        200: described(dict[str, str], "They do.", {"status": "ok", "version": __version__}),
        503: described(dict[str, str], "They don't.", {"status": "failing", "reason": "timeout"}),
    },
)
async def healthz(server: Injected[Server]) -> Response[dict[str, str]]:
    return await _health(server)


async def _health(server: Server) -> Response[dict[str, str]]:
    try:
        await server.health()
    except (SparkleError, TimeoutError) as error:
        return Response({"status": "failing", "reason": str(error) or "timeout"}, status_code=503, headers=NO_STORE)
    return Response({"status": "ok", "version": __version__}, headers=NO_STORE)


@get("/healthcheck", include_in_schema=False)
async def healthcheck(server: Injected[Server]) -> Response[dict[str, str]]:
    """The same by the name that the original's container asks for."""
    return await _health(server)


@get(
    "/readyz",
    summary="Whether submissions are taken and rules are served",
    operation_id="ready",
    tags=["operation"],
    responses={
        200: described(dict[str, Any], "They are.", {"ready": True}),
        503: described(dict[str, Any], "Not now; what stands in the way.", {"ready": False}),
    },
)
async def readyz(request: AnyRequest, server: Injected[Server]) -> Response[dict[str, object]]:
    if not server.database.is_still:
        await server.disk.probe()
    way = came_by(request.scope, server.config.server.trusted_proxies)
    state = {**server.readiness(), "came_by": way, "instance": _INSTANCE}
    return Response(state, status_code=200 if state["ready"] else 503, headers=NO_STORE)


@get(
    "/metrics",
    summary="Counters for Prometheus, for configured networks only",
    operation_id="metrics",
    tags=["operation"],
    responses={
        200: ResponseSpec(str, generate_examples=False, media_type="text/plain", description="The counters."),
        403: ResponseSpec(Envelope, generate_examples=False, description="Not for this address."),
        404: ResponseSpec(Envelope, generate_examples=False, description="Switched off on this server."),
    },
)
async def metrics(request: AnyRequest, server: Injected[Server]) -> Response[bytes]:
    config = server.config
    if not config.metrics.allow:
        raise SparkleError("not_found", "metrics.off")
    trusted = config.server.trusted_proxies
    if not is_from_proxy(request.scope, trusted):
        if any(is_proxy_header(name) for name in request.headers):
            raise SparkleError("forbidden", "metrics.unknown_proxy")
    elif not forwarded_addresses(request.scope):
        # The address would be the proxy's own, for everybody who comes through it.
        raise SparkleError("forbidden", "metrics.no_client")
    if not _is_within(client_address(request.scope, trusted), config.metrics.allow):
        raise SparkleError("forbidden", "metrics.not_allowed")
    return Response(server.metrics.render(), media_type=_TEXT, headers=NO_STORE)


def _is_within(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = net.address_bytes(text)
    except net.AddressError:
        return False
    return any(network.contains(Network(address, len(address) * 8)) for network in networks)


HANDLERS = (healthz, healthcheck, readyz, metrics)
