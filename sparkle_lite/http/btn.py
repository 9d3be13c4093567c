"""The BTN client protocol over HTTP: each ability is one handler, called by every client in its own dialect.

These routes are plain ASGI handlers: a submission costs a third of what a framework handler would, and nothing reads
a body before its sender is known.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from litestar.handlers import ASGIRouteHandler, asgi

from sparkle_lite import net
from sparkle_lite.accounts import Userapp
from sparkle_lite.config import Abilities
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import internal, problem
from sparkle_lite.http.requests import (
    Receive,
    Scope,
    Send,
    answer,
    base_url,
    client_address,
    header,
    query_value,
    read_body,
)
from sparkle_lite.runtime import Runtime
from sparkle_lite.wire.credentials import present
from sparkle_lite.wire.dialect import AbilityOffer, ConfigDocument, Dialect, config_document, detect
from sparkle_lite.wire.documents import Document

# Documents kept ready: one for each dialect and each URL under which the server is reached.
_CONFIG_DOCUMENTS = 512
_JSON = (b"content-type", b"application/json; charset=utf-8")
_NO_STORE = (b"cache-control", b"no-store")


class Caller(NamedTuple):
    """Who asks: the application, the address as 4 or 16 bytes (None if unknown), and its dialect."""

    userapp: Userapp
    address: bytes | None
    dialect: Dialect


# What a refused request is called in the audit.
_ACTIONS = {
    "/ping/config": "BTN_CONFIG",
    "/ping/reconfigure": "BTN_CONFIG",
    "/ping/rules/retrieve": "BTN_RULES_RETRIEVE",
    "/ping/exception": "BTN_RULES_RETRIEVE",
    "/ping/peers/submit": "BTN_PEERS_SUBMIT",
    "/ping/bans/submit": "BTN_BANS_SUBMIT",
    "/ping/histories/submit": "BTN_HISTORY_SUBMIT",
}

Handler = Callable[[Scope, Receive, Send, Caller], Awaitable[None]]


class Btn:
    """The handlers of one server."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._documents: dict[tuple[Dialect, str], ConfigDocument] = {}
        self._documents_of: object = None

    def routes(self) -> list[ASGIRouteHandler]:
        """The fixed paths of the protocol."""
        submit = self._route(self.submit, "POST", "GET")
        return [
            asgi("/ping/config", copy_scope=False)(self._route(self.config, "GET")),
            asgi("/ping/reconfigure", copy_scope=False)(self._route(self.reconfigure, "GET")),
            asgi("/ping/rules/retrieve", copy_scope=False)(self._route(self.rules, "GET")),
            asgi("/ping/exception", copy_scope=False)(self._route(self.exception, "GET")),
            # The published API documents submissions as GET with a body; every client sends POST.
            asgi(["/ping/peers/submit", "/ping/bans/submit", "/ping/histories/submit"], copy_scope=False)(submit),
        ]

    def _route(self, handler: Handler, *methods: str) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            method = scope["method"]
            try:
                if method not in methods and not (method == "HEAD" and "POST" not in methods):
                    allowed = ", ".join(methods)
                    raise SparkleError(
                        "method_not_allowed", f"Use {allowed} here, not {method[:16]}.", f"此处请使用 {allowed}。"
                    )
                await handler(scope, receive, send, await self._caller(scope))
            except SparkleError as error:
                status, headers, body = problem(error)
                await answer(send, status, body, headers, head=method == "HEAD")

        return route

    async def _caller(self, scope: Scope) -> Caller:
        runtime = self._runtime
        text = client_address(scope, runtime.config.server.trusted_proxies)
        presented = present(scope["headers"])
        agent = header(scope, b"user-agent")
        try:
            userapp = runtime.accounts.known(presented) or await runtime.accounts.authenticate(presented, text)
        except SparkleError as error:
            if error.code == "forbidden":
                await runtime.accounts.note_refusal(_ACTIONS[scope["path"]], presented, text, agent, error)
            raise
        dialect = detect(agent)
        scope["state"]["app_id"] = userapp.app_id
        try:
            address = net.address_bytes(text)
        except net.AddressError:
            return Caller(userapp, None, dialect)
        if runtime.accounts.saw(userapp, address, agent):
            await runtime.saw_address(address)
        return Caller(userapp, address, dialect)

    async def submit(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """Store a body of any shape; 200 with an empty body once it is committed."""
        limits, ingest = self._runtime.config.limits, self._runtime.ingest
        body = await read_body(scope, receive, ingest.room, limits.max_body_size, limits.body_timeout / 1000)
        try:
            encoding = header(scope, b"content-encoding")
            outcome = await ingest.submit(caller.userapp.id, caller.address, body, encoding, caller.dialect)
        except SparkleError:
            raise
        except Exception as error:
            raise internal() from error
        finally:
            ingest.room.give(len(body))
        await answer(send, 200, b"", [(b"x-sparkle-rejected", b"%d" % outcome.rejected), _NO_STORE])

    def _config_document(self, scope: Scope, dialect: Dialect) -> ConfigDocument:
        config = self._runtime.config
        if dialect.outdated:
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
            document = config_document(
                dialect, _offers(config.btn.abilities), key[1], prefer_legacy=config.btn.prefer_legacy
            )
            self._documents[key] = document
        return document

    async def config(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The configuration document for whoever asks."""
        document = self._config_document(scope, caller.dialect)
        await answer(send, 200, document.body, [_JSON, _NO_STORE], head=scope["method"] == "HEAD")

    async def reconfigure(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """204 while the configuration document is the one with this `rev` (qBittorrent-ClientBlocker asks)."""
        document = self._config_document(scope, caller.dialect)
        unchanged = query_value(scope, b"rev") == document.version
        await answer(send, 204 if unchanged else 200, b"", [_NO_STORE])

    async def rules(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The rules, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.rules(caller.dialect))

    async def exception(self, scope: Scope, _: Receive, send: Send, caller: Caller) -> None:
        """The exceptions, or 204 when the client has them."""
        await self._document(scope, send, self._runtime.published.exception(caller.dialect))

    async def _document(self, scope: Scope, send: Send, document: Document) -> None:
        version = (b"x-btn-contentversion", document.version.encode())
        if query_value(scope, b"rev") == document.version:
            await answer(send, 204, b"", [version, _NO_STORE])
            return
        headers = [_JSON, version, _NO_STORE, (b"vary", b"accept-encoding")]
        body = document.body
        if "gzip" in header(scope, b"accept-encoding").lower():
            headers.append((b"content-encoding", b"gzip"))
            body = document.gzip
        await answer(send, 200, body, headers, head=scope["method"] == "HEAD")


def _offers(abilities: Abilities) -> dict[str, AbilityOffer]:
    result = {}
    for name in Abilities.__struct_fields__:
        ability = getattr(abilities, name)
        if ability.enabled:
            result[name] = AbilityOffer(int(ability.interval), int(ability.random_initial_delay))
    return result
