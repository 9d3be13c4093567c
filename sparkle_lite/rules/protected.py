"""Which addresses are this machine's, and which members' clients came from lately: collected here.

guard.py judges by them what may be listed, rendering.py cuts them out of what is published. Protection is earned: a
client that anybody can have for nothing (anonymous, or of an account that was registered a moment ago) protects nobody,
nor does one that was banned or deleted.
"""

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from sparkle_lite import net
from sparkle_lite.accounts.registry import ANONYMOUS
from sparkle_lite.config import AnalysisSection, Config
from sparkle_lite.db import accounts as account_rows
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence.workspace import Evidence, Trust, gather

# How long looking at the accounts may take.
_ACCOUNTS_S = 120.0


class Protected:
    """The addresses that one server or command protects; `own` are this machine's, as 4 or 16 bytes."""

    def __init__(self, own: set[bytes]) -> None:
        self.own = own
        # Users (row ids) who registered themselves and are known by now.
        self.earned: frozenset[int] = frozenset()

    async def look_up(self, config: Config) -> None:
        """Take up this machine's addresses as they are now."""
        self.own = await asyncio.to_thread(own_addresses, config)

    async def members(self, connection: Connection, now_ms: int) -> set[bytes]:
        """The addresses of members' clients seen in the last 14 days."""
        return await account_rows.member_addresses(connection, now_ms, self.earned)

    async def look_at_accounts(self, database: Database, settings: AnalysisSection, now_ms: int) -> bool:
        """Find out who of those that registered themselves is known by now; whether that has changed.

        Costs a look at all segments where there are any such. Raises SparkleError where that takes too long.
        """
        trust = Trust(settings.account_age, settings.active_days, account_rows.name_key(ANONYMOUS))
        before, self.earned = self.earned, await gather(database, trust, now_ms, Evidence.grown, _ACCOUNTS_S)
        return before != self.earned

    async def addresses(self, connection: Connection, now_ms: int) -> set[bytes]:
        """All of them."""
        return self.own | await self.members(connection, now_ms)


def own_addresses(config: Config) -> set[bytes]:
    """Addresses of this machine, as far as the system tells without sending anything."""
    names: set[str] = {config.server.host}
    if config.server.public_url:
        names.add(urlsplit(config.server.public_url).hostname or "")
    with suppress(OSError):
        names |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Connecting a datagram socket sends nothing; it only makes the system choose the source address.
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            names.add(probe.getsockname()[0])
    addresses = set()
    for text in names:
        with suppress(net.AddressError):
            addresses.add(net.address_bytes(text))
    return {address for address in addresses if any(address)}
