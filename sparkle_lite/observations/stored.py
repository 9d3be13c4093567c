"""What was stored, as pages and the REST API ask for it: the store's records and questions, and nothing of its SQL."""

from sparkle_lite.db import timeline
from sparkle_lite.db.conditions import Filter as Filter
from sparkle_lite.db.conditions import Query as Query
from sparkle_lite.db.conditions import Table as Table
from sparkle_lite.db.database import Database
from sparkle_lite.db.orders import Position as Position
from sparkle_lite.db.overview import BANS as BANS
from sparkle_lite.db.overview import REPORTED_DAYS as REPORTED_DAYS
from sparkle_lite.db.overview import SPANS as SPANS
from sparkle_lite.db.overview import Helped as Helped
from sparkle_lite.db.overview import Reported as Reported
from sparkle_lite.db.overview import Series as Series
from sparkle_lite.db.search import Discoveries as Discoveries
from sparkle_lite.db.search import Page as Page
from sparkle_lite.db.timeline import BanDay as BanDay
from sparkle_lite.db.torrents import Ask as Ask
from sparkle_lite.db.torrents import TorrentFilter as TorrentFilter
from sparkle_lite.db.torrents import TorrentMethod as TorrentMethod
from sparkle_lite.db.torrents import TorrentRow as TorrentRow
from sparkle_lite.db.torrents import count_torrents as count_torrents
from sparkle_lite.db.torrents import find_torrents as find_torrents


async def ban_days(database: Database, address: bytes, since_ms: int) -> list[BanDay]:
    """The days on which an address was banned, ascending."""
    async with database.reader() as reader:
        return await timeline.ban_days(reader, address, since_ms)
