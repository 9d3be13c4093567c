"""A client's way to a server in the same process, against the way over a socket."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from sparkle_lite import config
from sparkle_lite.accounts.actors import COMMAND_LINE
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.app import Application
from sparkle_lite.http.lifecycle import HttpServer
from sparkle_lite.server import running
from sparkle_lite.simulation.client import Account
from sparkle_lite.simulation.connection import Connection, ServerReply, target_of
from sparkle_lite.simulation.in_process import InProcess
from sparkle_lite.simulation.programs import PROGRAMS, Program, head_bytes
from sparkle_lite.simulation.rows import Transfer, snapshot

HOST, ADDRESS = "127.0.0.1:7799", "198.51.100.9"
FORWARDED = f"X-Forwarded-For: {ADDRESS}"


async def conversation(connection: Connection, program: Program, account: Account, port: int) -> list[ServerReply]:
    """A program asks for this and that, tells of a peer, and where it comes from."""
    asked = [
        head_bytes([*program.head("GET", path, HOST, account), FORWARDED], lower=program.transport == "reqwest")
        for path in ("/ping/config", "/ping/rules/retrieve?rev=", "/ping/nothing")
    ]
    peer = Transfer(ip="203.0.113.5", port=port, info_hash="ab" * 20, size=1 << 30)
    bodies = {
        "/ping/peers/submit": {"peers": [snapshot(program, peer)] * 50},
        "/ping/heartbeat": {"ifaddr": "default"},
    }
    for path, document in bodies.items():
        asked.append(program.request(path, HOST, account, program.encode(document), (FORWARDED,)))
    return [await connection.exchange(request) for request in asked]


async def both_ways(folder: Path, program: Program) -> tuple[list[ServerReply], list[ServerReply]]:
    """The same conversation in the process and over a socket."""
    path = folder / "config.toml"
    path.write_text('[server]\ntrusted_proxies = ["127.0.0.0/8"]\n')
    application = Application(partial(running, config.load(SCHEMA, path, {})))
    ready = asyncio.Event()
    http = HttpServer(application, port=0, on_ready=lambda _: ready.set())
    serving = asyncio.create_task(http.serve())
    await asyncio.wait_for(ready.wait(), 30)
    try:
        server = application.parts
        made = await server.apps.add((await server.users.named("admin")).id, "a client", COMMAND_LINE)
        account, over = Account(made.userapp.app_id, made.secret), Connection(target_of(http.url))
        inside = await conversation(InProcess(application), program, account, 1)
        outside = await conversation(over, program, account, 2)
        await over.close()
    finally:
        http.stop()
        await serving
    return inside, outside


@pytest.mark.parametrize("name", {program.family: program.name for program in PROGRAMS.values()}.values())
def test_it_is_answered_as_over_a_socket(tmp_path: Path, name: str) -> None:
    inside, outside = asyncio.run(both_ways(tmp_path, PROGRAMS[name]))
    assert [reply.status for reply in inside] == [200, 200, 404, 200, 200]
    assert [(reply.status, reply.body) for reply in inside] == [(reply.status, reply.body) for reply in outside]
    assert ADDRESS.encode() in inside[-1].body
    # What the server of the socket adds.
    added = {"date", "connection", "keep-alive"}
    for one, other in zip(inside, outside, strict=True):
        assert one.headers == {key: value for key, value in other.headers.items() if key not in added}
