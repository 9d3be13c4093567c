"""The decisions in force, as the documents show them."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from sparkle_lite.clock import date
from sparkle_lite.db import decisions as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.net import Network
from sparkle_lite.rules.reasons import reason
from sparkle_lite.rules.rendering import Listing
from sparkle_lite.texts import ENGLISH
from sparkle_lite.wire.matchers import parse


class InForce:
    """The decisions in force as the documents show them; what stands from one reading to the next is rendered once.

    A decision is never rewritten, so what it was rendered as holds.
    """

    def __init__(self) -> None:
        self._rendered: dict[int, tuple[bool, Listing]] = {}

    async def read(self, connection: Connection, now_ms: int) -> tuple[list[Listing], list[Listing]]:
        """The denied and the allowed, newest first."""
        ids = await store.served_ids(connection, now_ms)
        rows = await store.served(connection, [decision_id for decision_id in ids if decision_id not in self._rendered])
        return await asyncio.to_thread(self._update, ids, rows)

    def _update(self, ids: Sequence[int], rows: Iterable[tuple[Any, ...]]) -> tuple[list[Listing], list[Listing]]:
        self._rendered |= self._render(rows)
        self._rendered = {decision_id: self._rendered[decision_id] for decision_id in ids}
        denied = [listing for is_allowed, listing in self._rendered.values() if not is_allowed]
        allowed = [listing for is_allowed, listing in self._rendered.values() if is_allowed]
        return denied, allowed

    def _render(self, rows: Iterable[tuple[Any, ...]]) -> dict[int, tuple[bool, Listing]]:
        matcher = lru_cache(4096)(parse)

        @lru_cache(65_536)
        def why(code: str, numbers: str) -> str:
            return reason(code, msgspec.json.decode(numbers)).text(ENGLISH)

        rendered = {}
        for decision_id, kind, address, prefix, text, action, category, code, numbers, expires in rows:
            target = matcher(text) if address is None else Network(address, prefix)
            listing = Listing(kind, target, category, why(code, numbers) + _ending(expires), expires)
            rendered[decision_id] = action == "allow", listing
        return rendered


def _ending(expires: int | None) -> str:
    return "" if expires is None else f"; until {date(expires)}"
