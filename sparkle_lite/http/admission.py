"""Who of the BTN clients is let in: credentials, how many requests they may send, and proofs of work."""

import asyncio
import hashlib
from typing import NamedTuple

from sparkle_lite import net
from sparkle_lite.accounts.proof_of_work import Proof
from sparkle_lite.accounts.registry import Userapp
from sparkle_lite.clock import now_ms
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.requests import Scope, client_address, header
from sparkle_lite.rate_limits import Buckets, client_key
from sparkle_lite.server import Server
from sparkle_lite.units import KIB
from sparkle_lite.wire.credentials import Presented, present
from sparkle_lite.wire.dialect import Dialect, detect

# How many applications' worth of requests one address may send: a household, an office, a seedbox host.
_SHARED = 8
_QUERIES_PER_MINUTE = 30
# Hashing more than this would be felt by others.
_HASHED_AT_ONCE = 256 * KIB
# What is looked at of a program's name, and kept for the next time.
_AGENT_LENGTH = 1024


class Caller(NamedTuple):
    """Who asks: the application, the address as 4 or 16 bytes (None if unknown), its dialect, and its proof of work."""

    userapp: Userapp
    address: bytes | None
    dialect: Dialect
    proof: Proof | None = None


class Admission:
    """The door of one server, with what it remembers of who came lately."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rate = 0
        self._by_userapp = self._by_address = Buckets(burst=0, per_minute=0)
        self._queries = Buckets(burst=_QUERIES_PER_MINUTE, per_minute=_QUERIES_PER_MINUTE)

    async def admit(
        self, scope: Scope, action: str, *, ability: str = "", by_query: bool = False, by_basic: bool = False
    ) -> Caller:
        """Let a request in, before its body is read; nothing is noted of who sends a HEAD.

        `action` is what the audit calls a refused one, `ability` what a proof of work is asked for; with `by_query`
        credentials may stand in the URL, with `by_basic` as HTTP Basic. Raises SparkleError: forbidden, too_many.
        """
        server = self._server
        text = client_address(scope, server.config.server.trusted_proxies)
        scope["state"]["client"] = text
        agent = header(scope, b"user-agent")[:_AGENT_LENGTH]
        presented = present(scope["headers"], scope["query_string"] if by_query else b"", basic=by_basic)
        userapp = await self._userapp(scope, action, text, presented)
        self._limit(userapp, text)
        scope["state"]["app_id"] = userapp.app_id
        try:
            address = net.address_bytes(text)
        except net.AddressError:
            address = None
        if address and not is_head(scope) and server.registry.record_visit(userapp, address, agent):
            await server.publisher.spare(address)
        caller = Caller(userapp, address, detect(agent))
        return caller._replace(proof=self._proof(scope, caller, ability)) if ability else caller

    async def _userapp(self, scope: Scope, action: str, address: str, presented: Presented) -> Userapp:
        registry = self._server.registry
        try:
            return registry.known(presented) or await registry.authenticate(
                presented, address, register=not is_head(scope)
            )
        except SparkleError as error:
            if error.code == "forbidden":
                await registry.note_refusal(action, presented, address, header(scope, b"user-agent"), error)
            raise

    def _limit(self, userapp: Userapp, address: str) -> None:
        rate = self._server.config.limits.requests_per_minute
        if rate != self._rate:
            # A minute's worth at once: PeerBanHelper sends its whole history page after page on first contact.
            self._rate, self._by_userapp = rate, Buckets(burst=rate, per_minute=rate)
            self._by_address = Buckets(burst=_SHARED * rate, per_minute=_SHARED * rate)
        if not rate:
            return
        now = now_ms()
        limits = ((self._by_userapp, userapp.id, rate), (self._by_address, client_key(address), _SHARED * rate))
        for buckets, key, per_minute in limits:
            if wait := buckets.take(key, now):
                self._server.troubles.limited(userapp, per_minute)
                _refuse_until(wait)

    def limit_query(self, caller: Caller) -> None:
        """Count a question about an address. Raises SparkleError (too_many) beyond thirty a minute."""
        _refuse_until(self._queries.take(caller.userapp.id, now_ms()))

    def _proof(self, scope: Scope, caller: Caller, ability: str) -> Proof | None:
        """The proof of work of a request, None where none is wanted. Raises SparkleError("forbidden")."""
        btn = self._server.config.btn
        if ability not in btn.proof_of_work.abilities or not caller.dialect.spoken(btn.prefer_legacy).solves:
            return None
        proof_id, solution = header(scope, b"x-btn-powid"), header(scope, b"x-btn-powsolution")
        if is_head(scope):
            self._server.proof_of_work.check(caller.userapp.id, ability, proof_id, solution)
            return None
        return self._server.proof_of_work.verify(caller.userapp.id, ability, proof_id, solution)


async def spend_proof(scope: Scope, caller: Caller, body: bytes) -> None:
    """Use the proof of work of a request, if it needs one, for its target and its body.

    Raises SparkleError("forbidden") for one that was used for another request.
    """
    if caller.proof is None:
        return
    digest = hashlib.sha256(b"%b?%b\n" % (scope["path"].encode(), scope["query_string"]))
    if len(body) > _HASHED_AT_ONCE:
        await asyncio.to_thread(digest.update, body)
    else:
        digest.update(body)
    caller.proof.spend(digest.digest())


def _refuse_until(seconds: int) -> None:
    if seconds:
        raise SparkleError("too_many", "request.too_many", seconds=seconds, retry_after=seconds)
