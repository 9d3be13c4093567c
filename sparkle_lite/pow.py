"""Proof of work: challenges for one application and one ability, each good once and for a short while.

They live in memory: after a restart a client is refused once and solves a new one at its next interval.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

from sparkle_lite.errors import SparkleError
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


class _Session(NamedTuple):
    userapp: int
    type: str
    challenge: bytes
    bits: int
    expires_at: int


class ProofOfWork:
    """The challenges of one server."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._open: dict[int, int] = {}

    def challenge(self, userapp: int, kind: str, bits: int, lifetime_ms: int) -> Challenge:
        """A new challenge. Raises SparkleError for an unknown type, or when too many wait to be solved."""
        if kind not in KNOWN_TYPES:
            raise SparkleError(
                "bad_request", "'type' must name an ability of protocol 20.", "type 必须是协议 20 的功能名称。"
            )
        now = self._clock()
        self._forget_expired(now)
        if self._open.get(userapp, 0) >= PER_USERAPP or len(self._sessions) >= _SESSIONS:
            raise SparkleError(
                "too_many",
                "Too many challenges are waiting to be solved.",
                "未完成的工作量证明过多，请稍后再试。",
                retry_after=max(1, lifetime_ms // 1000),
            )
        number, text = secrets.token_urlsafe(16), secrets.token_bytes(16)
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

    def verify(self, userapp: int, ability: str, number: str, solution: str) -> None:
        """Use up a challenge. Raises SparkleError("forbidden") unless it is solved, and meant for this use."""
        session = self._take(number)
        meant = (
            session is not None
            and session.userapp == userapp
            and session.type == ability
            and session.expires_at > self._clock()
        )
        if session is None or not meant or not is_solution(session.challenge, session.bits, solution):
            raise SparkleError(
                "forbidden",
                "This request needs a solved proof of work; ask for a challenge and send its solution.",
                "此请求需要有效的工作量证明，请先获取并完成质询。",
            )


def is_solution(challenge: bytes, bits: int, solution: str) -> bool:
    """Whether the Base64 of 8 bytes makes SHA-256(challenge + bytes) begin with that many zero bits (from the MSB)."""
    try:
        nonce = base64.b64decode(solution, validate=True)
    except (binascii.Error, ValueError):
        return False
    digest = hashlib.sha256(challenge + nonce).digest()
    return len(nonce) == 8 and int.from_bytes(digest, "big") >> (256 - bits) == 0
