"""The days of a circle: who acts when, against a server of one's own or against any other, and what came of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from sparkle_lite.clock import DrivenClock, now_ms
from sparkle_lite.config import Preset
from sparkle_lite.simulation import accounts, lists
from sparkle_lite.simulation.client import Account, Client, refused
from sparkle_lite.simulation.connection import Connection, Target
from sparkle_lite.simulation.judge import Caught, Harm, Judge
from sparkle_lite.simulation.ledger import Ledger
from sparkle_lite.simulation.liars import Conspiracy, Style
from sparkle_lite.simulation.own_server import OwnServer, own_server
from sparkle_lite.simulation.world import Installation, Member, World, few_collections
from sparkle_lite.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

# A client has its turn every half hour, a third of them every ten minutes; in real time twice as often.
_STEP_MS, _REAL_STEP_MS = 10 * MINUTE_MS, 5 * MINUTE_MS
_PHASES = 3
# How often the formulas of the originals are tried.
_ORIGINALS_MS = 4 * HOUR_MS
# For so many people the administrator vouches.
VOUCHED = 3
# When the days of a driven clock begin: any, but always the same.
_BEGIN = 1_784_000_000_000
Progress = Callable[[float, str], None]


class Order(NamedTuple):
    """What is to be played. `poison` is the share of people who lie (0..1)."""

    people: int = 30
    days: float = 8
    seed: int = 1
    poison: float = 0.0
    style: Style = "collude"
    preset: Preset = "friends"


class Exchanged(NamedTuple):
    """What was sent and what became of it: rows, answers by ability and status, seconds that answers took."""

    requests: int
    sent: int
    accepted: int
    rejected: int
    unanswered: int
    statuses: dict[str, int]
    latencies: dict[str, float]


class Played(NamedTuple):
    """What came of it. `verdicts` by the name of the list: how it did on the bad, and whom it hit wrongly."""

    order: Order
    days: float
    clients: int
    programs: int
    attacked: int
    liars: int
    traffic: Exchanged
    verdicts: dict[str, tuple[list[Caught], Harm]]
    failures: dict[str, str]
    seconds: float
    was_interrupted: bool


class Play:
    """One circle, and how far it has come."""

    def __init__(self, order: Order, start_ms: int) -> None:
        self.order = order
        self.world = World(
            people=order.people, days=order.days, seed=order.seed, poison=order.poison, start_ms=start_ms
        )
        liars = sum(person.lies for person in self.world.people)
        self.plan = Conspiracy(self.world, order.style, liars)
        self.ledger = Ledger()
        self.clients: list[Client] = []
        self.judges = {"ours": Judge(self.world, self.plan.victims)}
        self.failures: dict[str, str] = {}
        self.unanswered = 0
        self._steps = 0

    @property
    def installations(self) -> list[tuple[Member, Installation]]:
        """Everybody's client programs; liars who are one person have theirs together."""
        return [(person, one) for person in self.world.people for one in person.installations]

    def owners(self) -> list[str]:
        """Whose account each of them uses."""
        one_liar = next((person.name for person in self.world.people if person.lies), "")
        return [
            one_liar if person.lies and self.order.style == "many" else person.name for person, _ in self.installations
        ]

    def vouched(self) -> set[str]:
        """For whom the administrator vouches: some who don't lie, of the people who are hardly ever away."""
        honest = [person for person in self.world.people if not person.lies]
        honest.sort(key=lambda person: -len(person.installations))
        return {person.name for person in honest[:VOUCHED]}

    def connect(self, found: Sequence[Account], target: Target) -> None:
        """Give every client program its application, and the way to the server."""
        liars = 0
        for (person, installation), account in zip(self.installations, found, strict=True):
            client = Client(self.world, person, installation, account, Connection(target))
            client.ledger = self.ledger
            if person.lies:
                client.lies = self.plan.liar(liars)
                liars += 1
            self.clients.append(client)

    async def step(self, now_ms: int) -> None:
        """Let those whose turn it is act, one after the other. Raises SparkleError when the server is not there."""
        self.world.look(now_ms)
        for client in self.clients[self._steps % _PHASES :: _PHASES]:
            await client.turn(now_ms)
            if error := refused(client):
                raise error
        self._steps += 1

    def newest_list(self) -> lists.ListedNetworks | None:
        """The newest list of addresses that a client has, where one has any."""
        return next((client.listed for client in self.clients if client.program.is_modern), None)

    def outcome(self, *, days: float, seconds: float, was_interrupted: bool) -> Played:
        """What came of it."""
        return Played(
            order=self.order,
            days=days,
            clients=len(self.clients),
            programs=len({client.program for client in self.clients}),
            attacked=len(self.plan.victims),
            liars=sum(person.lies for person in self.world.people),
            traffic=self._traffic(),
            verdicts={name: (judge.caught(), judge.harm()) for name, judge in self.judges.items()},
            failures=self.failures,
            seconds=seconds,
            was_interrupted=was_interrupted,
        )

    def _traffic(self) -> Exchanged:
        statuses: Counter[str] = Counter()
        for client in self.clients:
            statuses.update({f"{name} {status}": count for (name, status), count in client.statuses.items()})
        seconds = sorted(one for client in self.clients for one in client.connection.seconds)
        parts = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return Exchanged(
            requests=sum(statuses.values()),
            sent=sum(client.sent for client in self.clients),
            accepted=sum(client.accepted for client in self.clients),
            rejected=sum(client.rejected for client in self.clients),
            unanswered=self.unanswered,
            statuses=dict(sorted(statuses.items())),
            latencies={
                name: seconds[min(int(len(seconds) * part), len(seconds) - 1)] if seconds else 0.0
                for name, part in parts.items()
            },
        )

    async def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            await client.connection.close()


