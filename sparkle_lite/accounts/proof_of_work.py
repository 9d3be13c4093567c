"""Proof of work: challenges for one application and one ability, each good for one request and for a short while.

They live in memory: after a restart a client is refused once and solves a new one at its next interval.

A solution is checked before the body is read, so that what is wrong costs one hash; what it was good for is known only
afterwards, and from then on it opens the door to that one request alone. That it does so again has a reason: where an
answer is lost, a client's HTTP library sends the same request with the same proof again at once, unknown to the client.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

from sparkle_lite.errors import SparkleError
from sparkle_lite.units import MINUTE_MS
from sparkle_lite.wire.answers import Challenge

# What PeerBanHelper asks challenges for; those that we ask proofs of are called like their abilities.
KNOWN_TYPES = frozenset(
    {
        "heartbeat",
        "ip_allowlist",
        "ip_denylist",
        "ip_query",
        "rule_peer_identity",
        "submit_bans",
        "submit_history",
        "submit_swarm",
    }
)

# A client solves a challenge for each page that it sends, one after the other.
PER_USERAPP = 64
_SESSIONS = 20_000

# How long (ms) a used proof is good for its request again, and for how many requests in all: for one lost answer up to
# six repetitions were seen.
REPEAT_MS = 5 * MINUTE_MS
USES = 16


class _Session(NamedTuple):
    userapp: int
    type: str
    challenge: bytes
    bits: int
    expires_at: int


class Proof:
    """A solved challenge: good for one request, and for that one again until `expires_at`."""

    __slots__ = ("_request", "_session", "expires_at", "uses")

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._request: bytes | None = None
        self.expires_at = session.expires_at
        self.uses = 0

    def is_right(self, userapp: int, ability: str, solution: str) -> bool:
        """Whether this is a solution of the challenge, which was made for this application and ability."""
        session = self._session
        meant = session.userapp == userapp and session.type == ability
        return meant and is_solution(session.challenge, session.bits, solution)

    def spend(self, request: bytes) -> None:
        """Use the proof for the request with this digest. Raises SparkleError("forbidden") if it served another."""
        if self._request is None:
            self._request = request
        elif self._request != request:
            raise _refusal()


class ProofOfWork:
    """The challenges of one server."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._open: dict[int, int] = {}
        # By application; who used a proof last comes last, and so does its last proof.
        self._used: dict[int, dict[str, Proof]] = {}
        self._used_count = 0

    def challenge(self, userapp: int, kind: str, bits: int, lifetime_ms: int, *, keep: bool = True) -> Challenge:
        """A new challenge, which can be solved unless `keep` is False.

        Raises SparkleError for an unknown type, or when too many wait to be solved.
        """
        if kind not in KNOWN_TYPES:
            raise SparkleError("bad_request", "proof.bad_type")
        now = self._clock()
        self._forget_expired(now)
        if self._open.get(userapp, 0) >= PER_USERAPP or len(self._sessions) >= _SESSIONS:
            raise SparkleError("too_many", "proof.too_many", retry_after=max(1, lifetime_ms // 1000))
        number, text = secrets.token_urlsafe(16), secrets.token_bytes(16)
        if keep:
            self._sessions[number] = _Session(userapp, kind, text, bits, now + lifetime_ms)
            self._open[userapp] = self._open.get(userapp, 0) + 1
        return Challenge(number, base64.b64encode(text).decode(), bits, "SHA-256", now + lifetime_ms)

    def _forget_expired(self, now: int) -> None:
        # Challenges expire in the order in which they were made, as long as the lifetime isn't changed.
        while self._sessions:
            number = next(iter(self._sessions))
            if self._sessions[number].expires_at > now:
                return
            self._take(number)

    def _take(self, number: str) -> _Session | None:
        session = self._sessions.pop(number, None)
        if session is not None:
            left = self._open[session.userapp] - 1
            if left:
                self._open[session.userapp] = left
            else:
                del self._open[session.userapp]
        return session

    def check(self, userapp: int, ability: str, number: str, solution: str) -> Proof:
        """The proof that a solution is, without using anything up.

        Raises SparkleError("forbidden") unless it is right, and meant for this use.
        """
        session = self._sessions.get(number)
        proof = self._used.get(userapp, {}).get(number) if session is None else Proof(session)
        is_good = proof is not None and proof.expires_at > self._clock() and proof.uses < USES
        if proof is None or not is_good or not proof.is_right(userapp, ability, solution):
            raise _refusal()
        return proof

    def verify(self, userapp: int, ability: str, number: str, solution: str) -> Proof:
        """The same, and the challenge is used up, by a wrong solution too; the proof is to be spent on the request."""
        try:
            proof = self.check(userapp, ability, number, solution)
        finally:
            session = self._take(number)
        if session is not None:
            proof.expires_at = self._clock() + REPEAT_MS
            self._remember(userapp, number, proof)
        proof.uses += 1
        return proof

    def _remember(self, userapp: int, number: str, proof: Proof) -> None:
        mine = self._used.pop(userapp, {})
        self._used[userapp] = mine
        mine[number] = proof
        self._used_count += 1
        if len(mine) > PER_USERAPP:
            del mine[next(iter(mine))]
            self._used_count -= 1
        self._forget_used()

    def _forget_used(self) -> None:
        """Let go of applications whose last proof is over, and beyond the limit of those that were quiet longest."""
        now = self._clock()
        while self._used:
            userapp, proofs = next(iter(self._used.items()))
            if next(reversed(proofs.values())).expires_at > now and self._used_count <= _SESSIONS:
                return
            del self._used[userapp]
            self._used_count -= len(proofs)


def _refusal() -> SparkleError:
    return SparkleError("forbidden", "proof.missing")


def is_solution(challenge: bytes, bits: int, solution: str) -> bool:
    """Whether the Base64 of 8 bytes makes SHA-256(challenge + bytes) begin with that many zero bits (from the MSB)."""
    try:
        nonce = base64.b64decode(solution[:16], validate=True)
    except (binascii.Error, ValueError):
        return False
    digest = hashlib.sha256(challenge + nonce).digest()
    return len(nonce) == 8 and int.from_bytes(digest, "big") >> (256 - bits) == 0
