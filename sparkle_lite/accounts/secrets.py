"""Secrets, of which only hashes are kept."""

import base64
import hashlib
import hmac
import secrets
import uuid
from typing import NamedTuple

# No secret has this hash: what an unknown id is compared with, so that it takes as long as a known one.
DUMMY_HASH = bytes(32)
# What a feed key begins with: the log masks whatever looks like one.
FEED_KEY_PREFIX = "slf_"
# So much of a hash tells secrets of one application apart.
REPLACED_BYTES = 8


def hash_secret(text: str) -> bytes:
    """The SHA-256 of a secret: nothing slower is needed for 256 random bits."""
    return hashlib.sha256(text.encode()).digest()


def new_secret() -> str:
    """256 random bits as 43 characters of A-Z, a-z, 0-9, "_" and "-"."""
    return secrets.token_urlsafe(32)


class Credentials(NamedTuple):
    """The public id of an application and its secret."""

    app_id: str
    secret: str


class Once(NamedTuple):
    """A request that may come again and then gives the same again: what it makes is derived from `seed`, 256 bits.

    `replaces` is the beginning of the hash of the secret that is to be replaced.
    """

    seed: bytes
    replaces: bytes = b""

    def credentials(self, about: str) -> Credentials:
        """Credentials that this request, and no other, makes of `about`."""
        made = hmac.digest(self.seed, about.encode(), "sha512")
        secret = base64.urlsafe_b64encode(made[:32]).rstrip(b"=").decode()
        return Credentials(str(uuid.UUID(bytes=made[32:48], version=4)), secret)


def new_credentials() -> Credentials:
    """Credentials that nobody has had before."""
    return Credentials(str(uuid.uuid4()), new_secret())
