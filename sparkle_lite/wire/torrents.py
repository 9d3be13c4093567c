"""Torrent identifiers: what clients send instead of an info-hash, so that nobody learns what is being shared."""

import base64
import hashlib
import re
import zlib

from sparkle_lite.errors import SparkleError

_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BASE32 = re.compile(r"[a-z2-7]{32}")


def torrent_identifier(info_hash: str) -> str:
    """The identifier of an info-hash in hex: 64 hex digits.

    SHA-256 of the lower-case hash and a salt, the CRC-32 of the same in hex. The salt's bytes stand little-endian, as
    PeerBanHelper's InfoHashUtil prints them; qBittorrent-ClientBlocker turns them round and gets another identifier.
    """
    lower = info_hash.lower()
    salt = zlib.crc32(lower.encode()).to_bytes(4, "little").hex()
    return hashlib.sha256((lower + salt).encode()).hexdigest()


def parse_info_hash(text: str) -> str:
    """An info-hash as lower-case hex: 40 or 64 hex digits, or the 32 letters and digits of older magnet links.

    Raises SparkleError: bad_request.
    """
    lower = text.strip().lower()
    if _HEX.fullmatch(lower):
        return lower
    if _BASE32.fullmatch(lower):
        return base64.b32decode(lower, casefold=True).hex()
    raise SparkleError("bad_request", "request.bad_hash")
