"""The BTN client protocol over HTTP: each ability is one handler, called by every client in its own dialect.

These routes are plain ASGI handlers: a submission costs a third of what a framework handler would, and nothing reads
a body before its sender is known.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import msgspec
from litestar.handlers import ASGIRouteHandler, asgi

from sparkle_lite import net
from sparkle_lite.accounts import Userapp, now_ms
from sparkle_lite.buckets import Buckets, place
from sparkle_lite.config import Abilities
from sparkle_lite.errors import SparkleError
from sparkle_lite.http import widget
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
    client_address,
    header,
    query_value,
    read_body,
    refuse,
)
from sparkle_lite.ingest import Outcome
from sparkle_lite.pow import Proof
from sparkle_lite.runtime import Runtime
from sparkle_lite.trouble import ListName
from sparkle_lite.wire import answers
from sparkle_lite.wire.bodies import empty_body
from sparkle_lite.wire.credentials import present
from sparkle_lite.wire.dialect import AbilityOffer, ConfigDocument, Dialect, config_document, detect
from sparkle_lite.wire.documents import Document

# Documents kept ready: one for each dialect and each URL under which the server is reached.
_CONFIG_DOCUMENTS = 512
_JSON = (b"content-type", JSON.encode())
_TEXT = "text/plain; charset=utf-8"
_NO_STORE = (b"cache-control", b"no-store")
_REVALIDATE = (b"cache-control", REVALIDATE.encode())
_EITHER, _POST = ("POST", "GET"), ("POST",)
# Which of its lists a client sends where.
_LISTS: dict[str, ListName] = {
    "/ping/peers/submit": "peers",
    "/ping/bans/submit": "bans",
    "/ping/histories/submit": "histories",
    "/ping/syncBanHistory": "bans",
    "/ping/syncSwarm": "swarms",
}
_SMALL_BODY = 16 * 1024
# Hashing more than this would be felt by others.
_HASHED_AT_ONCE = 256 * 1024
# How many applications' worth of requests one address may send: a household, an office, a seedbox host.
_SHARED = 8
_QUERIES_PER_MINUTE = 30


class Caller(NamedTuple):
    """Who asks: the application, the address as 4 or 16 bytes (None if unknown), its dialect, and its proof of work."""

    userapp: Userapp
    address: bytes | None
    dialect: Dialect
    proof: Proof | None = None


Handler = Callable[[Scope, Receive, Send, Caller], Awaitable[None]]


class Btn:
    """The handlers of one server."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._documents: dict[tuple[Dialect, str], ConfigDocument] = {}
        self._documents_of: object = None
        self._rate = 0
        self._by_userapp = self._by_address = Buckets(burst=0, per_minute=0)
        self._queries = Buckets(burst=_QUERIES_PER_MINUTE, per_minute=_QUERIES_PER_MINUTE)

    def routes(self) -> list[ASGIRouteHandler]:
        """The fixed paths of the protocol."""
        return [
            *self._at("/ping/config", self.config, "BTN_CONFIG"),
            *self._at("/ping/reconfigure", self.reconfigure, "BTN_CONFIG"),
            *self._at("/ping/rules/retrieve", self.rules, "BTN_RULES_RETRIEVE"),
            *self._at("/ping/exception", self.exception, "BTN_RULES_RETRIEVE"),
            # The published API documents submissions as GET with a body; every client sends POST.
            *self._at("/ping/peers/submit", self.submit, "BTN_PEERS_SUBMIT", _EITHER),
            *self._at("/ping/bans/submit", self.submit, "BTN_BANS_SUBMIT", _EITHER),
            *self._at("/ping/histories/submit", self.submit, "BTN_HISTORY_SUBMIT", _EITHER),
            *self._at("/ping/syncBanHistory", self.submit, "BTN_BANS_SUBMIT", _POST, "submit_bans"),
            *self._at("/ping/syncSwarm", self.submit, "BTN_SWARM_SUBMIT", _POST, "submit_swarm"),
            *self._at("/ping/ruleIpDenylist", self.denylist, "BTN_RULES_RETRIEVE", ability="ip_denylist"),
            *self._at("/ping/ruleIpAllowlist", self.allowlist, "BTN_RULES_RETRIEVE", ability="ip_allowlist"),
            *self._at("/ping/rulePeerIdentity", self.identities, "BTN_RULES_RETRIEVE", ability="rule_peer_identity"),
            *self._at("/ping/heartbeat", self.heartbeat, "BTN_HEARTBEAT", _POST, "heartbeat"),
            *self._at("/ping/queryIp", self.query_ip, "BTN_QUERY_IP", ability="ip_query"),
            *self._at("/ping/queryIp/widget", self.widget, "BTN_QUERY_IP", by_query=True),
            *self._at("/ping/captcha/createSession", self.challenge, "BTN_CAPTCHA"),
        ]

    def _at(
        self,
        path: str,
        handler: Handler,
        action: str,
        methods: tuple[str, ...] = ("GET",),
        ability: str = "",
        *,
        by_query: bool = False,
    ) -> Iterator[ASGIRouteHandler]:
        """A handler at a path. `action` is what the audit calls a refused request, `by_query` allows credentials there,
        `ability` is what a proof of work is asked for."""

        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            method = scope["method"]
            try:
                if method not in methods:
                    raise MethodNotAllowed(method, methods)
                caller = await self._caller(scope, action, scope["query_string"] if by_query else b"")
                if ability:
                    caller = caller._replace(proof=self._proof(scope, caller, ability))
                    if caller.proof is not None and "POST" not in methods:
                        await _spend(caller.proof, scope, b"")
                await handler(scope, receive, send, caller)
            except SparkleError as error:
                await refuse(scope, receive, send, error)

        yield asgi(path, copy_scope=False)(route)

    async def _caller(self, scope: Scope, action: str, query: bytes) -> Caller:
        runtime = self._runtime
        text = client_address(scope, runtime.config.server.trusted_proxies)
        scope["state"]["client"] = text
        presented = present(scope["headers"], query)
        agent = header(scope, b"user-agent")
        try:
            userapp = runtime.accounts.known(presented) or await runtime.accounts.authenticate(
                presented, text, register=not is_head(scope)
            )
        except SparkleError as error:
            if error.code == "forbidden":
                await runtime.accounts.note_refusal(action, presented, text, agent, error)
            raise
        self._limit(userapp, text)
        dialect = detect(agent)
        scope["state"]["app_id"] = userapp.app_id
        try:
            address = net.address_bytes(text)
        except net.AddressError:
            return Caller(userapp, None, dialect)
        if not is_head(scope) and runtime.accounts.saw(userapp, address, agent):
            await runtime.saw_address(address)
        return Caller(userapp, address, dialect)

    def _limit(self, userapp: Userapp, address: str) -> None:
        rate = self._runtime.config.limits.requests_per_minute
        if rate != self._rate:
            # A minute's worth at once: PeerBanHelper sends its whole history page after page on first contact.
            self._rate, self._by_userapp = rate, Buckets(burst=rate, per_minute=rate)
            self._by_address = Buckets(burst=_SHARED * rate, per_minute=_SHARED * rate)
        if not rate:
            return
        now = now_ms()
        limits = ((self._by_userapp, userapp.id, rate), (self._by_address, place(address), _SHARED * rate))
        for buckets, key, per_minute in limits:
            if wait := buckets.take(key, now):
                self._runtime.troubles.limited(userapp, per_minute)
                raise _too_many(wait)

    def _proof(self, scope: Scope, caller: Caller, ability: str) -> Proof | None:
        """The proof of work of a request, None where none is wanted. Raises SparkleError("forbidden")."""
        btn = self._runtime.config.btn
        if ability not in btn.proof_of_work.abilities or not caller.dialect.spoken(btn.prefer_legacy).solves:
            return None
        number, solution = header(scope, b"x-btn-powid"), header(scope, b"x-btn-powsolution")
        if is_head(scope):
            self._runtime.proof_of_work.check(caller.userapp.id, ability, number, solution)
            return None
        return self._runtime.proof_of_work.verify(caller.userapp.id, ability, number, solution)

    async def _read_body(self, scope: Scope, receive: Receive, caller: Caller, limit: int, timeout_s: float) -> bytes:
        """The whole body; the caller gives its room back. Raises as `read_body`, and for a proof used elsewhere."""
        room = self._runtime.ingest.room
        body = await read_body(scope, receive, room, limit, timeout_s)
        if caller.proof is not None:
            try:
                await _spend(caller.proof, scope, body)
            except BaseException:
                room.give(len(body))
                raise
        return body

    async def submit(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """Store a body of any shape; 200 with an empty body once it is committed."""
        if is_head(scope):
            raise empty_body()
        troubles, name = self._runtime.troubles, _LISTS[scope["path_template"]]
        try:
            outcome = await self._store(scope, receive, caller)
        except ClientGone:
            raise
        except SparkleError as error:
            troubles.refused(caller.userapp, name, error)
            raise
        if outcome.receipt is not None:
            troubles.received(caller.userapp, name, outcome.receipt, caller.dialect.traits)
        await answer(send, 200, b"", [(b"x-sparkle-rejected", b"%d" % outcome.rejected), _NO_STORE])

    async def _store(self, scope: Scope, receive: Receive, caller: Caller) -> Outcome:
        limits, ingest = self._runtime.config.limits, self._runtime.ingest
        body = await self._read_body(scope, receive, caller, limits.max_body_size, limits.body_timeout / 1000)
        try:
            encoding = header(scope, b"content-encoding")
            return await ingest.submit(caller.userapp.id, caller.address, body, encoding, caller.dialect)
        except SparkleError:
            raise
        except Exception as error:
            raise internal() from error
        finally:
            ingest.room.give(len(body))

    def _config_document(self, scope: Scope, dialect: Dialect) -> ConfigDocument:
        config = self._runtime.config
        if dialect.traits.outdated:
            raise SparkleError(
                "forbidden",
                "This PeerBanHelper is too old for this server; please update to version 3.2 or later.",
                "此版本的 PeerBanHelper 过旧，请更新至 3.2 或更高版本。",
            )
        if self._documents_of is not config or len(self._documents) > _CONFIG_DOCUMENTS:
            self._documents, self._documents_of = {}, config
        key = (dialect, base_url(scope, config.server.public_url, config.server.trusted_proxies))
        document = self._documents.get(key)
        if document is None:
            btn = config.btn
            document = config_document(
                dialect,
                _offers(btn.abilities),
                key[1],
                prefer_legacy=btn.prefer_legacy,
                proof_of_work=btn.proof_of_work.abilities,
            )
            self._documents[key] = document
        return document

    async def config(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The configuration document for whoever asks."""
        document = self._config_document(scope, caller.dialect)
        chosen = choose(scope, Ready(JSON, document.version, document.body))
        await answer(send, chosen.status, chosen.body, [*chosen.headers, _REVALIDATE])

    async def reconfigure(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """204 while the configuration document is the one with this `rev` (qBittorrent-ClientBlocker asks)."""
        document = self._config_document(scope, caller.dialect)
        unchanged = query_value(scope, "rev") == document.version
        await answer(send, 204 if unchanged else 200, b"", [_NO_STORE])

    async def rules(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The rules, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.rules(caller.dialect))

    async def exception(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The exceptions, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.exception(caller.dialect))

    async def identities(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The rules by peer id, client name and port, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.rule_peer_identity(caller.dialect))

    async def denylist(self, scope: Scope, _: Receive, send: Send, _caller: Caller) -> None:
        """The banned networks as text, each with its reason, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.ip_denylist, _TEXT)

    async def allowlist(self, scope: Scope, _: Receive, send: Send, _caller: Caller) -> None:
        """The excepted networks as text, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.ip_allowlist, _TEXT)

    async def _document(self, scope: Scope, send: Send, document: Document, media_type: str = JSON) -> None:
        version = (b"x-btn-contentversion", document.version.encode())
        if query_value(scope, "rev") == document.version:
            await answer(send, 204, b"", [version, _NO_STORE])
            return
        chosen = choose(scope, Ready(media_type, *document))
        await answer(send, chosen.status, chosen.body, [*chosen.headers, version, _REVALIDATE])

    async def heartbeat(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """The address that this request came from; what the client believes of itself (`ifaddr`) doesn't count."""
        body = await self._read_body(scope, receive, caller, _SMALL_BODY, 10)
        self._runtime.ingest.room.give(len(body))
        text = "" if caller.address is None else net.address_text(caller.address)
        await self._json(send, answers.Heartbeat(text))

    async def challenge(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """A proof of work to do before a request of the ability `type`."""
        wanted = self._runtime.config.btn.proof_of_work
        kind = query_value(scope, "type")
        made = self._runtime.proof_of_work.challenge(
            caller.userapp.id, kind, wanted.difficulty_bits, int(wanted.lifetime), keep=not is_head(scope)
        )
        await self._json(send, made)

    async def query_ip(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """What this network knows of one address."""
        await self._json(send, await self._report(scope, caller))

    async def widget(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The same as a small page that PeerBanHelper's interface embeds."""
        page = widget.render(query_value(scope, "ip"), await self._report(scope, caller))
        await answer(send, 200, page, widget.HEADERS)

    async def _report(self, scope: Scope, caller: Caller) -> answers.IpQuery:
        wait = self._queries.take(caller.userapp.id, now_ms())
        if wait:
            raise _too_many(wait)
        try:
            address = net.address_bytes(query_value(scope, "ip"))
        except net.AddressError as error:
            raise SparkleError("bad_request", f"'ip' must be one address: {error}.", "ip 必须是单个地址。") from None
        return await self._runtime.ip_report(address)

    async def _json(self, send: Send, body: object) -> None:
        await answer(send, 200, msgspec.json.encode(body), [_JSON, _NO_STORE])


async def _spend(proof: Proof, scope: Scope, body: bytes) -> None:
    """Use a proof of work for a request: its target and its body. Raises SparkleError("forbidden")."""
    digest = hashlib.sha256(b"%b?%b\n" % (scope["path"].encode(), scope["query_string"]))
    if len(body) > _HASHED_AT_ONCE:
        await asyncio.to_thread(digest.update, body)
    else:
        digest.update(body)
    proof.spend(digest.digest())


def _offers(abilities: Abilities) -> dict[str, AbilityOffer]:
    result = {}
    for name in Abilities.__struct_fields__:
        ability = getattr(abilities, name)
        if ability.enabled:
            result[name] = AbilityOffer(int(ability.interval), int(ability.random_initial_delay))
    return result


def _too_many(seconds: int) -> SparkleError:
    return SparkleError(
        "too_many",
        f"Too many requests; try again in {seconds} s.",
        f"请求过于频繁，请在 {seconds} 秒后重试。",
        retry_after=seconds,
    )
