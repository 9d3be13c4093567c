"""A site to fetch files from, whose answers are byte for byte what a test says they are."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

# What is sent one after the other: bytes, or for how long (s) nothing is; None holds the connection open.
Part = bytes | float | None


class Asked(NamedTuple):
    """A request as it came: its target as written, and its headers by names in lower case."""

    target: str
    headers: dict[str, str]


class Site:
    """Answers GET by the target; what isn't known is 404. `asked` keeps the requests, `open` counts connections.

    With a `greeting` it sends that at once, and answers nothing.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[Part]] = {}
        self.asked: list[Asked] = []
        self.open = 0
        self.port = 0
        self.greeting: bytes | None = None

    def says(self, target: str, *parts: Part) -> None:
        """What is sent for a target, head and all."""
        self.answers[target] = parts

    def gives(self, target: str, body: bytes, *headers: str, status: str = "200 OK") -> None:
        """A whole answer for a target."""
        self.says(target, head(*headers, f"Content-Length: {len(body)}", status=status), body)

    def redirects(self, target: str, location: str, status: str = "302 Found") -> None:
        """A redirect, whatever the location."""
        self.gives(target, b"moved", f"Location: {location}", status=status)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which brings one request."""
        self.open += 1
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.greeting is not None:
            writer.write(self.greeting)
            await reader.read()
            return
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        target = first.split(" ")[1]
        pairs = (line.split(": ", 1) for line in lines)
        self.asked.append(Asked(target, {name.lower(): value for name, value in pairs}))
        missing = (head("Content-Length: 0", status="404 Not Found"),)
        for part in self.answers.get(target, missing):
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            elif part is None:
                await reader.read()
            else:
                await asyncio.sleep(part)

    async def until_left(self) -> None:
        """Until every connection has been closed by the other side."""
        async with asyncio.timeout(10):
            while self.open:
                await asyncio.sleep(0.01)


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "")).encode("latin-1")


@asynccontextmanager
async def open_site(context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Site]:
    """A site on a free port of this machine."""
    site = Site()
    server = await asyncio.start_server(site.handle, host, 0, ssl=context)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
        await site.until_left()
    finally:
        server.close()
        await server.wait_closed()
