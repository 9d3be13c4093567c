"""The BTN client protocol over HTTP: each ability is one handler, called by every client in its own dialect.

These routes are plain ASGI handlers: a submission costs a third of what a framework handler would, and nothing reads
a body before its sender is known. ROUTES at the end is all of them.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import msgspec
from litestar.handlers import ASGIRouteHandler, asgi

from sparkle_lite import net
from sparkle_lite.config import Abilities
from sparkle_lite.errors import SparkleError
from sparkle_lite.http import widget
from sparkle_lite.http.admission import Admission, Caller, spend_proof
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import MethodNotAllowed, internal
from sparkle_lite.http.ready import JSON, REVALIDATE, Ready, choose
from sparkle_lite.http.requests import (
    ClientGone,
    Receive,
    Scope,
    Send,
    answer,
    base_url,
    header,
    query_value,
    read_body,
    refuse,
)
from sparkle_lite.ingest.ingest import Outcome
from sparkle_lite.ingest.memory import OwnRoom
from sparkle_lite.ingest.trouble import ListName
from sparkle_lite.observations import ip_report
from sparkle_lite.server import Server
from sparkle_lite.units import KIB
from sparkle_lite.wire import answers
from sparkle_lite.wire.bodies import empty_body
from sparkle_lite.wire.config_document import AbilityOffer, ConfigDocument, config_document
from sparkle_lite.wire.dialect import Dialect
from sparkle_lite.wire.rule_documents import Document

# Documents kept ready: one for each dialect and each URL under which the server is reached.
_CONFIG_DOCUMENTS = 512
_JSON = (b"content-type", JSON.encode())
_TEXT = "text/plain; charset=utf-8"
_NO_STORE = (b"cache-control", b"no-store")
_REVALIDATE = (b"cache-control", REVALIDATE.encode())
# Which of its lists a client sends where.
_LISTS: dict[str, ListName] = {
    "/ping/peers/submit": "peers",
    "/ping/bans/submit": "bans",
    "/ping/histories/submit": "histories",
    "/ping/syncBanHistory": "bans",
    "/ping/syncSwarm": "swarms",
}
_SMALL_BODY, _SMALL_BODY_S = 16 * KIB, 10


class Btn:
    """What the BTN routes of one server have in common."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.admission = Admission(server)
        self._documents: dict[tuple[Dialect, str], ConfigDocument] = {}
        self._documents_of: object = None

    def config_document(self, dialect: Dialect, url: str) -> ConfigDocument:
        """The configuration for clients of a dialect that reach the server under a URL."""
        config = self.server.config
        if self._documents_of is not config or len(self._documents) > _CONFIG_DOCUMENTS:
            self._documents, self._documents_of = {}, config
        document = self._documents.get((dialect, url))
        if document is None:
            document = self._documents[dialect, url] = config_document(
                dialect,
                _offers(config.btn.abilities),
                url,
                prefer_legacy=config.btn.prefer_legacy,
                proof_of_work=config.btn.proof_of_work.abilities,
            )
        return document


def _offers(abilities: Abilities) -> dict[str, AbilityOffer]:
    every = {name: getattr(abilities, name) for name in Abilities.__struct_fields__}
    return {
        name: AbilityOffer(int(ability.interval), int(ability.random_initial_delay))
        for name, ability in every.items()
        if ability.enabled
    }


class Call(NamedTuple):
    """A request that was let in."""

    btn: Btn
    scope: Scope
    receive: Receive
    caller: Caller

    @property
    def server(self) -> Server:
        """The server that is asked."""
        return self.btn.server

    @property
    def memory(self) -> OwnRoom:
        """What the bodies of the application may take."""
        return self.server.ingest.memory.of(self.caller.userapp.owner)


