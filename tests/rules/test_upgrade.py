"""A database from before words counted is upgraded: who has a word at once, and what stays readable."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from sparkle_lite.db import accounts, decisions
from sparkle_lite.db.connection import fetch_all, schema, statements
from sparkle_lite.db.database import Database
from sparkle_lite.db.keys import stable_number
from sparkle_lite.net import address_bytes

NOW, DAY = 1_800_000_000_000, 86_400_000
BEFORE = 12


def old_database(path: Path, origins: Sequence[str]) -> None:
    """What the version before words made: four people, a ban of each kind, one decision of each origin."""
    with closing(sqlite3.connect(path, isolation_level=None)) as main:
        main.create_function(stable_number.__name__, -1, lambda *parts: stable_number(parts), deterministic=True)
        for number in range(1, BEFORE + 1):
            for statement in statements(schema(f"main_{number:04}.sql")):
                main.execute(statement)
        main.execute(f"PRAGMA user_version={BEFORE}")
        for user, (role, by) in enumerate(
            (("admin", "admin"), ("user", "admin"), ("user", "self"), ("admin", "self")), 1
        ):
            main.execute(
                "INSERT INTO user (id, name, name_key, role, registered_by, registered_at) VALUES (?,?,?,?,?,?)",
                (user, f"u{user}", f"u{user}", role, by, NOW - user * DAY),
            )
        main.execute(
            "INSERT INTO userapp (id, app_id, secret_hash, user, comment, created_at) VALUES (1,'1',x'00',2,'',0)"
        )
        main.execute("INSERT INTO torrent (identifier, size, private, big_endian) VALUES (zeroblob(32), 1, 0, 0)")
        main.execute("INSERT INTO label (text) VALUES ('ProgressCheatBlocker')")
        columns = [row[1] for row in main.execute("PRAGMA table_info(ban)") if row[1] != "id"]
        for btn_ban in (0, 1):
            values = dict.fromkeys(columns, 1) | {"peer_ip": address_bytes("203.0.113.5"), "btn_ban": btn_ban}
            values |= {"dedupe": btn_ban, "structured_data": "{}", "description": "", "rule": None, "flags": None}
            main.execute(
                f"INSERT INTO ban ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})",
                [values[column] for column in columns],
            )
        for number, origin in enumerate(origins):
            main.execute(
                "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
                " created_at, expires_at) VALUES ('ip',?,32,'deny','active',?,?,'progress_cheater',?,?,?,?)",
                (bytes((203, 0, 113, number)), origin, origin, '{"people":4}', '{"people":4}', NOW, NOW + 9 * DAY),
            )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sparkle.db"


async def test_whom_an_administrator_added_is_vouched_for_and_who_registered_is_not(path: Path) -> None:
    old_database(path, ["untrusted_vote"])
    database = Database(path)
    await database.open()
    try:
        async with database.reader() as reader:
            rows = await fetch_all(reader, "SELECT id, vouched_at FROM user ORDER BY id")
            assert rows == [(1, NOW - DAY), (2, NOW - 2 * DAY), (3, None), (4, None)]
            # An administrator's word is whole whoever made the account.
            assert await decisions.vouched(reader) == {1, 2, 4}
            assert await fetch_all(reader, "SELECT * FROM word") == []
    finally:
        await database.close()
    assert list(path.parent.glob("sparkle.db.before-v*"))


async def test_earlier_decisions_and_bans_are_read_as_before(path: Path) -> None:
    old_database(path, ["untrusted_vote", "admin", "config", "import:mine"])
    database = Database(path)
    await database.open()
    try:
        async with database.reader() as reader:
            [one] = decisions.decisions(await decisions.standing(reader, "untrusted_vote", NOW))
            assert (str(one.network), one.numbers, one.state_at(NOW)) == ("203.0.113.0", {"people": 4}, "active")
            assert await decisions.count_listed(reader, NOW) == 4
            # Nobody knows any more on whom they rested.
            assert await decisions.rested_on(reader, NOW - DAY, NOW) == {}
            for index, kind in (("ban_evidence", 0), ("ban_caused", 1)):
                sql = f"SELECT received_at, userapp FROM ban INDEXED BY {index} WHERE btn_ban={kind} AND peer_ip=?"
                assert await fetch_all(reader, sql, (address_bytes("203.0.113.5"),)) == [(1, 1)]
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("origins", "waits"), [(["untrusted_vote"], True), (["admin", "config", "import:mine"], False), ([], False)]
)
async def test_only_where_analyses_had_listed_something_it_waits(path: Path, origins: list[str], waits: bool) -> None:
    old_database(path, origins)
    database = Database(path)
    await database.open()
    try:
        async with database.reader() as reader:
            assert (await accounts.setting(reader, "words_began") is not None) == waits
    finally:
        await database.close()


async def test_in_a_new_database_nothing_waits(path: Path) -> None:
    database = Database(path)
    await database.open()
    try:
        async with database.reader() as reader:
            assert await accounts.setting(reader, "words_began") is None
    finally:
        await database.close()
