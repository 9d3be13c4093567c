"""The audit: one writer for everybody, whatever is done or refused."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sparkle_lite.accounts.actors import COMMAND_LINE, Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.parts import Accounts
from sparkle_lite.clock import now_ms
from sparkle_lite.config import AuthSection, Config
from sparkle_lite.db.accounts import AuditFilter
from sparkle_lite.db.database import Database
from sparkle_lite.db.orders import Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import address_bytes
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.reviews import Request, Reviews
from sparkle_lite.settings import Settings

Act = Callable[["Place", Actor], Awaitable[None]]

# 5,006 characters, with an escape that would recolour a terminal and a mark that turns the direction of writing.
LONG = "Fire\x1b[31mfox\u202e" + "x" * 4992


class Place:
    """Everything that is audited, on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.audit = Audit(database, now_ms)
        self.accounts = Accounts.on(database, self.audit, AuthSection, now_ms)
        self.decisions = Decisions(database, self.audit, now_ms, Protected(set()))
        self.reviews = Reviews(database, self.audit, now_ms)
        self.settings = Settings(database, self.audit, Config(), {})

    async def admin(self) -> Actor:
        """An administrator with a browser that calls itself too much."""
        user = await self.accounts.users.add("root", "admin", COMMAND_LINE)
        return Actor.of(user, "192.0.2.7", LONG)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    database = Database(tmp_path / "s.db")
    await database.open()
    yield Place(database)
    await database.close()


async def rename(place: Place, actor: Actor) -> None:
    assert actor.user is not None
    await place.accounts.users.rename(actor.user, "Root", actor)


async def add_app(place: Place, actor: Actor) -> None:
    assert actor.user is not None
    await place.accounts.apps.add(actor.user, "nas", actor)


async def deny(place: Place, actor: Actor) -> None:
    await place.decisions.deny("ip", "8.8.8.8", "noisy", None, actor)


async def change_setting(place: Place, actor: Actor) -> None:
    await place.settings.change({"analysis.preset": "strict"}, actor)


async def close_review(place: Place, actor: Actor) -> None:
    await place.reviews.ask(Request(address_bytes("8.8.8.8"), True, "why?", ""), actor)
    [review] = await place.reviews.page(True, Position(), 1)
    await place.reviews.close(review.id, "looked", actor)


async def be_refused(place: Place, actor: Actor) -> None:
    await place.audit.note_failure(
        "ADMIN", actor, SparkleError("forbidden", "session.none"), method="GET", path="/a\x1b[31m"
    )


@pytest.mark.parametrize(
    ("action", "act"),
    [
        ("USER_RENAME", rename),
        ("USERAPP_CREATE", add_app),
        ("RULE_DENY", deny),
        ("SETTING_CHANGE", change_setting),
        ("REVIEW_CLOSE", close_review),
        ("ADMIN", be_refused),
    ],
)
async def test_a_user_agent_is_stored_short_and_without_what_cannot_be_seen(
    place: Place, action: str, act: Act
) -> None:
    actor = await place.admin()
    await act(place, actor)
    [row] = await place.audit.page(AuditFilter(action=action), Position(), 10)
    assert (row.user, row.address) == (actor.user, "192.0.2.7")
    assert row.user_agent is not None
    assert row.user_agent.startswith("Fire[31mfoxxx")
    assert 250 < len(row.user_agent) <= 256
    assert row.success == (action != "ADMIN")
    assert all(text.isprintable() for text in json.loads(row.details).values() if isinstance(text, str))