class Reply(NamedTuple):
    """What goes out: status, body and headers but the length."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


# --- Submissions ------------------------------------------------------------------------------------------------------


async def submit(call: Call) -> Reply:
    """Store a body of any shape; 200 with an empty body once it is committed."""
    if is_head(call.scope):
        raise empty_body()
    troubles, caller, sent = call.server.troubles, call.caller, _LISTS[call.scope["path_template"]]
    try:
        outcome = await _store(call)
    except ClientGone:
        raise
    except SparkleError as error:
        troubles.refused(caller.userapp, sent, error)
        raise
    if outcome.receipt is not None:
        troubles.received(caller.userapp, sent, outcome.receipt, caller.dialect.traits)
    return Reply(200, b"", [(b"x-sparkle-rejected", b"%d" % outcome.rejected), _NO_STORE])


async def _store(call: Call) -> Outcome:
    limits, ingest, caller = call.server.config.limits, call.server.ingest, call.caller
    ingest.quotas.require(caller.userapp.id)
    body = await _read_body(call, limits.max_body_size, limits.body_timeout / 1000)
    try:
        encoding = header(call.scope, b"content-encoding")
        return await ingest.submit(caller.userapp.owner, caller.address, body, encoding, caller.dialect)
    except SparkleError:
        raise
    except Exception as error:
        raise internal() from error
    finally:
        call.memory.release(len(body))


async def _read_body(call: Call, limit: int, timeout_s: float) -> bytes:
    """The whole body; the caller releases its memory. Raises as `read_body`, and for a proof used elsewhere."""
    memory = call.memory
    body = await read_body(call.scope, call.receive, memory, limit, timeout_s)
    try:
        await spend_proof(call.scope, call.caller, body)
    except BaseException:
        memory.release(len(body))
        raise
    return body


# --- The configuration ------------------------------------------------------------------------------------------------


async def config(call: Call) -> Reply:
    """The configuration document for whoever asks."""
    document = _config_document(call)
    chosen = choose(call.scope, Ready(JSON, document.version, document.body))
    return Reply(chosen.status, chosen.body, [*chosen.headers, _REVALIDATE])


async def reconfigure(call: Call) -> Reply:
    """204 while the configuration document is the one with this `rev` (qBittorrent-ClientBlocker asks)."""
    unchanged = query_value(call.scope, "rev") == _config_document(call).version
    return Reply(204 if unchanged else 200, b"", [_NO_STORE])


def _config_document(call: Call) -> ConfigDocument:
    dialect, section = call.caller.dialect, call.server.config.server
    if dialect.traits.outdated:
        raise SparkleError("forbidden", "access.old_peerbanhelper")
    return call.btn.config_document(dialect, base_url(call.scope, section.public_url, section.trusted_proxies))


# --- Rules ------------------------------------------------------------------------------------------------------------


async def rules(call: Call) -> Reply:
    """The rules, or 204 when the client has them."""
    return _unless_known(call, call.server.publisher.published.rules(call.caller.dialect))


async def exception(call: Call) -> Reply:
    """The exceptions, or 204 when the client has them."""
    return _unless_known(call, call.server.publisher.published.exception(call.caller.dialect))


async def identities(call: Call) -> Reply:
    """The rules by peer id, client name and port, or 204 when the client has them."""
    return _unless_known(call, call.server.publisher.published.rule_peer_identity(call.caller.dialect))


async def denylist(call: Call) -> Reply:
    """The banned networks as text, each with its reason, or 204 when the client has them."""
    return _unless_known(call, call.server.publisher.published.ip_denylist, _TEXT)


async def allowlist(call: Call) -> Reply:
    """The excepted networks as text, or 204 when the client has them."""
    return _unless_known(call, call.server.publisher.published.ip_allowlist, _TEXT)


def _unless_known(call: Call, document: Document, media_type: str = JSON) -> Reply:
    version = (b"x-btn-contentversion", document.version.encode())
    if call.server.publisher.is_known(document, query_value(call.scope, "rev")):
        return Reply(204, b"", [version, _NO_STORE])
    chosen = choose(call.scope, Ready(media_type, document.tag, document.body, document.gzip))
    return Reply(chosen.status, chosen.body, [*chosen.headers, version, _REVALIDATE])


# --- Questions --------------------------------------------------------------------------------------------------------


async def heartbeat(call: Call) -> Reply:
    """The address that this request came from; what the client believes of itself (`ifaddr`) doesn't count."""
    body = await _read_body(call, _SMALL_BODY, _SMALL_BODY_S)
    call.memory.release(len(body))
    address = call.caller.address
    return _json(answers.Heartbeat("" if address is None else net.address_text(address)))


