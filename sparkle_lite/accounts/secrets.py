"""Secrets, of which only hashes are kept."""

import hashlib
import secrets

# No secret has this hash: what an unknown id is compared with, so that it takes as long as a known one.
DUMMY_HASH = bytes(32)


def hash_secret(text: str) -> bytes:
    """The SHA-256 of a secret: nothing slower is needed for 256 random bits."""
    return hashlib.sha256(text.encode()).digest()


def new_secret() -> str:
    """256 random bits as 43 characters of A-Z, a-z, 0-9, "_" and "-"."""
    return secrets.token_urlsafe(32)
