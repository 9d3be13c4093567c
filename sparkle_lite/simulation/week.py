"""A week of a small circle, played in seconds: its clients' reports, and what its people do besides (`scenes`).

It is played on a driven clock that ends now, straight to a server without sockets, because whoever waits for it wants
to look at what came of it. The same clients go on in real time afterwards.
"""

import asyncio
import logging
from collections.abc import Callable
from random import Random

from sparkle_lite.accounts.secrets import Credentials
from sparkle_lite.analyses import worker
from sparkle_lite.app import create_app
from sparkle_lite.clock import DrivenClock, driven_by, now_ms
from sparkle_lite.config import Config
from sparkle_lite.server import Server, running
from sparkle_lite.simulation.in_process import Asgi, InProcess
from sparkle_lite.simulation.scenes import STEPS, Stage, play_scenes, send_faulty_rows
from sparkle_lite.simulation.world import World, few_collections
from sparkle_lite.units import DAY_MS

PEOPLE, DAYS = 8, 7
# Chosen among some: its people have clients of most families, and its bad peers are of every kind.
_SEED = 20
# In a step, which takes such shares of an hour, every second client has its turn; each has one in about two hours.
_PHASES = 2
_SHARES = 0.6, 1.4
# How often (steps) the periodic jobs run that the week needs; all of them run at its end too. Who waits for the week
# need not wait for its files to be indexed: the server that comes up on it begins with that.
_JOBS = {"access": 6, "trouble": 6, "publish": 12, "roll": 6, "seen": 24, "protection": 24, "analyse": 30}
# In real time clients ask and tell one after the other, at this pace (s) and so many rows at a time: something happens
# every few seconds, and yet the hours that follow the week look like those in it.
_PACE_S, _PAGE = 4.0, 1
logger = logging.getLogger("sparkle.demo")


async def play_week(config: Config, developer: Credentials, is_stopping: Callable[[], bool]) -> Stage:
    """Fill the database of a configuration with a week that ends now; who can go on afterwards.

    `developer` is what the application of somebody who develops a client is to have. The week ends early where
    everything is stopping. Raises SparkleError when the server fails.
    """
    start = now_ms() - DAYS * DAY_MS
    clock = DrivenClock(start)
    with driven_by(clock), few_collections():
        async with running(config) as server:
            await server.jobs.stop()
            # A process of its own for each analysis would take longer than the analysis.
            server.analyses.ask = worker.answer
            world = World(people=PEOPLE, days=DAYS, seed=_SEED, poison=0, start_ms=start)
            stage = await Stage.set(server, world, InProcess(create_app(server)), developer)
            random = Random(_SEED)
            for step in range(STEPS):
                left_ms = (world.end_ms - clock.now_ms) // (STEPS - step)
                clock.go_on(left_ms if step == STEPS - 1 else int(left_ms * random.uniform(*_SHARES)))
                await _play_step(stage, step, clock.now_ms)
                for name, steps in _JOBS.items():
                    if step % steps == steps - 1:
                        await server.jobs.run_now(name)
                if is_stopping():
                    break
            await _end(server)
    return stage


async def _play_step(stage: Stage, step: int, at_ms: int) -> None:
    if step % _PHASES == 0:
        stage.world.look(at_ms)
    await asyncio.gather(*(client.turn(at_ms) for client in stage.clients[step % _PHASES :: _PHASES]))
    await play_scenes(stage, step)


async def _end(server: Server) -> None:
    for name in (*_JOBS, "tidy", "activity", "size"):
        await server.jobs.run_now(name)
    if server.jobs.failed:
        raise RuntimeError(f"the week went wrong: {server.jobs.failed}")


async def go_on(stage: Stage, application: Asgi) -> None:
    """Let the clients of a week go on in real time, one request every few seconds, for as long as this runs."""
    stage.connection = InProcess(application, _PACE_S)
    for client in stage.clients:
        client.move(stage.connection, page=_PAGE)
    while True:
        for client in stage.clients:
            # Whoever is off has no request to wait for.
            await asyncio.sleep(1)
            stage.world.look(now_ms())
            try:
                await client.turn(now_ms())
            except Exception:
                logger.exception("a simulated client had a fault, and goes on")
        await send_faulty_rows(stage)