async def challenge(call: Call) -> Reply:
    """A proof of work to do before a request of the ability `type`."""
    section, kind = call.server.config.btn.proof_of_work, query_value(call.scope, "type")
    made = call.server.proof_of_work.challenge(
        call.caller.userapp.id, kind, section.difficulty_bits, int(section.lifetime), keep=not is_head(call.scope)
    )
    return _json(made)


async def query_ip(call: Call) -> Reply:
    """What this network knows of one address."""
    return _json(await _report(call))


async def query_ip_widget(call: Call) -> Reply:
    """The same as a small page that PeerBanHelper's interface embeds."""
    page = widget.render(query_value(call.scope, "ip"), await _report(call))
    return Reply(200, page, widget.HEADERS)


async def _report(call: Call) -> answers.IpQuery:
    call.btn.admission.limit_query(call.caller)
    try:
        address = net.address_bytes(query_value(call.scope, "ip"))
    except net.AddressError as error:
        raise SparkleError("bad_request", "address.not_single", why=error.said) from None
    server = call.server
    asked = ip_report.AddressQuestion(address, call.caller.userapp.owner, server.timekeeping.clock.settled())
    return await ip_report.look_up(asked, server.decisions, server.search, server.config.limits)


def _json(body: object) -> Reply:
    return Reply(200, msgspec.json.encode(body), [_JSON, _NO_STORE])


# --- The routes -------------------------------------------------------------------------------------------------------


class Route(NamedTuple):
    """A fixed path of the protocol and what answers it.

    `action` is what the audit calls a refused request, `ability` what a proof of work is asked for; with `by_query`
    credentials may stand in the URL.
    """

    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    action: str
    methods: tuple[str, ...] = ("GET",)
    ability: str = ""
    by_query: bool = False


_POST = ("POST",)
# The published API documents submissions as GET with a body; every client sends POST.
_EITHER = ("POST", "GET")

ROUTES = (
    Route("/ping/config", config, "BTN_CONFIG"),
    Route("/ping/reconfigure", reconfigure, "BTN_CONFIG"),
    Route("/ping/rules/retrieve", rules, "BTN_RULES_RETRIEVE"),
    Route("/ping/exception", exception, "BTN_RULES_RETRIEVE"),
    Route("/ping/peers/submit", submit, "BTN_PEERS_SUBMIT", _EITHER),
    Route("/ping/bans/submit", submit, "BTN_BANS_SUBMIT", _EITHER),
    Route("/ping/histories/submit", submit, "BTN_HISTORY_SUBMIT", _EITHER),
    Route("/ping/syncBanHistory", submit, "BTN_BANS_SUBMIT", _POST, "submit_bans"),
    Route("/ping/syncSwarm", submit, "BTN_SWARM_SUBMIT", _POST, "submit_swarm"),
    Route("/ping/ruleIpDenylist", denylist, "BTN_RULES_RETRIEVE", ability="ip_denylist"),
    Route("/ping/ruleIpAllowlist", allowlist, "BTN_RULES_RETRIEVE", ability="ip_allowlist"),
    Route("/ping/rulePeerIdentity", identities, "BTN_RULES_RETRIEVE", ability="rule_peer_identity"),
    Route("/ping/heartbeat", heartbeat, "BTN_HEARTBEAT", _POST, "heartbeat"),
    Route("/ping/queryIp", query_ip, "BTN_QUERY_IP", ability="ip_query"),
    Route("/ping/queryIp/widget", query_ip_widget, "BTN_QUERY_IP", by_query=True),
    Route("/ping/captcha/createSession", challenge, "BTN_CAPTCHA"),
)


def handlers(server: Server) -> list[ASGIRouteHandler]:
    """The routes as one server answers them."""
    btn = Btn(server)
    return [asgi(route.path, copy_scope=False)(partial(_serve, btn, route)) for route in ROUTES]


async def _serve(btn: Btn, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        if scope["method"] not in route.methods:
            raise MethodNotAllowed(scope["method"], route.methods)
        caller = await btn.admission.admit(scope, route.action, ability=route.ability, by_query=route.by_query)
        if "POST" not in route.methods:
            await spend_proof(scope, caller, b"")
        reply = await route.handler(Call(btn, scope, receive, caller))
    except SparkleError as error:
        await refuse(scope, receive, send, error)
    else:
        await answer(send, *reply)
