"""Servers to test against: one for all tests that only add to it, and a fresh one where the state matters."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browser import launch
from hypothesis import settings
from reports import World
from server import App, RunningServer, start_server

# Commands speak the language of whoever calls them.
os.environ["LC_ALL"] = "C.UTF-8"

# Many applications share the machine's one user, and slow senders are cut off soon.
SHARED = """
[auth]
max_apps_per_user = 100000
[limits]
body_timeout = "2s"
requests_per_minute = 0
"""


# On a busy machine any example may take a while; what must be quick has a benchmark.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many times tests that kill servers at random moments do so."""
    parser.addoption("--kills", type=int, default=3, help="how many times each test of kills kills a server")


def pytest_xdist_auto_num_workers() -> int:
    """How many processes test side by side: two more than there are CPUs, since most tests wait for a server."""
    return (os.cpu_count() or 1) + 2


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How many times a test kills a server."""
    return int(request.config.getoption("--kills"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a file; they are skipped where there is none."""
    driver, browser = launch()
    yield browser
    browser.close()
    driver.stop()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests and fixtures that are coroutines run on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that bring an application of their own and change nothing else."""
    with start_server(tmp_path_factory.mktemp("shared"), SHARED) as server:
        yield server


@pytest.fixture
def app(shared: RunningServer) -> App:
    """An application on the shared server that no other test uses."""
    return shared.add_app()


@pytest.fixture(scope="session")
def anyone(shared: RunningServer) -> App:
    """An application on the shared server for tests that tell their rows apart by themselves."""
    return shared.add_app()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts a fresh server, which ends with the test; takes what start_server takes."""
    with ExitStack() as stack:

        def begin(config_text: str = "", **more: Any) -> RunningServer:
            return stack.enter_context(start_server(tmp_path / "server", config_text, **more))

        yield begin


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world to analyse that the test fills."""
    world = World(tmp_path)
    await world.open()
    yield world
    world.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no settings from the environment."""
    for name in [name for name in os.environ if name.startswith("SPARKLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