async def play_own(order: Order, progress: Progress) -> tuple[Played, World, set[str]]:
    """Play against a server of one's own on a driven clock, and judge its rules; with the world and the attacked.

    Raises SparkleError when the server fails.
    """
    began, clock = time.monotonic(), DrivenClock(_BEGIN)
    play = Play(order, _BEGIN)
    play.judges |= {
        "Sparkle 1": Judge(play.world, play.plan.victims),
        "Sparkle 3": Judge(play.world, play.plan.victims),
    }
    async with AsyncExitStack() as stack:
        stack.enter_context(few_collections())
        own = await stack.enter_async_context(own_server(order.preset, clock))
        stack.push_async_callback(play.close)
        try:
            play.connect(await own.accounts(play.owners(), play.vouched()), own.target)
            await _fast_days(play, own, clock, progress)
        except Exception:
            # Who interrupts stops the server, in the middle of something perhaps.
            if not own.was_interrupted:
                raise
        play.failures = own.failures
        days = (clock.now_ms - _BEGIN) / DAY_MS
        outcome = play.outcome(days=days, seconds=time.monotonic() - began, was_interrupted=own.was_interrupted)
    return outcome, play.world, play.plan.victims


async def _fast_days(play: Play, own: OwnServer, clock: DrivenClock, progress: Progress) -> None:
    while clock.now_ms < play.world.end_ms and not own.was_interrupted:
        await own.go_on(_STEP_MS)
        await play.step(clock.now_ms)
        if clock.now_ms % HOUR_MS < _STEP_MS:
            _look(play, own, clock.now_ms)
            passed = (clock.now_ms - _BEGIN) / DAY_MS
            progress(passed / play.order.days, f"day {passed:.1f} of {play.order.days:g}")


def _look(play: Play, own: OwnServer, at_ms: int) -> None:
    """Judge what is served now, and every few hours what the originals would have."""
    listed = lists.of_text(own.server.publisher.published.ip_denylist.body)
    play.judges["ours"].look(listed, at_ms)
    if at_ms % _ORIGINALS_MS < HOUR_MS:
        play.judges["Sparkle 1"].look(play.ledger.sparkle_1(at_ms), at_ms)
        play.judges["Sparkle 3"].look(play.ledger.sparkle_3(at_ms), at_ms)


async def play_against(target: Target, token: str, order: Order, progress: Progress) -> tuple[Played, World, set[str]]:
    """Play in real time against any server, until the days are over or somebody interrupts.

    Raises SparkleError when the server is not there or refuses.
    """
    began, start = time.monotonic(), now_ms()
    play = Play(order, start)
    was_interrupted = True
    try:
        play.connect(await accounts.make(target, token, play.owners()), target)
        was_interrupted = await _days(play, progress)
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not play.clients:
            raise
    finally:
        await play.close()
    days = (now_ms() - start) / DAY_MS
    return (
        play.outcome(days=days, seconds=time.monotonic() - began, was_interrupted=was_interrupted),
        play.world,
        play.plan.victims,
    )


async def _days(play: Play, progress: Progress) -> bool:
    due = now_ms()
    while (now := now_ms()) < play.world.end_ms:
        await play.step(now)
        if (listed := play.newest_list()) is not None:
            play.judges["ours"].look(listed, now)
        sent = sum(client.accepted for client in play.clients)
        progress((now - play.world.start_ms) / (play.world.end_ms - play.world.start_ms), f"{sent} rows acknowledged")
        due += _REAL_STEP_MS
        await asyncio.sleep(max(0.0, min(due, play.world.end_ms) - now_ms()) / SECOND_MS)
    return False
