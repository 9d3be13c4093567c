"""What the first page tells of the store, read from real files by a clock that the test turns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reports import DAY, HOUR, NOW, World

from sparkle_lite.db import segments
from sparkle_lite.db.overview import Overview, Series


@asynccontextmanager
async def overview_of(world: World, now: int = NOW) -> AsyncIterator[Overview]:
    """The overview of a database that is open."""
    database = world.database
    await database.open()
    streams = database.streams()
    for stream in streams.values():
        await stream.open(database.main, now)
    overview = Overview(database, streams, lambda: now, nobody="anonymous")
    try:
        yield overview
    finally:
        await overview.close()
        for stream in streams.values():
            await stream.close()
        await database.close()


def sums(series: Series) -> tuple[int, int, int]:
    return sum(series.rows["snapshot"]), sum(series.rows["ban"]), sum(series.submissions)


async def test_hours_that_were_recorded_outlive_the_observations(world: World) -> None:
    friend = world.friends(1)[0]
    for days in range(3):
        friend.snapshot("203.0.113.1", to=1, ago=days * DAY + 2 * HOUR)
        friend.ban("203.0.113.1", ago=days * DAY + 2 * HOUR)
    await world.close_segments()

    async with overview_of(world) as overview:
        assert sums(await overview.activity("week")) == (3, 3, 6)
        await overview.record()
        assert sums(await overview.activity("week")) == (3, 3, 6)
    async with overview_of(world) as overview:
        database = world.database
        async with database.reader() as reader:
            old = await segments.catalogue(reader, "state<>'hot'")
        await database.write(lambda main: segments.forget(main, old))
        segments.unlink(database.segment_folder, old)
        assert sums(await overview.activity("week")) == (3, 3, 6)
    async with overview_of(world, NOW + 200 * DAY) as overview:
        year = await overview.activity("year")
    assert sums(year) == (3, 3, 6)
    assert len(year.times) == len(year.submissions) == len(year.rows["swarm"]) == 53


async def test_an_hour_is_counted_once_however_often_it_is_recorded(world: World) -> None:
    friend = world.friends(1)[0]
    friend.snapshot("203.0.113.1", to=1, ago=5 * HOUR)
    friend.snapshot("203.0.113.1", to=1, ago=0)

    async with overview_of(world) as overview:
        await overview.record()
        await overview.record()
        series = await overview.activity("week")
    assert series.rows["snapshot"][-1] + series.rows["snapshot"][-2] == 1
    assert sums(series) == (2, 0, 2)
    assert series.times[-1] * 1000 <= NOW < (series.times[-1] + 2 * 3600) * 1000


async def test_who_comes_without_an_account_is_no_member(world: World) -> None:
    world.friends(2)
    world.app(world.person("anonymous", by="self"))
    async with overview_of(world) as overview:
        figures = await overview.figures()
    assert (figures.people, figures.apps) == (2, 3)


async def test_a_torrent_of_two_sizes_or_byte_orders_is_one(world: World) -> None:
    for name in ("debian", "fedora", "arch"):
        world.torrent(name)
    world.torrent("debian", size=5)
    for name in ("debian", "fedora"):
        world.torrent(name, big_endian=1)
    world.torrent("7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c")
    async with overview_of(world) as overview:
        assert (await overview.figures()).torrents == 3


async def test_the_weeks_bans_are_broken_down(world: World) -> None:
    one, two = world.friends(2)
    for number in range(5):
        one.ban(f"203.0.113.{number}", module="a.Cheats", client=world.client("-XL0019-", "Xunlei"))
    two.ban("203.0.113.9", module="b.Names", client=world.client("-HP0001-", "HP"))
    two.ban("2001:db8:1:2::3", module="b.Names", client=world.client("-HP0001-", "HP"))
    two.ban("198.51.100.1", module="c.Old", ago=8 * DAY)
    async with overview_of(world) as overview:
        figures = await overview.figures()
    assert [tuple(share) for share in figures.modules] == [("a.Cheats", 5, 1), ("b.Names", 2, 1)]
    assert [tuple(share) for share in figures.networks] == [("203.0.113.0/24", 6, 2), ("2001:db8:1::/48", 1, 1)]
    assert [tuple(share) for share in figures.clients] == [("Xunlei", 5, 1), ("HP", 2, 1)]
    assert (figures.bans, figures.counted, figures.people, figures.apps) == (8, 7, 2, 2)


async def test_what_an_application_sent_within_a_day_is_told_by_kind(world: World) -> None:
    one, two = world.friends(2)
    one.snapshot("203.0.113.1", to=1)
    one.ban("203.0.113.1")
    one.snapshot("203.0.113.1", to=1, ago=2 * DAY)
    two.swarm("203.0.113.1", to=1, ago=3 * DAY)
    async with overview_of(world) as overview:
        sent = await overview.sent()
    assert {kind: what.rows for kind, what in sent[one.app].items()} == {"snapshot": 1, "ban": 1}
    assert sent[one.app]["ban"].last_at == NOW - HOUR
    assert two.app not in sent
