"""What is examined: a configuration, the database that it names, and the server that may run on it.

All is looked at from outside and by reading alone. Each part may be missing or broken; what stands on it is passed
over.
"""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparkle_lite import config as configuration
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.clock import now_ms
from sparkle_lite.config import Config
from sparkle_lite.db import checkup
from sparkle_lite.db.database import Database, is_here
from sparkle_lite.db.lock import is_used
from sparkle_lite.doctor.patience import on_thread
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.rules import operator
from sparkle_lite.settings import Settings

# How long the server and the disk may take to answer (s); the server tries its disk for up to 5 s.
_SERVER_S, _OPEN_S = 7.0, 10.0
_ANSWER_BYTES = 1 << 20
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared, not bound


@dataclass(kw_only=True, slots=True)
class InstalledServer:
    """One installation.

    `mistakes` are those of the configuration, ready lines; `config` is None where it can't be read at all, and what is
    in effect otherwise, settings of pages included. `database` is None where there is none or it can't be opened, which
    `trouble` then says. `is_served`: a server has it. `readiness` is what the server at `url` says of itself, None
    where none answers. `deep`: take the time to read all files.
    """

    path: Path | None
    environ: Mapping[str, str]
    deep: bool
    now_ms: int
    mistakes: tuple[str, ...] = ()
    config: Config | None = None
    database: Database | None = None
    trouble: SparkleError | None = None
    is_served: bool = False
    readiness: Mapping[str, Any] | None = None

    @property
    def url(self) -> str:
        """Where the server should answer on this machine."""
        assert self.config
        host = self.config.server.host
        name = _REACHABLE.get(host, host)
        return f"http://{f'[{name}]' if ':' in name else name}:{self.config.server.port}"


@asynccontextmanager
async def looked_at(path: Path | None, environ: Mapping[str, str], *, deep: bool) -> AsyncIterator[InstalledServer]:
    """The installation that a configuration file (None: the defaults) and the environment describe."""
    place = InstalledServer(path=path, environ=environ, deep=deep, now_ms=now_ms())
    _read_configuration(place)
    async with AsyncExitStack() as stack:
        if place.config is not None:
            await _open_database(place, place.config, stack)
            place.readiness = await _ask_server(place.config)
        yield place


def _read_configuration(place: InstalledServer) -> None:
    load = partial(configuration.load, SCHEMA, place.path, place.environ)
    try:
        place.config = load(check=operator.check)
    except ConfigError as error:
        place.mistakes = error.lines
        try:
            # Its rules may be wrong, and the rest right.
            place.config = load()
        except ConfigError:
            return


async def _open_database(place: InstalledServer, config: Config, stack: AsyncExitStack) -> None:
    file = config.database.file
    try:
        async with asyncio.timeout(_OPEN_S):
            if not await on_thread(partial(is_here, file)):
                return
            place.is_served = await on_thread(partial(is_used, file))
            uri = await on_thread(partial(checkup.look_uri, file, served=place.is_served))
            database = Database(file, still=True, uri=uri)
            await database.open()
            stack.push_async_callback(database.close)
            given = configuration.given(SCHEMA, place.path, place.environ)
            settings = Settings(database, Audit(database, now_ms), config, given)
            await settings.load()
    except SparkleError as error:
        place.trouble = error
    except TimeoutError:
        place.trouble = SparkleError("timeout", "doctor.no_disk", path=file)
    else:
        place.database, place.config = database, settings.config


async def _ask_server(config: Config) -> Mapping[str, Any] | None:
    """What a server says of its readiness; None where none answers, or something else does."""
    host = _REACHABLE.get(config.server.host, config.server.host)
    try:
        async with asyncio.timeout(_SERVER_S):
            return await on_thread(partial(_readiness, host, config.server.port))
    except (OSError, ValueError, http.client.HTTPException, TimeoutError):
        return None


def _readiness(host: str, port: int) -> Mapping[str, Any] | None:
    connection = http.client.HTTPConnection(host, port, timeout=_SERVER_S)
    try:
        connection.request("GET", "/readyz")
        answer = json.loads(connection.getresponse().read(_ANSWER_BYTES))
    finally:
        connection.close()
    return answer if isinstance(answer, dict) and "rules_published" in answer else None
