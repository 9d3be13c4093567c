"""Accounts on a real database: who is let in, what ends that, and what it leaves behind."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest

from sparkle_lite.accounts.actors import COMMAND_LINE, Actor
from sparkle_lite.accounts.apps import peerbanhelper_lines
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.feed_keys import FeedKeyRow
from sparkle_lite.accounts.parts import Accounts
from sparkle_lite.accounts.registry import Userapp
from sparkle_lite.accounts.secrets import Once, hash_secret, new_secret
from sparkle_lite.config import AuthSection, Duration, Secret
from sparkle_lite.db import accounts as store
from sparkle_lite.db.accounts import CredentialRow
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database
from sparkle_lite.errors import SparkleError
from sparkle_lite.wire.credentials import Presented

NOW = 1_800_000_000_000
DAY = 86_400_000


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


class Place:
    """The accounts of one process, with handles on what they were made from."""

    def __init__(self, database: Database, auth: AuthSection, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.accounts = Accounts.on(database, Audit(database, clock), lambda: auth, clock)
        self.registry, self.users = self.accounts.registry, self.accounts.users
        self.apps, self.sessions = self.accounts.apps, self.accounts.sessions
        self.feed_keys = self.accounts.feed_keys


@asynccontextmanager
async def opened(folder: Path, auth: AuthSection | None = None, clock: Clock | None = None) -> AsyncIterator[Place]:
    """The accounts of one process; two on the same folder behave as two processes do."""
    database = Database(folder / "s.db")
    await database.open()
    try:
        place = Place(database, auth or AuthSection(), clock or Clock())
        await place.registry.open()
        yield place
    finally:
        await database.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """The accounts of this process."""
    async with opened(tmp_path) as place:
        yield place


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Place]:
    """The accounts of another process on the same files."""
    async with opened(tmp_path) as other:
        yield other


async def refusal(call: Awaitable[object]) -> SparkleError:
    with pytest.raises(SparkleError) as caught:
        await call
    return caught.value


async def audit(place: Place) -> list[tuple[str, int, int | None, dict[str, Any]]]:
    rows = await place.database.read("SELECT action, success, user, details FROM audit ORDER BY id")
    return [(action, success, user, json.loads(details)) for action, success, user, details in rows]


async def one_app(place: Place, name: str = "bob") -> tuple[int, Presented]:
    user = await place.users.add(name, "user", COMMAND_LINE)
    new = await place.apps.add(user.id, "test", COMMAND_LINE)
    return user.id, Presented(new.userapp.app_id, new.secret)


# --- Letting clients in -----------------------------------------------------------------------------------------------


async def test_a_known_application_is_let_in_without_a_query(place: Place) -> None:
    user, presented = await one_app(place)
    await place.database.close()
    userapp = place.registry.known(presented)
    assert userapp is not None
    assert (userapp.app_id, userapp.user) == (presented.app_id, user)
    assert await place.registry.authenticate(presented, "192.0.2.1") == userapp


async def test_refusals_have_one_constant_sentence_each(place: Place) -> None:
    _, right = await one_app(place)

    async def text(presented: Presented) -> tuple[str, str, str]:
        assert place.registry.known(presented) is None
        error = await refusal(place.registry.authenticate(presented, "192.0.2.1"))
        return error.code, error.message, error.text("zh")

    nothing = await text(Presented())
    placeholder = await text(Presented(placeholder=True))
    anonymous = await text(Presented(installation_id="i-1", placeholder=True))
    wrong = await text(right._replace(secret="x"))
    unknown = await text(Presented("nobody", "x"))
    assert {code for code, _, _ in (nothing, placeholder, anonymous, wrong)} == {"forbidden"}
    assert len({nothing, placeholder, anonymous, wrong}) == 4
    assert wrong == unknown
    assert "replace the example credentials" in placeholder[1]
    assert "takes no anonymous clients" in anonymous[1]
    assert all(zh for _, _, zh in (nothing, placeholder, anonymous, wrong))


async def test_an_application_added_by_another_process_is_accepted_at_once(place: Place, other: Place) -> None:
    _, presented = await one_app(other)
    assert place.registry.known(presented) is None
    userapp = await place.registry.authenticate(presented, "192.0.2.1")
    assert place.registry.known(presented) == userapp


async def test_what_another_process_changes_takes_effect_with_the_next_poll(other: Place, place: Place) -> None:
    user, presented = await one_app(other)
    assert await place.registry.poll()
    assert not await place.registry.poll()
    assert place.registry.known(presented)

    await other.apps.ban(presented.app_id, "sends junk", COMMAND_LINE)
    assert await place.registry.poll()
    assert "sends junk" in (await refusal(place.registry.authenticate(presented, "192.0.2.1"))).message

    await other.apps.unban(presented.app_id, COMMAND_LINE)
    await other.users.ban(user, "sold the account", COMMAND_LINE)
    await place.registry.poll()
    error = await refusal(place.registry.authenticate(presented, "192.0.2.1"))
    assert "sold the account" in error.message
    assert "sold the account" in error.text("zh")

    await other.users.unban(user, COMMAND_LINE)
    new = await other.apps.reset(presented.app_id, COMMAND_LINE)
    await place.registry.poll()
    assert "not valid" in (await refusal(place.registry.authenticate(presented, "192.0.2.1"))).message
    assert place.registry.known(Presented(presented.app_id, new.secret))

    await other.apps.delete(presented.app_id, COMMAND_LINE)
    await place.registry.poll()
    await refusal(place.registry.authenticate(Presented(presented.app_id, new.secret), "192.0.2.1"))


async def test_a_reset_by_another_process_is_noticed_even_before_the_poll(other: Place, place: Place) -> None:
    _, presented = await one_app(other)
    await place.registry.authenticate(presented, "192.0.2.1")
    new = await other.apps.reset(presented.app_id, COMMAND_LINE)
    await place.registry.authenticate(Presented(presented.app_id, new.secret), "192.0.2.1")
    assert place.registry.known(presented) is None


async def test_what_this_process_changes_takes_effect_at_once(place: Place) -> None:
    user, presented = await one_app(place)
    assert place.registry.known(presented)
    await place.apps.ban(presented.app_id, "sends junk", COMMAND_LINE)
    assert place.registry.known(presented) is None
    await place.apps.unban(presented.app_id, COMMAND_LINE)
    assert place.registry.known(presented)
    await place.users.ban(user, "sold the account", COMMAND_LINE)
    assert place.registry.known(presented) is None
    await place.users.unban(user, COMMAND_LINE)
    new = await place.apps.reset(presented.app_id, COMMAND_LINE)
    assert place.registry.known(presented) is None
    presented = Presented(presented.app_id, new.secret)
    assert place.registry.known(presented)
    await place.apps.delete(presented.app_id, COMMAND_LINE)
    assert place.registry.known(presented) is None
    assert not await place.registry.poll()


async def test_a_ban_takes_effect_whatever_becomes_of_who_asked_for_it(place: Place) -> None:
    _, presented = await one_app(place)
    asking = asyncio.create_task(place.apps.ban(presented.app_id, "sends junk", COMMAND_LINE))
    await asyncio.sleep(0)
    asking.cancel()
    async with asyncio.timeout(5):
        while place.registry.known(presented):
            await asyncio.sleep(0.005)
    assert asking.cancelled()


async def test_a_change_that_could_not_be_read_back_takes_effect_with_the_next_poll(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Connection) -> list[CredentialRow]:
        raise SparkleError("overloaded", "query.changing")

    _, presented = await one_app(place)
    with monkeypatch.context() as patch:
        patch.setattr(store, "credentials", broken)
        await refusal(place.apps.ban(presented.app_id, "sends junk", COMMAND_LINE))
        await refusal(place.registry.poll())
    assert await place.registry.poll()
    assert place.registry.known(presented) is None


async def test_guessing_is_slowed_down_by_address_but_never_the_known(place: Place) -> None:
    _, presented = await one_app(place)
    for count in range(30):
        error = await refusal(place.registry.authenticate(Presented(f"id-{count}", "x"), "2001:db8::1"))
        assert error.code == "forbidden"
    error = await refusal(place.registry.authenticate(Presented("id", "x"), "2001:db8::2"))
    assert (error.code, error.retry_after) == ("too_many", 1)
    await place.registry.authenticate(presented, "2001:db8::1")
    assert (await refusal(place.registry.authenticate(Presented("id", "x"), "192.0.2.1"))).code == "forbidden"
    place.clock.now += 1000
    assert (await refusal(place.registry.authenticate(Presented("id", "x"), "2001:db8::1"))).code == "forbidden"


async def test_clients_without_credentials_get_one_application_each_where_they_are_welcome(tmp_path: Path) -> None:
    async with opened(tmp_path, AuthSection(anonymous_apps=True)) as place:
        presented = Presented(installation_id="0f8fad5b-d9cb", placeholder=True)
        first, second, third = await asyncio.gather(
            *(place.registry.authenticate(presented, "192.0.2.1") for _ in range(3))
        )
        assert first == second == third == place.registry.known(presented)
        other = await place.registry.authenticate(Presented(installation_id="other"), "192.0.2.1")
        assert other.id != first.id
        assert other.user == first.user == (await place.users.named("anonymous")).id

        wrong = await refusal(place.registry.authenticate(Presented("id", "x", "0f8fad5b-d9cb"), "192.0.2.1"))
        assert "not valid" in wrong.message
        for count in range(3):
            await place.registry.authenticate(Presented(installation_id=f"more-{count}"), "192.0.2.1")
        error = await refusal(place.registry.authenticate(Presented(installation_id="too-many"), "192.0.2.1"))
        assert error.code == "too_many"
        assert len(await place.apps.all()) == 5

    async with opened(tmp_path) as closed:
        assert "no anonymous" in (await refusal(closed.registry.authenticate(presented, "192.0.2.1"))).message


async def test_an_anonymous_client_that_was_deleted_stays_out(tmp_path: Path) -> None:
    async with opened(tmp_path, AuthSection(anonymous_apps=True)) as place:
        presented = Presented(installation_id="i-1")
        userapp = await place.registry.authenticate(presented, "192.0.2.1")
        await place.apps.delete(userapp.app_id, COMMAND_LINE)
        assert (await refusal(place.registry.authenticate(presented, "192.0.2.1"))).code == "forbidden"


async def test_refused_requests_are_audited_sparingly_and_without_secrets(place: Place) -> None:
    _, presented = await one_app(place)
    before = len(await audit(place))
    error = SparkleError("forbidden", "session.none")
    swapped = Presented(presented.secret, presented.app_id)
    await place.registry.note_refusal("BTN_CONFIG", swapped, "192.0.2.1", "PBH\n/9", error)
    for _ in range(9):
        await place.registry.note_refusal("BTN_CONFIG", presented, "192.0.2.1", "PBH", error)
    rows = (await audit(place))[before:]
    assert rows[0] == ("BTN_CONFIG", 0, None, {"error": error.message})
    assert rows[1:] == [("BTN_CONFIG", 0, None, {"appId": presented.app_id, "error": error.message})] * 2


# --- What clients leave behind ----------------------------------------------------------------------------------------


async def test_last_access_is_written_at_most_once_a_minute(place: Place) -> None:
    user, presented = await one_app(place)
    userapp = await place.registry.authenticate(presented, "192.0.2.1")
    place.registry.record_visit(userapp, b"\xc0\0\2\1", "PBH/9\x1b[31m" + "x" * 400)
    await place.registry.flush()
    place.clock.now += 1000
    place.registry.record_visit(userapp, b"\xc0\0\2\1", "PBH/10")
    await place.registry.flush()
    [row] = await place.apps.all(user)
    assert row.last_access_at == NOW
    assert row.user_agent is not None
    assert row.user_agent.startswith("PBH/9[31m")
    assert len(row.user_agent) < 257
    place.clock.now += 60_000
    await place.registry.flush()
    [row] = await place.apps.all(user)
    assert (row.last_access_at, row.user_agent) == (NOW + 1000, "PBH/10")
    assert (await place.users.get(user)).last_seen_at == NOW + 1000


async def test_an_address_is_new_once_in_14_days_and_across_restarts(tmp_path: Path) -> None:
    async with opened(tmp_path) as place:
        _, presented = await one_app(place)
        userapp = await place.registry.authenticate(presented, "192.0.2.1")
        assert place.registry.record_visit(userapp, b"\xc0\0\2\1", "")
        assert not place.registry.record_visit(userapp, b"\xc0\0\2\1", "")
        await place.registry.flush(now=True)
        assert not place.registry.record_visit(userapp, b"\xc0\0\2\1", "")
        assert place.registry.record_visit(userapp, b"\xc0\0\2\2", "")
    async with opened(tmp_path) as place:
        assert not place.registry.record_visit(userapp, b"\xc0\0\2\1", "")
    late = Clock()
    late.now += 15 * DAY
    async with opened(tmp_path, clock=late) as place:
        assert place.registry.record_visit(userapp, b"\xc0\0\2\1", "")


async def test_one_application_cannot_have_addresses_without_limit(place: Place) -> None:
    _, presented = await one_app(place)
    userapp = await place.registry.authenticate(presented, "192.0.2.1")
    other = Userapp(userapp.id, "other", userapp.user)
    new = [place.registry.record_visit(userapp, number.to_bytes(4, "big"), "") for number in range(300)]
    assert sum(new) == store.ADDRESSES_PER_USERAPP
    await place.registry.flush(now=True)
    place.clock.now += 1
    for number in range(300, 310):
        place.registry.record_visit(other, number.to_bytes(4, "big"), "")
    await place.registry.flush(now=True)
    assert await place.database.write(lambda c: store.delete_expired(c, place.clock.now, 0, 1000)) == 10
    [[count]] = await place.database.read("SELECT count(*) FROM userapp_address")
    assert count == store.ADDRESSES_PER_USERAPP


async def test_what_could_not_be_written_is_written_next_time(place: Place) -> None:
    user, presented = await one_app(place)
    userapp = await place.registry.authenticate(presented, "192.0.2.1")
    place.registry.record_visit(userapp, b"\xc0\0\2\1", "PBH")
    await place.database.main.execute("PRAGMA query_only=ON")
    await refusal(place.registry.flush(now=True))
    await place.database.main.execute("PRAGMA query_only=OFF")
    await place.registry.flush(now=True)
    [row] = await place.apps.all(user)
    assert row.user_agent == "PBH"


# --- Users and applications -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", " bob", "bob ", "a" * 65, "a\nb", "a\x7f", "a\u202eb", "a\u200bb", "a\udcffb", "Anonymous", "ａnonymous"],
)
async def test_names_that_mislead_or_do_not_print_are_refused(place: Place, name: str) -> None:
    assert (await refusal(place.users.add(name, "user", COMMAND_LINE))).code == "bad_request"


@pytest.mark.parametrize(
    ("name", "same"), [("Bob", "bOB"), ("Ärzte", "äRZTE"), ("ＡＢＣ", "abc"), ("王小明", "王小明")]
)
async def test_names_are_unique_whatever_their_case(place: Place, name: str, same: str) -> None:
    added = await place.users.add(name, "admin", COMMAND_LINE)
    assert (added.name, added.role, added.registered_by) == (name, "admin", "admin")
    assert await place.users.named(same) == added
    assert (await refusal(place.users.add(same, "user", COMMAND_LINE))).code == "conflict"


async def test_two_processes_cannot_exceed_the_limit_together(tmp_path: Path) -> None:
    auth = AuthSection(max_apps_per_user=3)
    async with AsyncExitStack() as stack:
        places = [await stack.enter_async_context(opened(tmp_path, auth)) for _ in range(2)]
        user, _ = await one_app(places[0])
        calls = (place.apps.add(user, "more", COMMAND_LINE) for place in places * 4)
        results = await asyncio.gather(*calls, return_exceptions=True)
        errors = [result for result in results if isinstance(result, SparkleError)]
        assert [error.code for error in errors] == ["quota"] * 6
        assert errors[0].text("zh") == "您所拥有的用户应用程序数量已达上限"
        apps = await places[0].apps.all(user)
        assert len(apps) == 3
        await places[0].apps.delete(apps[0].app_id, COMMAND_LINE)
        await places[1].apps.add(user, "again", COMMAND_LINE)


@pytest.mark.parametrize("comment", ["", "  ", "a" * 256, "a\nb", "a\0"])
async def test_comments_are_one_line_of_text(place: Place, comment: str) -> None:
    user, presented = await one_app(place)
    assert (await refusal(place.apps.add(user, comment, COMMAND_LINE))).code == "bad_request"
    assert (await refusal(place.apps.edit(presented.app_id, comment, COMMAND_LINE))).code == "bad_request"
    assert (await place.apps.edit(presented.app_id, "  热  ", COMMAND_LINE)).comment == "热"


async def test_a_user_manages_their_own_applications_and_no_others(place: Place) -> None:
    bob_id, bobs = await one_app(place, "bob")
    eve_id, eves = await one_app(place, "eve")
    eve = Actor.of(await place.users.get(eve_id), "192.0.2.1", "Firefox")
    for call in (
        place.apps.get(bobs.app_id, eve),
        place.apps.reset(bobs.app_id, eve),
        place.apps.edit(bobs.app_id, "x", eve),
        place.apps.delete(bobs.app_id, eve),
        place.apps.add(bob_id, "x", eve),
        place.apps.ban(eves.app_id, "x", eve),
        place.users.ban(bob_id, "x", eve),
        place.users.add("mallory", "admin", eve),
    ):
        assert (await refusal(call)).code == "forbidden"
    refused = [(action, user, details) for action, success, user, details in await audit(place) if not success]
    assert [action for action, _, _ in refused] == ["ADMIN", "USERAPP_RESET_SECRET", "USERAPP_EDIT"]
    error = "Access denied: this is for administrators."
    assert refused[0] == ("ADMIN", eve_id, {"appId": bobs.app_id, "error": error})
    assert (await refusal(place.apps.get("no such id", eve))).code == "not_found"
    await place.apps.reset(eves.app_id, eve)
    await place.apps.ban(eves.app_id, "junk", COMMAND_LINE)
    assert "junk" in (await refusal(place.apps.delete(eves.app_id, eve))).message
    await place.apps.delete(eves.app_id, COMMAND_LINE)
    assert place.registry.known(bobs)


async def test_every_change_is_audited_with_who_did_it(place: Place) -> None:
    user, presented = await one_app(place)
    bob = Actor.of(await place.users.get(user), "192.0.2.7", "Firefox\n")
    app_id = presented.app_id
    await place.apps.edit(app_id, "new", bob)
    await place.apps.reset(app_id, bob)
    await place.apps.ban(app_id, "junk", COMMAND_LINE)
    await place.apps.unban(app_id, COMMAND_LINE)
    await place.apps.delete(app_id, bob)
    await place.sessions.log_out(await place.sessions.sign_in(await place.users.get(user), "github", bob), bob)
    await place.users.ban(user, "gone", COMMAND_LINE)
    await place.users.unban(user, COMMAND_LINE)
    await refusal(place.apps.ban(app_id, "deleted", COMMAND_LINE))
    rows = await audit(place)
    assert [row[0] for row in rows] == [
        "USER_CREATE",
        "USERAPP_CREATE",
        "USERAPP_EDIT",
        "USERAPP_RESET_SECRET",
        "USERAPP_BAN",
        "USERAPP_UNBAN",
        "USERAPP_DELETE",
        "USER_LOGIN",
        "LOGOUT",
        "USER_BAN",
        "USER_UNBAN",
    ]
    assert rows[2][1:] == (
        1,
        user,
        {"appId": app_id, "userAppOwner": user, "userId": user, "userAppOld": "test", "userAppNew": "new"},
    )
    assert rows[4][2:] == (
        None,
        {"appId": app_id, "userAppOwner": user, "userId": None, "reason": "junk", "by": "command line"},
    )
    [[address, agent]] = await place.database.read("SELECT address, user_agent FROM audit WHERE action='USERAPP_EDIT'")
    assert (address, agent) == ("192.0.2.7", "Firefox")


# --- Feed keys --------------------------------------------------------------------------------------------------------


async def one_key(place: Place, name: str = "bob") -> tuple[Actor, FeedKeyRow, str]:
    user = await place.users.add(name, "user", COMMAND_LINE)
    actor = Actor.of(user, "192.0.2.7", "Firefox")
    row, key = await place.feed_keys.add(user.id, "nas", actor)
    return actor, row, key


async def test_a_feed_key_is_let_in_without_a_query_until_it_is_revoked(place: Place) -> None:
    actor, row, key = await one_key(place)
    assert re.fullmatch(r"slf_[A-Za-z0-9_-]{43}", key)
    assert place.registry.feed_key(key, "192.0.2.1").id == row.id
    await place.feed_keys.revoke(row.id, actor)
    with pytest.raises(SparkleError, match="not valid here"):
        place.registry.feed_key(key, "192.0.2.1")
    assert (await refusal(place.feed_keys.revoke(row.id, actor))).code == "not_found"


async def test_another_process_notices_a_feed_key_and_a_ban_with_the_next_poll(place: Place, other: Place) -> None:
    actor, _, key = await one_key(other)
    assert actor.user is not None
    await place.registry.poll()
    assert place.registry.feed_key(key, "192.0.2.1").user == actor.user
    await other.users.ban(actor.user, "sold the account", COMMAND_LINE)
    await place.registry.poll()
    with pytest.raises(SparkleError, match="sold the account"):
        place.registry.feed_key(key, "192.0.2.1")
    assert "sold the account" in (await refusal(place.feed_keys.add(actor.user, "again", actor))).message
    await other.users.unban(actor.user, COMMAND_LINE)
    await other.feed_keys.revoke_named("nas", None, COMMAND_LINE)
    await place.registry.poll()
    with pytest.raises(SparkleError, match="not valid here"):
        place.registry.feed_key(key, "192.0.2.1")


async def test_guessing_feed_keys_is_slowed_down_together_with_guessing_credentials(place: Place) -> None:
    _, _, key = await one_key(place)
    for number in range(15):
        await refusal(place.registry.authenticate(Presented(f"id-{number}", "x"), "192.0.2.1"))
        with pytest.raises(SparkleError) as wrong:
            place.registry.feed_key(f"slf_{number}", "192.0.2.1")
        assert wrong.value.code == "forbidden"
    with pytest.raises(SparkleError) as slowed:
        place.registry.feed_key("slf_x", "192.0.2.1")
    assert (slowed.value.code, slowed.value.retry_after) == ("too_many", 1)
    assert place.registry.feed_key(key, "192.0.2.1")


async def test_the_last_use_of_a_feed_key_is_told_at_once_and_written_every_five_minutes(place: Place) -> None:
    actor, row, key = await one_key(place)
    assert actor.user is not None

    async def used() -> tuple[int | None, int | None]:
        """As it is told, and as it is stored."""
        assert actor.user is not None
        [[stored]] = await place.database.read("SELECT used_at FROM feed_key")
        return (await place.feed_keys.of(actor.user))[0].used_at, stored

    place.registry.feed_key(key, "192.0.2.1", note=False)
    assert await used() == (None, None)
    place.registry.feed_key(key, "192.0.2.1")
    assert await used() == (NOW, None)
    await place.registry.flush()
    for _ in range(4):
        place.clock.now += 61_000
        place.registry.feed_key(key, "192.0.2.1")
        await place.registry.flush()
    assert await used() == (NOW, NOW)
    place.clock.now = NOW + 300_000
    place.registry.feed_key(key, "192.0.2.1")
    await place.registry.flush()
    assert await used() == (NOW + 300_000, NOW + 300_000)
    await place.feed_keys.revoke(row.id, actor)
    assert place.registry.last_use(row.id) is None


async def test_names_of_feed_keys_are_unique_for_their_owner_and_people_have_twenty(place: Place) -> None:
    actor, _, _ = await one_key(place)
    eve, _, _ = await one_key(place, "eve")
    assert (await refusal(place.feed_keys.add(actor.user, " nas ", actor))).code == "conflict"
    for name in ("", " ", "x" * 41, "a\nb", "a\u202eb", "\ud800"):
        assert (await refusal(place.feed_keys.add(actor.user, name, actor))).code == "bad_request", name
    for number in range(19):
        await place.feed_keys.add(actor.user, f"{number} 王", actor)
    assert (await refusal(place.feed_keys.add(actor.user, "more", actor))).code == "quota"
    for number in range(21):
        await place.feed_keys.add(None, f"{number}", COMMAND_LINE)
    assert {await _code(place.feed_keys.add(user, "x", eve)) for user in (actor.user, None)} == {"forbidden"}
    keys, total = await place.feed_keys.page(0, 3)
    assert (len(keys), total) == (3, 42)


async def _code(call: Awaitable[object]) -> str:
    return (await refusal(call)).code


async def test_whoever_revokes_a_feed_key_owns_it_or_is_an_administrator(place: Place) -> None:
    bob, row, _ = await one_key(place)
    eve, _, _ = await one_key(place, "eve")
    of_operator, _ = await place.feed_keys.add(None, "router", COMMAND_LINE)
    assert await _code(place.feed_keys.revoke(row.id, eve)) == "forbidden"
    assert await _code(place.feed_keys.revoke(of_operator.id, eve)) == "forbidden"
    assert await _code(place.feed_keys.revoke_named("nas", None, eve)) == "forbidden"
    several = await refusal(place.feed_keys.revoke_named("nas", None, COMMAND_LINE))
    assert "--user: bob, eve" in several.message
    assert (await place.feed_keys.revoke_named("nas", "eve", COMMAND_LINE)).owner == "eve"
    assert (await place.feed_keys.revoke_named("nas", None, COMMAND_LINE)).owner == "bob"
    assert await _code(place.feed_keys.revoke_named("nas", None, COMMAND_LINE)) == "not_found"
    assert await _code(place.feed_keys.revoke(10**30, COMMAND_LINE)) == "not_found"
    rows = [(action, success, user) for action, success, user, _ in await audit(place) if action.startswith("FEED")]
    assert rows == [
        ("FEED_KEY_CREATE", 1, bob.user),
        ("FEED_KEY_CREATE", 1, eve.user),
        ("FEED_KEY_CREATE", 1, None),
        ("FEED_KEY_REVOKE", 0, eve.user),
        ("FEED_KEY_REVOKE", 0, eve.user),
        ("FEED_KEY_REVOKE", 1, None),
        ("FEED_KEY_REVOKE", 1, None),
    ]


async def test_a_form_that_comes_twice_makes_one_feed_key_and_none_that_was_revoked(place: Place) -> None:
    bob, _, _ = await one_key(place)
    once = Once(b"s" * 32)
    row, key = await place.feed_keys.add(bob.user, "tv", bob, once)
    assert await place.feed_keys.add(bob.user, "tv", bob, once) == (row, key)
    _, another = await place.feed_keys.add(bob.user, "tv 2", bob, once)
    assert another != key
    await place.feed_keys.revoke(row.id, bob)
    assert await _code(place.feed_keys.add(bob.user, "tv", bob, once)) == "conflict"
    with pytest.raises(SparkleError, match="not valid"):
        place.registry.feed_key(key, "192.0.2.1")


async def test_a_word_counts_for_whom_an_administrator_vouches(place: Place, other: Place) -> None:
    boss = await place.users.add("boss", "admin", COMMAND_LINE, vouched=False)
    bob = await place.users.add("bob", "user", COMMAND_LINE, vouched=False)
    assert (boss.speaks, bob.speaks, await place.users.has_vouched()) == (True, False, False)
    assert await place.users.has_silent({bob.id})
    assert not await place.users.has_silent({boss.id})
    await place.users.vouch(bob.id, Actor.of(boss, "192.0.2.7", ""))
    await place.users.vouch(bob.id, COMMAND_LINE)
    assert (await other.users.get(bob.id)).speaks
    assert not await other.users.has_silent({bob.id})
    await other.users.unvouch(bob.id, COMMAND_LINE)
    assert not (await place.users.get(bob.id)).speaks
    assert (await refusal(place.users.unvouch(boss.id, COMMAND_LINE))).code == "conflict"
    assert (await refusal(place.users.vouch(bob.id, Actor.of(bob, "192.0.2.7", "")))).code == "forbidden"
    assert [row[0] for row in await audit(place)] == ["USER_CREATE", "USER_CREATE", "USER_VOUCH", "USER_UNVOUCH"]


async def test_clients_without_credentials_have_no_word(tmp_path: Path) -> None:
    async with opened(tmp_path, AuthSection(anonymous_apps=True)) as place:
        userapp = await place.registry.authenticate(Presented(installation_id="i-1"), "192.0.2.1")
        assert (await refusal(place.users.vouch(userapp.user, COMMAND_LINE))).code == "conflict"
        assert not await place.users.has_silent({userapp.user})


async def test_the_first_start_happens_once_even_with_two_starters(place: Place, other: Place) -> None:
    results = await asyncio.gather(place.accounts.first_start(), other.accounts.first_start())
    # Until somebody was told, it is told anew with another secret: that of whoever came last is good.
    await place.registry.poll()
    good = []
    for first in [result for result in results if result is not None]:
        with suppress(SparkleError):
            await place.registry.authenticate(Presented(first.app_id, first.secret), "192.0.2.1")
            good.append(first)
    [first] = good
    user = await place.sessions.use_login_link(first.login_token)
    assert (user.name, user.role) == ("admin", "admin")
    await place.accounts.note_told()
    assert await place.accounts.first_start() is None
    assert len(await place.users.all()) == len(await place.apps.all()) == 1


async def test_there_is_no_first_start_where_somebody_is_already(place: Place) -> None:
    await place.users.add("bob", "user", COMMAND_LINE)
    assert await place.accounts.first_start() is None


# --- Sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_lives_until_log_out_and_across_processes(place: Place, other: Place) -> None:
    bob = await place.users.add("bob", "user", COMMAND_LINE)
    token = await place.sessions.sign_in(bob, "github")
    second = await other.sessions.sign_in(bob, "github")
    assert await other.sessions.user(token) == bob
    assert await place.sessions.user(second) == bob
    await other.sessions.log_out(token, Actor.of(bob))
    await other.sessions.log_out(token, Actor.of(bob))
    await other.sessions.log_out("nonsense", Actor.of(bob))
    assert (await refusal(place.sessions.user(token))).text("zh") == "未登录或会话已过期，请转到首页登录"
    assert await place.sessions.user(second) == bob


async def test_a_session_ends_with_its_lifetime(tmp_path: Path) -> None:
    async with opened(tmp_path, AuthSection(session_lifetime=Duration.parse("1h"))) as place:
        bob = await place.users.add("bob", "user", COMMAND_LINE)
        token = await place.sessions.sign_in(bob, "github")
        place.clock.now += 3_599_000
        assert await place.sessions.user(token)
        place.clock.now += 1000
        await refusal(place.sessions.user(token))


async def test_a_ban_ends_sessions_and_login_links_at_once(place: Place, other: Place) -> None:
    bob = await place.users.add("bob", "user", COMMAND_LINE)
    token = await place.sessions.sign_in(bob, "github")
    link = await place.sessions.login_link(bob.id)
    await other.users.ban(bob.id, "sold", COMMAND_LINE)
    await refusal(place.sessions.user(token))
    await refusal(place.sessions.use_login_link(link))
    assert "sold" in (await refusal(place.sessions.sign_in(bob, "github"))).message
    assert "sold" in (await refusal(place.sessions.login_link(bob.id))).message
    await other.users.unban(bob.id, COMMAND_LINE)
    await refusal(place.sessions.user(token))


async def test_tokens_that_we_did_not_sign_are_refused(place: Place) -> None:
    bob = await place.users.add("bob", "user", COMMAND_LINE)
    eve = await place.users.add("eve", "user", COMMAND_LINE)
    token = await place.sessions.sign_in(eve, "github")
    claims = jwt.decode(token, options={"verify_signature": False})
    head, body, signature = token.split(".")
    forged = [
        jwt.encode({**claims, "sub": str(bob.id)}, new_secret(), algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),
        f"{head}.{body}.",
        f"{head}.{signature}.{body}",
        "",
        "a.b.c",
        "\udcff",
        "é",
    ]
    for text in forged:
        assert (await refusal(place.sessions.user(text))).code == "forbidden"
    assert await place.sessions.user(token) == eve


async def test_reading_a_token_writes_nothing(place: Place, other: Place) -> None:
    bob = await place.users.add("bob", "user", COMMAND_LINE)
    before = place.database.main.total_changes
    # Nobody has signed one yet.
    claims = {"sub": "1", "jti": "x", "iat": 0, "exp": 0}
    for text in ("", "a.b.c", jwt.encode(claims, new_secret(), algorithm="HS256")):
        assert (await refusal(place.sessions.user(text))).code == "forbidden"
    assert place.database.main.total_changes == before
    token = await other.sessions.sign_in(bob, "github")
    assert await place.sessions.user(token) == bob
    assert place.database.main.total_changes == before


async def test_a_configured_key_signs_the_sessions(tmp_path: Path) -> None:
    key = "k" * 32
    async with opened(tmp_path, AuthSection(jwt_secret=Secret(key))) as place:
        bob = await place.users.add("bob", "user", COMMAND_LINE)
        token = await place.sessions.sign_in(bob, "github")
        claims = jwt.decode(token, key, algorithms=["HS256"], options={"verify_iat": False})
        assert claims["sub"] == str(bob.id)
        signed_by_key = jwt.encode({**claims, "jti": new_secret()}, key, algorithm="HS256")
        await refusal(place.sessions.user(signed_by_key))
    async with opened(tmp_path) as place:
        await refusal(place.sessions.user(token))


async def test_a_login_link_is_good_once_for_30_minutes(place: Place, other: Place) -> None:
    bob = await place.users.add("bob", "user", COMMAND_LINE)
    link, late = await place.sessions.login_link(bob.id), await place.sessions.login_link(bob.id)
    results = await asyncio.gather(
        *(each.sessions.use_login_link(link) for each in (place, other)), return_exceptions=True
    )
    assert [result for result in results if not isinstance(result, SparkleError)] == [bob]
    place.clock.now += 30 * 60_000
    assert (await refusal(place.sessions.use_login_link(late))).code == "forbidden"
    await refusal(place.sessions.use_login_link("\udcff"))


async def test_no_secret_stands_in_the_database_files(place: Place, tmp_path: Path) -> None:
    first = await place.accounts.first_start()
    assert first is not None
    admin = await place.users.named("admin")
    new = await place.apps.reset(first.app_id, COMMAND_LINE)
    token = await place.sessions.sign_in(admin, "github")
    link = await place.sessions.login_link(admin.id)
    _, key = await place.feed_keys.add(admin.id, "nas", COMMAND_LINE)
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert hash_secret(new.secret) in files
    for secret in (first.secret, first.login_token, new.secret, token, jti, link, key):
        assert secret.encode() not in files
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())


def test_secrets_have_256_bits_and_are_safe_in_urls() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret) == 43 and secret.replace("-", "").replace("_", "").isalnum() for secret in secrets)


def test_the_lines_for_peerbanhelper_stay_yaml_whatever_the_url() -> None:
    assert peerbanhelper_lines("https://example.org/btn", "id", "se-cret").splitlines() == [
        "btn:",
        "  enabled: true",
        "  submit: true",
        '  config-url: "https://example.org/btn/ping/config"',
        '  app-id: "id"',
        '  app-secret: "se-cret"',
    ]
