"""Numbers that stand for what rows are known by."""

import hashlib
from collections.abc import Iterable


def stable_number(parts: Iterable[object]) -> int:
    """A signed 64-bit number of some values: the same on every machine and after every restart.

    Schema files call it by this name too, with the values as arguments, so what it gives for values that are stored may
    never change.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
