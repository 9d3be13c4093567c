"""A server of the simulation's own: real in everything but its clock, in a folder that goes with it.

It runs in this process, behind its real HTTP on a loopback port, because a clock can be driven in one process only. Its
periodic jobs are run one after the other whenever the driven clock says that they are due, so that nothing depends on
how fast the machine is; analyses run in this process too, which spares a start of Python for each.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from sparkle_lite import config as configuration
from sparkle_lite.accounts.actors import COMMAND_LINE
from sparkle_lite.analyses import worker
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.app import Application
from sparkle_lite.clock import DrivenClock, driven_by
from sparkle_lite.config import Preset
from sparkle_lite.http.lifecycle import HttpServer
from sparkle_lite.server import Server, running
from sparkle_lite.simulation.client import Account
from sparkle_lite.simulation.connection import Target
from sparkle_lite.units import HOUR_S, SECOND_MS

# A simulation looks at nothing more often than this; what a server does every quarter of a second it does as often.
_SHORTEST_S = 300
# The analyses are most of the work; every two hours instead of every one delays a listing by half an hour.
_ANALYSE_S = 2 * HOUR_S
_ABILITIES = (
    *("submit_peers", "submit_bans", "submit_histories", "submit_swarm"),
    *("rules", "exception", "rule_peer_identity", "ip_denylist", "ip_allowlist"),
)


def intervals(told: str, asked: str, *others: str, more: str = "") -> str:
    """The configuration of how often clients tell and ask, with `others` of the abilities and `more` keys of each."""
    return "".join(
        f'[btn.abilities.{name}]\ninterval = "{told if name.startswith("submit") else asked}"\n{more}'
        for name in (*_ABILITIES, *others)
    )


def config_text(preset: Preset) -> str:
    """The configuration of the simulation's server: its people come from many addresses over one machine."""
    return (
        '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n'
        '[database]\nsynchronous = "normal"\n'
        "[auth]\nmax_apps_per_user = 100\n"
        "[limits]\nrequests_per_minute = 0\n"
        f'[analysis]\npreset = "{preset}"\n{intervals("30m", "1h")}'
    )


class OwnServer:
    """A running server whose clock is driven; `failures` are the jobs that failed."""

    def __init__(self, server: Server, http: HttpServer, clock: DrivenClock) -> None:
        self.server = server
        self.failures: dict[str, str] = {}
        self._http = http
        self._clock = clock
        self._periods = {name: max(period, _SHORTEST_S) for name, period in server.jobs.periods.items()}
        self._periods["analyse"] = _ANALYSE_S
        self._due = {name: clock.now_ms + int(after * SECOND_MS) for name, after in server.jobs.firsts.items()}

    @property
    def target(self) -> Target:
        """Where it listens."""
        return Target("http", "127.0.0.1", int(self._http.url.rpartition(":")[2]))

    @property
    def was_interrupted(self) -> bool:
        """Whether the user or the system wants an end: the HTTP server hears of it first."""
        return self._http.should_exit

    async def accounts(self, names: list[str], vouched: Collection[str]) -> list[Account]:
        """An application each for people of these names, some `vouched` for; a name that comes again has several."""
        users: dict[str, int] = {}
        found = []
        for number, name in enumerate(names):
            if name not in users:
                users[name] = (await self.server.users.add(name, "user", COMMAND_LINE, vouched=name in vouched)).id
            made = await self.server.apps.add(users[name], f"simulated client {number + 1}", COMMAND_LINE)
            found.append(Account(made.userapp.app_id, made.secret))
        return found

    async def go_on(self, milliseconds: int) -> None:
        """Let time pass, and run every job that became due, in the order in which they are scheduled."""
        self._clock.go_on(milliseconds)
        jobs, now = self.server.jobs, self._clock.now_ms
        for name, period in self._periods.items():
            if now >= self._due[name]:
                self._due[name] = now + int(period * SECOND_MS)
                await jobs.run_now(name)
        self.failures.update(jobs.failed)


@asynccontextmanager
async def own_server(preset: Preset, clock: DrivenClock) -> AsyncIterator[OwnServer]:
    """A server for as long as the block lasts; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="sparkle-simulation-") as name, driven_by(clock):
        path = Path(name) / "config.toml"
        path.write_text(config_text(preset), "utf-8")
        application = Application(partial(running, configuration.load(SCHEMA, path, {})))
        ready = asyncio.Event()
        http = HttpServer(application, port=0, on_ready=lambda _: ready.set())
        serving = asyncio.create_task(http.serve(), name="the simulation's server")
        try:
            await _wait_for(ready, serving)
            if http.should_exit:
                raise KeyboardInterrupt
            server = application.parts
            await server.jobs.stop()
            server.analyses.ask = worker.answer
            yield OwnServer(server, http, clock)
        finally:
            http.stop()
            await asyncio.gather(serving, return_exceptions=True)


async def _wait_for(ready: asyncio.Event, serving: "asyncio.Task[None]") -> None:
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((waiting, serving), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not ready.is_set():
        # Raises what stopped it; without that it was interrupted.
        await serving
